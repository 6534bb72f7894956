"""Which frames of a video become a clip: windows in seconds, and frames within a window. No pixels."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch

FRAME_ORDERS = ("time", "shuffled", "first", "last")
FRAME_SPACINGS = ("time", "index")

Seconds = float | Fraction
"""A time in seconds; a `Fraction` where it must be exact."""


class Window(NamedTuple):
    """Seconds of a video, from `start` (included) to `end` (excluded)."""

    start: Seconds
    end: Seconds


def clip_duration(num_frames: int, sampling_rate: int, fps: float) -> Fraction:
    """Seconds that `num_frames` frames cover at one frame every `sampling_rate` frames of a `fps` video."""
    return num_frames * sampling_rate / Fraction(fps)


class Pause(NamedTuple):
    """A frame shown for longer than a window lasts; no window starts in its first `excess` seconds."""

    start: Seconds
    excess: Fraction


def pauses(times: Sequence[Seconds], video_duration: Fraction, longest: Fraction) -> list[Pause]:
    """The frames shown for more than `longest` seconds, the duration of a window."""
    starts = np.append(np.asarray(times, dtype=float), float(video_duration))
    frames = np.flatnonzero(np.diff(starts) > float(longest))
    found = []
    for n in frames.tolist():
        end = times[n + 1] if n + 1 < len(times) else video_duration
        found.append(Pause(times[n], Fraction(end) - Fraction(times[n]) - longest))
    return found


def random_window(
    video_duration: Fraction, duration: Fraction, generator: torch.Generator, without: Sequence[Pause] = ()
) -> Window:
    """A window of `duration` seconds at a uniformly random place; a shorter video starts at 0."""
    latest_start = _latest_start(video_duration, duration, without)
    return _window(latest_start * Fraction(torch.rand((), generator=generator).item()), duration, without)


def uniform_windows(
    video_duration: Fraction, duration: Fraction, num_windows: int, without: Sequence[Pause] = ()
) -> list[Window]:
    """Windows of `duration` seconds that start at 0, 1/n, 2/n, … of the latest possible start.

    TimeSformer's test clips and pytorchvideo's constant sampler. A video shorter than the window gives the
    same window `num_windows` times.
    """
    latest_start = _latest_start(video_duration, duration, without)
    return [_window(latest_start * n / num_windows, duration, without) for n in range(num_windows)]


def _latest_start(video_duration: Fraction, duration: Fraction, without: Sequence[Pause]) -> Fraction:
    """Latest start of a window, in seconds without the `excess` of pauses."""
    return max(video_duration - sum(pause.excess for pause in without) - duration, Fraction(0))


def _window(start: Seconds, duration: Fraction, without: Sequence[Pause]) -> Window:
    """The window at `start`, which is in seconds without the `excess` of pauses."""
    for pause in without:
        if start > pause.start:
            start += pause.excess
    return Window(start, start + duration)


def frames_in(times: Sequence[Seconds], window: Window) -> range:
    """Indices of the frames that appear within the window, or of the one shown at its start if none does.

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
    spacing: str = "time",
    short: str = "spread",
) -> list[int]:
    """Choose the `num_frames` frames of a clip.

    Args:
        times: when each frame of the video appears, ascending.
        order: one of `FRAME_ORDERS`.
        generator: needed for the order `shuffled` and for jitter.
        jitter: a random frame of each of `num_frames` equal segments, instead of even spacing.
        spacing: one of `FRAME_SPACINGS`: even spacing in time if the frame rate varies (`time`), or always by
            frame number, TimeSformer's rule (`index`). At a constant rate both are equal.
        short: in a video that ends before the window does, spread the frames over what
            there is (`spread`), or repeat the last one in place of those past its end, TimeSformer's rule
            (`last`).

    Returns:
        Indices into `times`.
    """
    frames = frames_in(times, window)
    draw = generator if jitter else None
    missing = _past_the_end(times, frames, window) if short == "last" else 0
    if missing:
        chosen = clip_frame_indices(len(frames) + missing, num_frames, draw)
        chosen = chosen.clamp(max=len(frames) - 1) + frames.start
    elif spacing == "time" and not _is_steady(times, frames):
        chosen = _frames_by_time(times, frames, window, num_frames, draw)
    else:
        chosen = clip_frame_indices(len(frames), num_frames, draw) + frames.start
    return order_frames(chosen, order, generator).tolist()


def _past_the_end(times: Sequence[Seconds], frames: range, window: Window) -> int:
    """How many frames the window would hold after the video's last one, at the video's mean rate."""
    if frames.stop < len(times) or len(times) < 2:
        return 0
    step = (times[-1] - times[0]) / (len(times) - 1)
    return max(round((window.end - times[-1]) / step) - 1, 0)


def _is_steady(times: Sequence[Seconds], frames: range) -> bool:
    """Whether the frames, and one to either side, lie within half a step of even spacing."""
    seconds = _seconds(times, max(frames.start - 1, 0), frames.stop + 1)
    even = np.linspace(seconds[0], seconds[-1], len(seconds))
    return len(seconds) < 3 or bool(np.all(abs(seconds - even) < (even[1] - even[0]) / 2))


def _frames_by_time(
    times: Sequence[Seconds], frames: range, window: Window, num_frames: int, jitter: torch.Generator | None
) -> torch.Tensor:
    """The frames on screen at evenly spaced moments, from the window's start to the start of its last frame.

    That frame starts no earlier than the shortest frame's duration before the window's end, unless the video
    ends there. With jitter each moment is drawn from its own of `num_frames` equal segments.
    """
    first = max(bisect_right(times, window.start) - 1, 0)
    seconds = _seconds(times, first, frames.stop + 1)
    shortest = np.diff(seconds).min()
    start, last = max(float(window.start), seconds[0]), float(times[frames.stop - 1])
    end = max(last + shortest, float(window.end)) if frames.stop < len(times) else last + shortest
    if jitter is None:
        moments = np.linspace(start, end - shortest, num_frames)
    else:
        draws = torch.rand(num_frames, generator=jitter, dtype=torch.float64).numpy()
        moments = start + (np.arange(num_frames) + draws) * (end - start) / num_frames
    on_screen = first + np.searchsorted(seconds, moments, side="right") - 1
    return torch.from_numpy(on_screen).clamp(max=frames.stop - 1)


def _seconds(times: Sequence[Seconds], start: int, stop: int) -> np.ndarray:
    return np.array([float(time) for time in times[start:stop]])


def clip_frame_indices(
    available: int, num_frames: int, jitter: torch.Generator | None = None
) -> torch.Tensor:
    """Choose `num_frames` of the `available` frames of a window; a short window repeats frames.

    Evenly spaced from the first to the last (TimeSformer's rule) or, with a generator, one at random from
    each of `num_frames` equal segments.

    Returns:
        (num_frames,) int64, ascending.
    """
    positions = torch.arange(num_frames)
    if jitter is None:
        # In integers: a float linspace may land just under a whole number and floor to the frame before.
        return positions * (available - 1) // max(num_frames - 1, 1)
    places = positions + torch.rand(num_frames, generator=jitter, dtype=torch.float64)
    return (places * available / num_frames).long().clamp(max=available - 1)


def segment_frames(
    available: int, num_frames: int, view: Fraction = Fraction(1, 2), jitter: torch.Generator | None = None
) -> torch.Tensor:
    """One frame of each of `num_frames` equal segments of a whole video: TimeSformer's rule for SSv2.

    Args:
        view: how far into its segment each frame is; one half is the test's.
        jitter: draw each frame instead, as in training.

    Returns:
        (num_frames,) int64, ascending.
    """
    size = (available - 1) / num_frames
    bounds = torch.round(size * torch.arange(num_frames + 1, dtype=torch.float64)).long()
    start, length = bounds[:-1], bounds.diff()
    if jitter is None:
        return start + length * view.numerator // view.denominator
    draws = torch.rand(num_frames, generator=jitter, dtype=torch.float64)
    return start + (draws * (length + 1)).long()


def order_frames(indices: torch.Tensor, order: str, generator: torch.Generator | None) -> torch.Tensor:
    """Keep the frames in time order, or remove motion: shuffle them, or repeat the first or last one.

    A task that is solved with `shuffled`, `first` or `last` does not need motion.
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
