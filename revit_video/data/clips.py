"""From a video or image file to views: open, sample, decode, then augment or crop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from revit_video.data.sampling import (
    Seconds,
    Window,
    order_frames,
    pauses,
    pick,
    random_window,
    segment_frames,
    uniform_windows,
)
from revit_video.data.transforms import TrainTransform, spatial_crops, squashed
from revit_video.data.video import LIMITS, Limits, VideoFile, decode_errors, is_image

DECODING_BACKENDS = ("pyav", "decord")


@dataclass(frozen=True)
class ClipSampling:
    """Which frames make a clip, in training and in evaluation.

    Attributes:
        duration: seconds, see `sampling.clip_duration`.
        frame_order: one of `sampling.FRAME_ORDERS`.
        frame_spacing: one of `sampling.FRAME_SPACINGS`.
        backend: one of `DECODING_BACKENDS`.
        short_videos: `spread` or `last`, see `sampling.pick`.
        sampling: from a `window` of `duration`, or from the whole video, one of each of `num_frames` equal
            segments (`uniform`), a random one in training.
        limits: of every file.
    """

    num_frames: int
    duration: Fraction
    frame_order: str = "time"
    backend: str = "pyav"
    frame_spacing: str = "time"
    short_videos: str = "spread"
    sampling: str = "window"
    limits: Limits = LIMITS

    def random_window(self, video: VideoFile, generator: torch.Generator) -> Window:
        """The window of a training clip."""
        if self.sampling == "uniform":
            return Window(0, video.duration)
        still = pauses(video.times, video.duration, self.duration)
        return random_window(video.duration, self.duration, generator, still)

    def training_frames(
        self, times: Sequence[Seconds], window: Window, jitter: bool, generator: torch.Generator
    ) -> list[int]:
        """The frames of a training clip; `jitter` as in `sampling.pick`."""
        if self.sampling == "uniform":
            chosen = segment_frames(len(times), self.num_frames, jitter=generator)
            return order_frames(chosen, self.frame_order, generator).tolist()
        return self.pick(times, window, generator, jitter)

    def clips(
        self, video: VideoFile, num_clips: int, generator: torch.Generator | None
    ) -> tuple[list[int], list[float]]:
        """The frames of `num_clips` clips, one clip after the other, and the second at which each starts."""
        if self.sampling == "uniform":
            views = [Fraction(2 * n + 1, 2 * num_clips) for n in range(num_clips)]
            chosen = [segment_frames(len(video.times), self.num_frames, view) for view in views]
            ordered = [order_frames(frames, self.frame_order, generator) for frames in chosen]
            return torch.cat(ordered).tolist(), [float(video.times[int(frames[0])]) for frames in chosen]
        still = pauses(video.times, video.duration, self.duration)
        windows = uniform_windows(video.duration, self.duration, num_clips, still)
        picked = [n for window in windows for n in self.pick(video.times, window, generator)]
        return picked, [float(window.start) for window in windows]

    def pick(
        self,
        times: Sequence[Seconds],
        window: Window,
        generator: torch.Generator | None = None,
        jitter: bool = False,
    ) -> list[int]:
        """The frames of a window, see `sampling.pick`."""
        order, spacing = self.frame_order, self.frame_spacing
        return pick(times, window, self.num_frames, order, generator, jitter, spacing, self.short_videos)


@dataclass(frozen=True)
class ViewGrid:
    """The views of a video in evaluation: evenly spaced clips x square crops, or whole frames.

    Attributes:
        crop_size: side of the crops in pixels.
        scale: short side in pixels that the crops are cut from, at least `crop_size`; 0 for the crop's own.
        squash: scale whole frames to a square instead; then the number of crops is 1.
    """

    crop_size: int
    num_clips: int = 1
    num_crops: int = 1
    scale: int = 0
    squash: bool = False

    @property
    def num_views(self) -> int:
        """Views per video."""
        return self.num_clips * self.num_crops


@dataclass
class VideoViews:
    """V = clips x crops views of one video, clip-major: clip 0's crops, clip 1's crops, …"""

    clips: Tensor  # uint8 (V, C, T, H, W)
    starts: Tensor  # (V,) start of the view's clip in seconds
    clip_index: Tensor  # (V,)
    crops: Tensor  # (V,) index of the crop
    boxes: Tensor | None = None  # (V, 4) see `TrainTransform`; None in evaluation

    @classmethod
    def none(cls, num_frames: int, size: int) -> VideoViews:
        """The views of an unreadable video."""
        index = torch.zeros(0, dtype=torch.long)
        return cls(torch.zeros(0, 3, num_frames, size, size, dtype=torch.uint8), torch.zeros(0), index, index)

    def __len__(self) -> int:
        return len(self.clips)


def open_video(path: str, backend: str = "pyav", limits: Limits = LIMITS) -> VideoFile:
    """Open a video with one of `DECODING_BACKENDS`, or an image where the file's name ends like one's.

    Raises:
        DecodeError: the file is missing, damaged, holds no video, or asks for more than the limits.
        ValueError: unknown backend.
    """
    # Each decoder is imported by the first file that needs it: `import revit_video.predict` needs none.
    if is_image(path):
        from revit_video.data.images import ImageFile

        return ImageFile(path, limits)
    if backend == "pyav":
        from revit_video.data.pyav_video import PyAVVideo

        return PyAVVideo(path, limits)
    if backend == "decord":
        from revit_video.data.decord_video import DecordVideo

        return DecordVideo(path, limits)
    raise ValueError(f"unknown decoding backend {backend!r}; there is {', '.join(DECODING_BACKENDS)}")


def train_view(
    path: str, sampling: ClipSampling, transform: TrainTransform, jitter: bool, generator: torch.Generator
) -> VideoViews:
    """One augmented clip from a random place of a video, or an image; every draw comes from `generator`.

    Args:
        jitter: draw the frames too, see `sampling.pick`.

    Raises:
        DecodeError: the file cannot be read.
    """
    with decode_errors(path, sampling.limits):
        with closing(open_video(path, sampling.backend, sampling.limits)) as video:
            window = sampling.random_window(video, generator)
            short_side = transform.draw_short_side(generator)
            frames = sampling.training_frames(video.times, window, jitter, generator)
            clip = video.read(frames, short_side)
        clip, box = transform(clip, generator)
        return VideoViews(
            clips=clip.unsqueeze(0),
            starts=torch.tensor([float(window.start)]),
            clip_index=torch.zeros(1, dtype=torch.long),
            crops=torch.zeros(1, dtype=torch.long),
            boxes=torch.tensor([box]),
        )


def eval_views(
    path: str, sampling: ClipSampling, grid: ViewGrid, generator: torch.Generator | None = None
) -> VideoViews:
    """All views of a video, or an image; nothing is random but the frame order "shuffled".

    Args:
        generator: for that frame order.

    Raises:
        DecodeError: the file cannot be read.
    """
    with (
        decode_errors(path, sampling.limits),
        closing(open_video(path, sampling.backend, sampling.limits)) as video,
    ):
        return views_of(video, sampling, grid, generator)


def views_of(
    video: VideoFile, sampling: ClipSampling, grid: ViewGrid, generator: torch.Generator | None = None
) -> VideoViews:
    """All views of an opened video, see `eval_views`."""
    frames, starts = sampling.clips(video, grid.num_clips, generator)
    # One pass through the file for all clips.
    clips = video.read(frames, grid.scale or grid.crop_size).split(sampling.num_frames, dim=1)
    if grid.squash:
        clips = [squashed(clip, grid.crop_size) for clip in clips]
    return VideoViews(
        clips=torch.cat([spatial_crops(clip, grid.crop_size, grid.num_crops) for clip in clips]),
        starts=torch.tensor(starts).repeat_interleave(grid.num_crops),
        clip_index=torch.arange(grid.num_clips).repeat_interleave(grid.num_crops),
        crops=torch.arange(grid.num_crops).repeat(grid.num_clips),
    )
