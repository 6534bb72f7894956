"""One growing clock for a video's frames, from what the container says of its packets.

- Frames are shown in the order of their presentation times, those of one time a tick apart. Where the
  container holds none, and where it claims that a codec with B-frames shows its frames in decoding order,
  frames are counted as the decoder returns them. A stream without any times, or with one for each group of
  frames (MPEG program streams), has a frame every 1 / frame rate.
- Times that start again (joined recordings) go on after the latest time before.
- A pause of more than 10 s, and of more than 10 usual frames, is no picture that stays so long but a jump of
  the clock, as for ffmpeg: the next frame follows after one usual frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from revit_video.data.packets import UNKNOWN, PacketIndex

# Seconds: ffmpeg's dts_delta_threshold.
_LONGEST_PAUSE = 10
_LONGEST_PAUSE_FRAMES = 10

# Decoding times may step back by so many seconds, as in ffmpeg; presentation times by so many frames, because
# of B-frames.
_STEP_BACK = 0.1
_STEP_BACK_FRAMES = 16

# Packets to either side whose times bracket that of a packet without one.
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Timeline:
    """The F frames of a stream in the order in which they are shown.

    Attributes:
        ticks: (F,) int64, when each appears, ascending from 0.
        time_base: seconds of a tick.
        frame_of: (P,) the frame that each packet holds, -1 for none; not known before decoding where frames
            `are_counted`.
        are_counted: packets do not tell frames: they are numbered as the decoder returns them.
        last_duration: seconds that the last frame is shown.
    """

    ticks: np.ndarray
    time_base: Fraction
    frame_of: np.ndarray
    are_counted: bool
    last_duration: Fraction

    @property
    def times(self) -> FrameTimes:
        """Seconds at which each frame appears."""
        return FrameTimes(self.ticks, self.time_base)

    def starting_at(self, frame: int) -> Timeline:
        """The same without the frames before `frame`."""
        ticks = self.ticks[frame:] - self.ticks[frame]
        return replace(self, ticks=ticks, frame_of=np.maximum(self.frame_of - frame, -1))


class FrameTimes(Sequence[Fraction]):
    """Ticks as exact seconds; a long video's are not all made at once."""

    def __init__(self, ticks: np.ndarray, time_base: Fraction) -> None:
        self._ticks, self._time_base = ticks, time_base

    def __len__(self) -> int:
        return len(self._ticks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return FrameTimes(self._ticks[index], self._time_base)
        return int(self._ticks[index]) * self._time_base

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return (self._ticks * float(self._time_base)).astype(dtype or float)


def timeline(
    packets: PacketIndex, time_base: Fraction, frame_rate: Fraction, has_b_frames: bool, has_pts: bool
) -> Timeline:
    """Decide when each frame is shown.

    Args:
        frame_rate: for streams that state no frame durations.
        has_b_frames: the decoder may return frames in another order than their packets'.
        has_pts: the container stores presentation times; without, decoding times are used, which are the
            frames' in the order shown, but for a constant delay.
    """
    shown = ~packets.is_discard
    usual = 1 / (frame_rate * time_base)
    last = packets.last_duration or usual
    frame_of = np.full(len(packets), -1)
    # Of two fields of a frame, the second may have none.
    has_pts = has_pts and 3 * int((packets.pts[shown] != UNKNOWN).sum()) > int(shown.sum())
    stamps = _with_holes_filled(packets.pts, shown) if has_pts else packets.dts
    timed = shown & (stamps != UNKNOWN)
    if not timed.any() or _has_times_of_groups(stamps, packets.dts, shown, usual):
        ticks = np.array([round(n * last) for n in range(np.count_nonzero(shown))], dtype=np.int64)
        return Timeline(ticks, time_base, frame_of, True, last * time_base)
    stamps = _without_restarts(stamps[timed], packets.dts[timed], time_base)
    order, numbers = np.argsort(stamps, kind="stable"), np.arange(len(stamps))
    in_decoding_order = len(stamps) > 1 and bool(np.all(np.diff(stamps) >= 0))
    has_twins = bool(np.any(np.diff(stamps[order]) == 0))  # of B-frames, either may be shown first
    ticks = np.maximum.accumulate(stamps[order] - numbers) + numbers
    frame_of[np.flatnonzero(timed)[order]] = numbers
    are_counted = not has_pts or (has_b_frames and (in_decoding_order or has_twins))
    ticks, pause = _without_pauses(ticks, time_base)
    last = last if pause is None or last <= pause[0] else pause[1]
    return Timeline(ticks - ticks[0], time_base, frame_of, are_counted, last * time_base)


def _with_holes_filled(pts: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Times in decoding order; a packet without one gets a time that is left out near its neighbours.

    If none is left out there, it holds no frame of its own but the second field of one.
    """
    known = pts[shown & (pts != UNKNOWN)]
    if len(known) in (0, np.count_nonzero(shown)):
        return pts
    times, pts = np.unique(known), pts.copy()
    steps = np.diff(times)
    usual = _usual(steps)
    gaps = np.flatnonzero((steps > 1.5 * usual) & (steps < _LONGEST_PAUSE_FRAMES * usual))
    holes = [time for n in gaps for time in range(times[n] + usual, times[n + 1] - usual // 2, usual)]
    for packet in np.flatnonzero(shown & (pts == UNKNOWN)):
        around = pts[max(packet - _NEIGHBOURS, 0) : packet + _NEIGHBOURS + 1]
        around = around[around != UNKNOWN]
        near = [time for time in holes if len(around) and around.min() < time < around.max()]
        if len(near) == 1:  # of several it is not known which
            pts[packet] = near[0]
            holes.remove(near[0])
    return pts


def _has_times_of_groups(stamps: np.ndarray, dts: np.ndarray, shown: np.ndarray, usual: Fraction) -> bool:
    """Whether packets without a time hold frames; else each holds the second field of one.

    Between two times there are then as many usual frames as packets, else half as many.
    """
    if not np.any(shown & (stamps == UNKNOWN)):
        return False
    clock = stamps if np.all(dts == UNKNOWN) else dts  # in decoding order, where there is one
    known = np.flatnonzero(shown & (clock != UNKNOWN))
    if len(known) == 1:
        return int(np.count_nonzero(shown)) > 2
    packets, steps = np.diff(np.cumsum(shown)[known]), np.diff(clock[known])
    in_frames = steps / float(usual)
    in_group = (packets > 1) & (in_frames > 0) & (in_frames < _LONGEST_PAUSE_FRAMES * packets)
    return bool(in_frames[in_group].sum() > 0.75 * packets[in_group].sum())


def _without_restarts(stamps: np.ndarray, dts: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Times in decoding order, each stretch after a step back moved behind the latest time before it."""
    has_dts = bool(np.all(dts != UNKNOWN))
    clock = dts if has_dts else stamps
    steps = np.diff(clock)
    usual = _usual(steps)
    allowed = _STEP_BACK / time_base if has_dts else max(_STEP_BACK / time_base, _STEP_BACK_FRAMES * usual)
    restarts = np.flatnonzero(steps < -allowed) + 1
    if not len(restarts):
        return stamps
    parts = np.split(stamps, restarts)
    for before, part in zip(parts, parts[1:], strict=False):
        part += before.max() + usual - part.min()
    return np.concatenate(parts)


def _without_pauses(ticks: np.ndarray, time_base: Fraction) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Close long pauses; also the (longest, usual) ticks of a frame, None where there is only one."""
    steps = np.diff(ticks)
    if not len(steps):
        return ticks, None
    usual = _usual(steps)
    longest = max(int(_LONGEST_PAUSE / time_base), _LONGEST_PAUSE_FRAMES * usual)
    excess = np.where(steps > longest, steps - usual, 0)
    return ticks - np.concatenate([[0], np.cumsum(excess)]), (longest, usual)


def _usual(steps: np.ndarray) -> int:
    """The median of the steps ahead; 1 if there is none."""
    ahead = steps[steps > 0]
    return int(np.median(ahead)) if len(ahead) else 1
