from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler

from revit_video.data.sampling import (
    Window,
    clip_duration,
    clip_frame_indices,
    frames_in,
    order_frames,
    pauses,
    pick,
    random_window,
    segment_frames,
    uniform_windows,
)
from revit_video.runtime.rng import seeded_generator


def test_clip_duration_is_exact():
    assert clip_duration(8, 32, 30.0) == Fraction(8 * 32, 30)


@pytest.mark.parametrize(
    ("available", "num_frames", "expected"),
    [
        (16, 4, [0, 5, 10, 15]),
        (256, 8, [0, 36, 72, 109, 145, 182, 218, 255]),
        (8, 8, list(range(8))),
        (3, 5, [0, 0, 1, 1, 2]),
        (1, 4, [0, 0, 0, 0]),
        (10, 1, [0]),
    ],
)
def test_even_spacing_by_hand(available, num_frames, expected):
    assert clip_frame_indices(available, num_frames).tolist() == expected


@pytest.mark.parametrize("available", [1, 3, 8, 50])
def test_jitter_takes_one_frame_of_each_segment(available):
    segments = torch.arange(8)
    seen = set()
    for seed in range(200):
        indices = clip_frame_indices(available, 8, seeded_generator(seed))
        assert (indices >= segments * available // 8).all()
        assert (indices <= ((segments + 1) * available - 1) // 8).all()
        seen.update(indices.tolist())
    assert seen == set(range(available))


def test_frame_orders():
    indices = torch.tensor([2, 5, 7, 9])
    generator = seeded_generator(0)
    assert order_frames(indices, "time", generator).tolist() == [2, 5, 7, 9]
    assert order_frames(indices, "first", generator).tolist() == [2] * 4
    assert order_frames(indices, "last", generator).tolist() == [9] * 4
    shuffles = {tuple(order_frames(indices, "shuffled", generator).tolist()) for _ in range(300)}
    assert len(shuffles) == 24 and all(sorted(order) == [2, 5, 7, 9] for order in shuffles)
    with pytest.raises(ValueError, match="time, shuffled, first, last"):
        order_frames(indices, "backwards", generator)


def test_random_windows_fill_the_video_and_follow_the_generator():
    windows = [random_window(Fraction(10), Fraction(2), seeded_generator(seed)) for seed in range(300)]
    starts = [window.start for window in windows]
    assert 0 <= min(starts) < 0.2 and 7.8 < max(starts) <= 8
    assert all(window.end == window.start + 2 for window in windows)
    assert random_window(Fraction(10), Fraction(2), seeded_generator(7)) == windows[7]
    assert random_window(Fraction(1), Fraction(2), seeded_generator(7)).start == 0


def test_uniform_windows_by_hand():
    windows = uniform_windows(Fraction(10), Fraction(2), 4)
    assert windows == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [window.start for window in uniform_windows(Fraction(1), Fraction(2), 3)] == [0, 0, 0]


@pytest.mark.parametrize("seconds", [Fraction(1), Fraction(301, 30), Fraction(100, 7)])
def test_uniform_windows_are_those_of_pytorchvideos_sampler(seconds):
    sampler = ConstantClipsPerVideoSampler(Fraction(32, 15), 5)
    theirs = [sampler(0, seconds, {})[:2] for _ in range(5)]
    assert uniform_windows(seconds, Fraction(32, 15), 5) == theirs


def test_frames_in_a_window_by_hand():
    times = [0, Fraction(1, 3), 1, 2]
    assert frames_in(times, Window(0, 1)) == range(0, 2), "the end is excluded"
    assert frames_in(times, Window(Fraction(1, 3), 1.5)) == range(1, 3), "the start is included"
    assert frames_in(times, Window(1.25, 1.75)) == range(2, 3), "the one on screen"
    assert frames_in(times, Window(5, 6)) == range(3, 4)


def test_picked_frames_lie_in_the_window():
    times = [Fraction(n, 10) for n in range(50)]
    window = Window(Fraction(2), Fraction(3))
    assert pick(times, window, 4) == [20, 23, 26, 29]
    assert pick(times, window, 3, "last") == [29, 29, 29]
    for seed in range(20):
        jittered = pick(times, window, 5, "time", seeded_generator(seed), jitter=True)
        assert all(20 + 2 * n <= frame < 22 + 2 * n for n, frame in enumerate(jittered))
        assert sorted(pick(times, window, 4, "shuffled", seeded_generator(seed))) == [20, 23, 26, 29]


VARIABLE = [0, 0.16, 0.36, 0.52, 0.68, 0.88, 3.0, 8.0]  # a phone's slow frames, then two stills


def test_where_the_rate_varies_frames_are_evenly_spaced_in_time():
    whole = Window(0, Fraction(256, 30))
    assert [VARIABLE[n] for n in pick(VARIABLE, whole, 5)] == [0, 0.88, 3, 3, 8]
    assert pick(VARIABLE, whole, 8, spacing="index") == list(range(8))
    middle = pick(VARIABLE, Window(0.4, 4.4), 5)  # at 0.4, 1.36, 2.32, 3.28, 4.24 s
    assert [VARIABLE[n] for n in middle] == [0.36, 0.88, 0.88, 3, 3], "the one on screen at the start too"
    for seed in range(50):
        jittered = [
            VARIABLE[n] for n in pick(VARIABLE, Window(0, 4), 4, "time", seeded_generator(seed), True)
        ]
        assert all(
            shown <= n + 1 and next((t for t in VARIABLE if t > shown), 9) >= n
            for n, shown in enumerate(jittered)
        )


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("ticks_per_second", [1000, 90000])
def test_at_a_constant_rate_both_spacings_are_the_same(fps, ticks_per_second):
    """Also where the container rounds times, to milliseconds in Matroska."""
    times = [Fraction(round(n / fps * ticks_per_second), ticks_per_second) for n in range(400)]
    for seed in range(20):
        window = random_window(times[-1], Fraction(5), seeded_generator(seed))
        for num_frames in (1, 4, 8, 16):
            assert pick(times, window, num_frames) == pick(times, window, num_frames, spacing="index")
        jittered = [
            pick(times, window, 8, "time", seeded_generator(seed), True, spacing)
            for spacing in ("time", "index")
        ]
        assert jittered[0] == jittered[1]


def test_no_window_is_one_picture_that_stays():
    """A frame every 0.1 s for 2 s, one that stays for 5 s, 2 s more, and a last one that stays for 4 s."""
    times = [Fraction(n, 10) for n in [*range(21), *range(70, 91)]]
    end, duration = Fraction(13), Fraction(1)
    still = pauses(times, end, duration)
    assert still == [(2, 4), (9, 3)]
    windows = [random_window(end, duration, seeded_generator(seed), still) for seed in range(300)]
    windows += uniform_windows(end, duration, 30, still)
    assert all(any(window.start <= time < window.end for time in times) for window in windows)
    starts = [float(window.start) for window in windows]
    assert not any(2 < start <= 6 for start in starts) and max(starts) <= 9
    assert any(6 < start < 7 for start in starts) and any(start > 8.5 for start in starts)
    assert pauses(times, end, Fraction(8)) == pauses([0], Fraction(0), duration) == []


# ---- As TimeSformer does it ------------------------------------------------------------------------------


def test_the_last_frame_stands_for_those_past_the_end() -> None:
    """TimeSformer clamps indices: of 150 frames at 30 per second, for a window of 256."""
    times, window = [Fraction(n, 30) for n in range(150)], Window(0, Fraction(256, 30))
    assert pick(times, window, 8, short="last") == [0, 36, 72, 109, 145, 149, 149, 149]
    assert pick(times, window, 8) == clip_frame_indices(150, 8).tolist()
    jittered = pick(times, window, 8, "time", seeded_generator(0), True, short="last")
    assert jittered[:4] == sorted(jittered[:4]) and jittered[5:] == [149] * 3
    whole = Window(Fraction(1, 60), Fraction(5))
    assert pick(times, whole, 8, short="last") == pick(times, whole, 8), "the window ends with the video"
    assert pick([Fraction(0)], window, 3, short="last") == [0, 0, 0]


@pytest.mark.parametrize("available", [1, 2, 5, 8, 17, 60, 301])
def test_segments_are_those_of_timesformers_code(available: int) -> None:
    """Its data set for Something-Something v2, rewritten with numpy."""
    size = float(available - 1) / 8
    bounds = [(int(np.round(size * n)), int(np.round(size * (n + 1)))) for n in range(8)]
    assert segment_frames(available, 8).tolist() == [(start + end) // 2 for start, end in bounds]
    seen = [set[int]() for _ in range(8)]
    for seed in range(200):
        drawn = segment_frames(available, 8, jitter=seeded_generator(seed)).tolist()
        for frame, (start, end), own in zip(drawn, bounds, seen, strict=True):
            assert start <= frame <= end
            own.add(frame)
    if available <= 60:
        assert seen == [set(range(start, end + 1)) for start, end in bounds]
    first, second = (segment_frames(available, 8, Fraction(n, 4)) for n in (1, 3))
    assert (first <= second).all() and (available < 17 or (first < second).all())
