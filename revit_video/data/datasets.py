"""Map-style datasets of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import Dataset

from revit_video.data.batch import Sample, Skipped, VideoViews
from revit_video.data.clips import ClipSampling, ViewGrid, eval_views, train_view
from revit_video.data.isolate import Isolated
from revit_video.data.token_labels import TokenLabelMaps
from revit_video.data.transforms import TrainTransform
from revit_video.data.video import DecodeError
from revit_video.runtime.rng import seeded_generator

_MAX_TRIES = 10


class TrainClips(Dataset[Sample]):
    """`clips[epoch, row]` is one augmented clip of video `row`, a function of `(seed, epoch, row)` alone.

    The number of workers and the order of the calls do not affect its pixels. An unreadable video is replaced
    by another one and listed in the sample's `skipped`; after ten in a row the sample is empty.

    Args:
        timeout: seconds that decoding a video may take, in a child process (0: no limit); None decodes in
            this process, which then shares a decoder's crash.
        label_maps: of images; an image whose map cannot be read is unreadable.
    """

    def __init__(
        self,
        videos: LabeledVideoPaths,
        sampling: ClipSampling,
        transform: TrainTransform,
        frame_jitter: bool = False,
        seed: int = 0,
        timeout: float | None = None,
        label_maps: TokenLabelMaps | None = None,
    ) -> None:
        self.videos = videos
        self._label_maps = label_maps
        self._sampling = sampling
        self._transform = transform
        self._frame_jitter = frame_jitter
        self._seed = seed
        self._decode = _decoder(self._view, len(videos), _num_bytes(sampling, transform.crop_size), timeout)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        skipped: list[Skipped] = []
        for attempt, row in enumerate(self._candidates(*key)):
            path, annotation = self.videos[row]
            try:
                label_map = self._label_maps.read(path) if self._label_maps else None
                views = self._decode(row, path, *key, attempt)
                return Sample(views, annotation["label"], row, path, skipped, label_map)
            except DecodeError as error:
                skipped.append(Skipped(error.path, error.reason))
        nothing = VideoViews.none(self._sampling.num_frames, self._transform.crop_size)
        return Sample(nothing, annotation["label"], row, path, skipped)

    def _candidates(self, epoch: int, row: int) -> Iterator[int]:
        """The video itself, then its replacements."""
        yield row
        generator = seeded_generator(self._seed, epoch, row, _MAX_TRIES)
        for _ in range(_MAX_TRIES - 1):
            yield int(torch.randint(len(self.videos), (), generator=generator))

    def _view(self, path: str, epoch: int, row: int, attempt: int) -> VideoViews:
        # One generator per attempt: the draws of a failed attempt must not affect the next one.
        generator = seeded_generator(self._seed, epoch, row, attempt)
        return train_view(path, self._sampling, self._transform, self._frame_jitter, generator)


class EvalClips(Dataset[Sample]):
    """`clips[row]` is all views of video `row`, deterministically.

    An unreadable video gives a sample without views and is listed in its `skipped`.

    Args:
        timeout: as in `TrainClips`.
    """

    def __init__(
        self,
        videos: LabeledVideoPaths,
        sampling: ClipSampling,
        grid: ViewGrid,
        timeout: float | None = None,
    ) -> None:
        self.videos = videos
        self._sampling, self._grid = sampling, grid
        largest = _num_bytes(sampling, grid.crop_size, grid.num_views)
        self._decode = _decoder(self._views, len(videos), largest, timeout)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Sample:
        path, annotation = self.videos[row]
        skipped: list[Skipped] = []
        try:
            views = self._decode(row, path, row)
        except DecodeError as error:
            views = VideoViews.none(self._sampling.num_frames, self._grid.crop_size)
            skipped.append(Skipped(error.path, error.reason))
        return Sample(views, annotation["label"], row, path, skipped)

    def _views(self, path: str, row: int) -> VideoViews:
        return eval_views(path, self._sampling, self._grid, seeded_generator(row))


def _decoder(
    decode: Callable[..., VideoViews],
    num_videos: int,
    largest: int,
    timeout: float | None,
) -> Callable[..., VideoViews]:
    """`decode(path, ...)` as a function of `(row, path, ...)`, in a child process if `timeout` is given."""
    if timeout is None or not Isolated.is_possible():
        return partial(_here, decode)
    return Isolated(decode, num_videos, largest, timeout)


def _num_bytes(sampling: ClipSampling, crop_size: int, num_views: int = 1) -> int:
    """Size of a video's uint8 views."""
    return num_views * 3 * sampling.num_frames * crop_size**2


def _here(decode: Callable[..., VideoViews], row: int, *arguments: Any) -> VideoViews:
    return decode(*arguments)
