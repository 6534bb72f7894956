"""Times of frames from tables of packets small enough to check by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from revit_video.data.packets import UNKNOWN, PacketIndex
from revit_video.data.timeline import Timeline, timeline

MILLISECONDS = Fraction(1, 1000)


def index(pts: list[int | None], dts: list[int | None] | None = None, **fields: object) -> PacketIndex:
    def stamps(values: list[int | None]) -> np.ndarray:
        return np.array([UNKNOWN if value is None else value for value in values])

    count = len(pts)
    return PacketIndex(
        stamps(pts),
        stamps(dts or list(range(0, 40 * count, 40))),
        position=np.arange(count),
        size=np.ones(count),
        **({"is_key": np.zeros(count, bool), "is_discard": np.zeros(count, bool)} | fields),
    )


def of(packets: PacketIndex, b_frames: bool = False, has_pts: bool = True) -> Timeline:
    return timeline(packets, MILLISECONDS, Fraction(25), b_frames, has_pts)


def test_frames_are_shown_in_the_order_of_their_times():
    line = of(index([80, 200, 120, 160], last_duration=30), b_frames=True)
    assert list(line.times) == [0, Fraction(4, 100), Fraction(8, 100), Fraction(12, 100)]
    assert line.frame_of.tolist() == [0, 3, 1, 2] and not line.are_counted
    assert line.last_duration == Fraction(3, 100)
    assert line.times[-1] == line.times[3] and list(line.times[1:3]) == [Fraction(4, 100), Fraction(8, 100)]


@pytest.mark.parametrize(("b_frames", "counted"), [(True, True), (False, False)])
def test_a_codec_with_b_frames_does_not_show_its_frames_in_decoding_order(b_frames, counted):
    line = of(index([0, 40, 80, 120]), b_frames)
    assert line.are_counted == counted and line.ticks.tolist() == [0, 40, 80, 120]


def test_without_presentation_times_those_of_decoding_count():
    assert of(index([None] * 3, [7, 47, 87])).ticks.tolist() == [0, 40, 80]
    assert of(index([200, 0, 80], [7, 47, 87]), has_pts=False).ticks.tolist() == [0, 40, 80]
    assert of(index([None] * 3, [7, 47, 87])).are_counted


def test_without_any_times_the_frame_rate_counts():
    raw = index([None] * 3, [None] * 3)
    assert of(raw).ticks.tolist() == [0, 40, 80] and of(raw).are_counted
    assert of(index([None] * 3, [None] * 3, last_duration=50)).ticks.tolist() == [0, 50, 100]


@pytest.mark.parametrize("jump", [-5000, -400, 60_000, 3_600_000])
def test_times_that_start_again_or_jump_go_on(jump):
    """With B-frames; the second part's delay differs, too."""
    first, second = [40, 160, 80, 120], [80, 120, 240, 160, 200]
    starts = 160 + jump
    packets = index(
        first + [starts + time for time in second],
        [0, 40, 80, 120] + [starts + time for time in (40, 80, 120, 160, 200)],
    )
    line = of(packets, b_frames=True)
    assert line.ticks.tolist() == list(range(0, 360, 40))
    assert line.frame_of.tolist() == [0, 3, 1, 2, 4, 5, 8, 6, 7]


def test_only_long_pauses_are_jumps():
    stills = [0, 160, 360, 520, 680, 880, 3000, 8000]
    assert of(index(stills, stills)).ticks.tolist() == stills
    slides = list(range(0, 150_000, 15_000))
    assert of(index(slides, slides, last_duration=15_000)).ticks.tolist() == slides
    last = of(index([0, 40, 80], last_duration=120_000))
    assert last.last_duration == Fraction(4, 100)


def test_a_packet_without_a_time_gets_the_one_left_out():
    line = of(index([0, 120, 40, None, 240, 160, 200], [None] * 7))
    assert line.ticks.tolist() == list(range(0, 280, 40)) and line.frame_of.tolist() == [0, 3, 1, 2, 6, 4, 5]
    fields = of(index([0, None, 40, None, 80, None], [0, None, 40, None, 80, None]))
    assert fields.ticks.tolist() == [0, 40, 80] and fields.frame_of.tolist() == [0, -1, 1, -1, 2, -1]


@pytest.mark.parametrize("restart", [0, 5000])
def test_times_of_groups_leave_no_frame_out(restart):
    """As in MPEG program streams, two of them joined: the first frame of each group has a time."""
    times = [0, None, None, 120, None, 200, None, None, None]
    second = [time if time is None else time + restart for time in times]
    line = of(index(times + second, times + second), b_frames=True)
    assert line.are_counted and line.ticks.tolist() == list(range(0, 18 * 40, 40))
    assert of(index([0, None, None], [0, None, None])).ticks.tolist() == [0, 40, 80]


def test_frames_of_one_time_are_a_tick_apart():
    line = of(index([0, 40, 40, 40, 41, 120]))
    assert line.ticks.tolist() == [0, 40, 41, 42, 43, 120] and line.frame_of.tolist() == list(range(6))


def test_what_an_edit_list_cuts_off_is_not_shown():
    line = of(index([0, 40, 80], is_discard=np.array([True, False, False])))
    assert line.ticks.tolist() == [0, 40] and line.frame_of.tolist() == [-1, 0, 1]
