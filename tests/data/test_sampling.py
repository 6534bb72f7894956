from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from revit_video.data.sampling import (
    RandomClips,
    clip_duration,
    clip_frame_indices,
    order_frames,
    seeded_generator,
    uniform_clips,
)


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


def test_random_clips_fill_the_video_and_follow_the_generator():
    starts = [
        RandomClips(Fraction(2), seeded_generator(seed))(0, Fraction(10), {}).clip_start_sec
        for seed in range(300)
    ]
    assert 0 <= min(starts) < 0.2 and 7.8 < max(starts) <= 8
    again = RandomClips(Fraction(2), seeded_generator(7))(0, Fraction(10), {})
    assert again.clip_start_sec == starts[7] and again.clip_end_sec == starts[7] + 2
    assert RandomClips(Fraction(2), seeded_generator(7))(0, Fraction(1), {}).clip_start_sec == 0


def test_uniform_clips_by_hand():
    clips = uniform_clips(Fraction(2), 4, Fraction(10))
    assert [(c.clip_start_sec, c.clip_end_sec) for c in clips] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [c.clip_index for c in clips] == [0, 1, 2, 3]
    assert [c.clip_start_sec for c in uniform_clips(Fraction(2), 3, Fraction(1))] == [0, 0, 0]


def test_neighbouring_keys_give_unrelated_streams():
    draws = [
        torch.rand(1000, generator=seeded_generator(0, epoch, row)) for epoch in (0, 1) for row in (0, 1)
    ]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert correlation.abs().max() < 0.15
