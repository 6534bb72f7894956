"""Which frames of a video become a clip: windows in seconds, and frames within a window. No pixels."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch

FRAME_ORDERS = ("time", "shuffled", "first", "last")

Seconds = float | Fraction
"""A time; a `Fraction` where a frame's start must be met exactly."""


class Window(NamedTuple):
    """Seconds of a video, from `start` (included) to `end` (excluded)."""

    start: Seconds
    end: Seconds


def clip_duration(num_frames: int, sampling_rate: int, fps: float) -> Fraction:
    """Seconds that `num_frames` frames cover at one frame every `sampling_rate` frames of a `fps` video."""
    return num_frames * sampling_rate / Fraction(fps)


def random_window(video_duration: Fraction, duration: Fraction, generator: torch.Generator) -> Window:
    """A window of `duration` seconds at a uniformly random place; a shorter video starts at 0."""
    latest_start = max(video_duration - duration, Fraction(0))
    start = latest_start * Fraction(torch.rand((), generator=generator).item())
    return Window(start, start + duration)


def uniform_windows(video_duration: Fraction, duration: Fraction, num_windows: int) -> list[Window]:
    """Windows of `duration` seconds that start at 0, 1/n, 2/n, … of the latest possible start.

    TimeSformer's test clips and pytorchvideo's constant sampler. A video shorter than the window gives the
    same window `num_windows` times.
    """
    latest_start = max(video_duration - duration, Fraction(0))
    starts = [latest_start * n / num_windows for n in range(num_windows)]
    return [Window(start, start + duration) for start in starts]


def frames_in(times: Sequence[Seconds], window: Window) -> range:
    """Indices of the frames that appear within the window; where none does, the one on screen at its start.

    Args:
        times: when each frame appears, ascending.
    """
    first, stop = bisect_left(times, window.start), bisect_left(times, window.end)
    if first < stop:
        return range(first, stop)
    on_screen = max(bisect_right(times, window.start) - 1, 0)
    return range(on_screen, on_screen + 1)


def pick(
    times: Sequence[Seconds],
    window: Window,
    num_frames: int,
    order: str = "time",
    generator: torch.Generator | None = None,
    jitter: bool = False,
) -> list[int]:
    """Choose the `num_frames` frames of a clip.

    Args:
        times: when each frame of the video appears, ascending.
        order: one of `FRAME_ORDERS`.
        generator: needed for the order `shuffled` and for jitter.
        jitter: a random frame of each of `num_frames` equal segments, instead of even spacing.

    Returns:
        Indices into `times`.
    """
    frames = frames_in(times, window)
    indices = clip_frame_indices(len(frames), num_frames, generator if jitter else None)
    return [frames[n] for n in order_frames(indices, order, generator).tolist()]


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
