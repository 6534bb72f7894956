"""Windows over the whole of a long video, in one pass, one window at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from revit_video.data.clips import ClipSampling, ViewGrid
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.sampling import Seconds, Window
from revit_video.data.transforms import spatial_crops
from revit_video.data.video import DecodeError, decode_errors
from revit_video.runtime.termination import start_worker

TIMEOUT = 120.0  # seconds without the next windows, after which a file counts as unreadable


@dataclass
class WindowViews:
    """Some windows of a video, in order.

    Attributes:
        clips: uint8 (windows x crops, C, T, H, W), the crops of a window adjacent.
        spans: (windows, 2) start and end in seconds.
        duration: of the video, in seconds.
    """

    clips: Tensor
    spans: Tensor
    duration: float


def windows_over(duration: Fraction, window: Seconds, stride: Seconds) -> list[Window]:
    """Windows every `stride` seconds; the last one ends with the video, a short video is one window."""
    window, stride = Fraction(window), Fraction(stride)
    latest = duration - window
    if latest <= 0:
        return [Window(Fraction(0), duration)]
    starts = [stride * n for n in range(int(latest / stride) + 1)]
    if starts[-1] < latest:
        starts.append(latest)
    return [Window(start, start + window) for start in starts]


def stream_windows(
    path: str,
    sampling: ClipSampling,
    grid: ViewGrid,
    window: Seconds,
    stride: Seconds,
    at_once: int,
    timeout: float = TIMEOUT,
) -> Iterator[WindowViews]:
    """The windows of a video, decoded in a worker process ahead of whoever takes them.

    Args:
        at_once: windows in each of the results.
        timeout: seconds in which the next of them must come.

    Raises:
        DecodeError: the file cannot be read, its decoder crashed or did not go on.
    """
    loader: DataLoader = DataLoader(
        _Windows(path, sampling, grid, window, stride, at_once),
        batch_size=None,
        num_workers=1,
        timeout=timeout,
        worker_init_fn=partial(start_worker, os.getpid()),
    )
    try:
        for part in loader:
            if isinstance(part, DecodeError):
                raise part
            yield part
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        how = f"went no further for {timeout:g} s" if "timed out" in str(error) else "crashed"
        raise DecodeError(path, f"its decoder {how}") from error


class _Windows(IterableDataset):
    """See `stream_windows`; an error of the file is the last element."""

    def __init__(
        self,
        path: str,
        sampling: ClipSampling,
        grid: ViewGrid,
        window: Seconds,
        stride: Seconds,
        at_once: int,
    ) -> None:
        self._path, self._sampling, self._grid = path, sampling, grid
        self._window, self._stride, self._at_once = window, stride, at_once

    def __iter__(self) -> Iterator[WindowViews | DecodeError]:
        try:
            with decode_errors(self._path), closing(PyAVVideo(self._path)) as video:
                yield from self._parts(video)
        except DecodeError as error:
            yield error

    def _parts(self, video: PyAVVideo) -> Iterator[WindowViews]:
        windows = windows_over(video.duration, self._window, self._stride)
        clips, waiting = self._clips(video, windows), list[Tensor]()
        for n, clip in enumerate(clips, start=1):
            waiting.append(spatial_crops(clip, self._grid.crop_size, self._grid.num_crops))
            if len(waiting) == self._at_once or n == len(windows):
                spans = torch.tensor([[float(w.start), float(w.end)] for w in windows[n - len(waiting) : n]])
                yield WindowViews(torch.cat(waiting), spans, float(video.duration))
                waiting = []

    def _clips(self, video: PyAVVideo, windows: list[Window]) -> Iterator[Tensor]:
        """The clip of each window, uint8 (C, T, H, W); pictures are kept as long as windows need them."""
        picks = [self._sampling.pick(video.times, window, None) for window in windows]
        wanted = sorted({n for frames in picks for n in frames})
        pictures: dict[int, np.ndarray] = {}
        done = 0
        for number, picture in video.stream(wanted, self._grid.scale or self._grid.crop_size):
            pictures[number] = picture
            while done < len(picks) and max(picks[done]) <= number:
                clip = np.stack([pictures[n] for n in picks[done]])
                yield torch.from_numpy(clip).permute(3, 0, 1, 2)
                done += 1
                first = min(picks[done]) if done < len(picks) else 0
                pictures = {n: kept for n, kept in pictures.items() if n >= first}
