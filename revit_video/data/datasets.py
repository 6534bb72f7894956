"""Map-style datasets of clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import Dataset

from revit_video.data.batch import Sample, Skipped
from revit_video.data.clips import ClipSampling, VideoViews, ViewGrid, eval_views, train_view
from revit_video.data.isolate import isolated
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
        classes: of the model, where labels are tuples.

    Attributes:
        largest: bytes of a sample's clips.
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
        classes: int = 0,
    ) -> None:
        self.videos, self._classes = videos, classes
        self._sampling, self._transform, self._frame_jitter = sampling, transform, frame_jitter
        self._seed, self._label_maps = seed, label_maps
        self._nothing = VideoViews.none(sampling.num_frames, transform.crop_size)
        self.largest = 3 * sampling.num_frames * transform.crop_size**2
        self._decode = isolated(self._read, len(videos), self.largest, timeout, sampling.limits)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        skipped: list[Skipped] = []
        for attempt, row in enumerate(self._candidates(*key)):
            path, annotation = self.videos[row]
            try:
                label_map = torch.from_numpy(self._decode(row, path)) if self._label_maps else None
                views = self._decode(row, path, *key, attempt)
                return Sample(views, target_of(annotation, self._classes), row, path, skipped, label_map)
            except DecodeError as error:
                skipped.append(Skipped(error.path, error.reason))
        return Sample(self._nothing, target_of(annotation, self._classes), row, path, skipped)

    def _candidates(self, epoch: int, row: int) -> Iterator[int]:
        """The video itself, then its replacements."""
        yield row
        generator = seeded_generator(self._seed, epoch, row, _MAX_TRIES)
        for _ in range(_MAX_TRIES - 1):
            yield int(torch.randint(len(self.videos), (), generator=generator))

    def _read(self, _: int, path: str, *draw: int) -> Any:
        """The view of this `draw`; without one, the label map."""
        if not draw and self._label_maps:
            return self._label_maps.read(path).numpy()  # of whose kind no memory is shared
        return self._view(path, *draw)

    def _view(self, path: str, epoch: int, row: int, attempt: int) -> VideoViews:
        # One generator per attempt: the draws of a failed attempt must not affect the next one.
        generator = seeded_generator(self._seed, epoch, row, attempt)
        return train_view(path, self._sampling, self._transform, self._frame_jitter, generator)


class EvalClips(Dataset[Sample]):
    """`clips[row]` is all views of video `row`, deterministically.

    An unreadable video gives a sample without views and is listed in its `skipped`.

    Args:
        timeout, classes: as in `TrainClips`.

    Attributes:
        largest: bytes of a sample's clips.
    """

    def __init__(
        self,
        videos: LabeledVideoPaths,
        sampling: ClipSampling,
        grid: ViewGrid,
        timeout: float | None = None,
        classes: int = 0,
    ) -> None:
        self.videos, self._classes = videos, classes
        self._sampling, self._grid = sampling, grid
        self._nothing = VideoViews.none(sampling.num_frames, grid.crop_size)
        self.largest = grid.num_views * 3 * sampling.num_frames * grid.crop_size**2
        self._decode = isolated(self._views, len(videos), self.largest, timeout, sampling.limits)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Sample:
        path, annotation = self.videos[row]
        target = target_of(annotation, self._classes)
        try:
            return Sample(self._decode(row, path), target, row, path)
        except DecodeError as error:
            return Sample(self._nothing, target, row, path, [Skipped(error.path, error.reason)])

    def _views(self, row: int, path: str) -> VideoViews:
        return eval_views(path, self._sampling, self._grid, seeded_generator(row))


def target_of(annotation: Mapping[str, Any], classes: int) -> int | Tensor:
    """A video's label; of several labels `(classes,)`, true for each."""
    label = annotation["label"]
    if not isinstance(label, tuple):
        return label
    target = torch.zeros(classes, dtype=torch.bool)
    target[list(label)] = True
    return target
