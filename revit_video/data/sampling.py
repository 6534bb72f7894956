"""Which moments of a video become a clip: windows in seconds, frame indices in a window. No pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from pytorchvideo.data.clip_sampling import ClipInfo, ConstantClipsPerVideoSampler, RandomClipSampler

FRAME_ORDERS = ("time", "shuffled", "first", "last")


def seeded_generator(*key: int) -> torch.Generator:
    """A generator whose numbers depend on the whole key: streams of neighbouring keys are unrelated."""
    entropy = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(entropy[0]))


def clip_duration(num_frames: int, sampling_rate: int, fps: float) -> Fraction:
    """Seconds that `num_frames` frames cover at one frame every `sampling_rate` frames of a `fps` video."""
    return num_frames * sampling_rate / Fraction(fps)


class RandomClips(RandomClipSampler):
    """One window at a uniformly random place of the video.

    Modifications: the draw comes from an explicit generator, not from `random`'s global state, so that
    a clip depends neither on the worker that draws it nor on what was drawn before.
    """

    def __init__(self, clip_duration: Fraction, generator: torch.Generator) -> None:
        super().__init__(clip_duration)
        self._generator = generator

    def __call__(
        self, last_clip_time: float, video_duration: Fraction, annotation: dict[str, Any]
    ) -> ClipInfo:
        latest_start = max(video_duration - self._clip_duration, 0)
        start = latest_start * Fraction(torch.rand((), generator=self._generator).item())
        return ClipInfo(start, start + self._clip_duration, 0, 0, True)


def uniform_clips(clip_duration: Fraction, num_clips: int, video_duration: Fraction) -> list[ClipInfo]:
    """The `num_clips` windows of one video that pytorchvideo's constant sampler visits.

    They start at 0, 1/n, 2/n, … of the latest possible start (TimeSformer's test clips do the same);
    a video shorter than the clip gives the same window `num_clips` times.
    """
    sampler = ConstantClipsPerVideoSampler(clip_duration, num_clips)
    return [sampler(0, video_duration, {}) for _ in range(num_clips)]


def clip_frame_indices(
    available: int, num_frames: int, jitter: torch.Generator | None = None
) -> torch.Tensor:
    """Choose `num_frames` of the `available` frames of a window.

    Without a generator they are evenly spaced and hold the first and the last (TimeSformer's rule); with
    one, each is drawn from its own of `num_frames` equal segments. A short window repeats frames.

    Returns:
        (num_frames,) int64, ascending.
    """
    positions = torch.arange(num_frames)
    if jitter is None:
        # In integers: a float linspace may land just under a whole number and floor to the frame before.
        return positions * (available - 1) // max(num_frames - 1, 1)
    places = positions + torch.rand(num_frames, generator=jitter, dtype=torch.float64)
    return (places * available / num_frames).long().clamp(max=available - 1)


def order_frames(indices: torch.Tensor, order: str, generator: torch.Generator | None) -> torch.Tensor:
    """Leave the frames in time order, or take motion away: shuffle them, or repeat the first or last one.

    A task that is still solved with `shuffled`, `first` or `last` does not need motion.
    """
    if order == "time":
        return indices
    if order == "shuffled":
        return indices[torch.randperm(len(indices), generator=generator)]
    if order == "first":
        return indices[:1].expand(len(indices))
    if order == "last":
        return indices[-1:].expand(len(indices))
    raise ValueError(f"unknown frame order {order!r}; there is {', '.join(FRAME_ORDERS)}")
