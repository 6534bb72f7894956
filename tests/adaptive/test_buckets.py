"""Buckets lose no clip, mix none up, and never run more than they may."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from revit_video.adaptive.engine import Buckets, Group
from revit_video.length import TokenLength, token_lengths

LENGTHS = token_lengths([4, 3, 2])


class Recorder:
    """A model whose logits name the clip and the length it was read at."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, clips: Tensor, length: TokenLength) -> Tensor:
        self.sizes.append(len(clips))
        return torch.stack([clips.flatten(), torch.full((len(clips),), float(length.h))], dim=1)


def clips_of(rows: Tensor) -> Tensor:
    return rows.view(-1, 1, 1, 1, 1).float()


def taken(groups: Iterator[Group]) -> Iterator[Group]:
    """The groups, their clips looked at while they are lent."""
    for group in groups:
        torch.testing.assert_close(group.clips, clips_of(group.tickets))
        yield group


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_every_clip_comes_out_once_at_its_length(batch_size: int, seed: int) -> None:
    draw = random.Random(seed)
    model = Recorder()
    buckets = Buckets(model, LENGTHS, batch_size)
    groups: list[Group] = []
    chosen: dict[int, int] = {}
    for _ in range(12):
        rows = torch.arange(len(chosen), len(chosen) + draw.randint(1, 7))
        choice = torch.tensor([draw.choice([0, 0, 1, 2]) for _ in rows])
        chosen |= dict(zip(rows.tolist(), choice.tolist(), strict=True))
        groups += taken(buckets.add(clips_of(rows), rows, choice))
        waiting = [buckets.waiting[i] for i in range(len(buckets.lengths))]
        assert max(waiting) < batch_size
        assert all(len(group.tickets) == batch_size for group in groups)  # full, until the end
    groups += taken(buckets.flush())

    assert sorted(row for group in groups for row in group.tickets.tolist()) == sorted(chosen)
    for group in groups:
        assert [chosen[row] for row in group.tickets.tolist()] == [group.i] * len(group.tickets)
        torch.testing.assert_close(group.logits[:, 0], group.tickets.float())
        assert (group.logits[:, 1] == LENGTHS[group.i].h).all()
    assert sum(model.sizes) == len(chosen) and max(model.sizes) <= batch_size
    assert not list(buckets.flush()) and not len(buckets)


def test_clips_of_one_length_stay_in_order() -> None:
    buckets = Buckets(Recorder(), LENGTHS, 4)
    groups = []
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3)
        groups += buckets.add(clips_of(rows), rows, torch.tensor([1, 1, 1]))
    groups += buckets.flush()
    assert [group.tickets.tolist() for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_a_batch_larger_than_a_bucket() -> None:
    buckets = Buckets(Recorder(), LENGTHS, 4)
    rows = torch.arange(11)
    assert [
        group.tickets.tolist() for group in buckets.add(clips_of(rows), rows, torch.zeros(11).long())
    ] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert [group.tickets.tolist() for group in buckets.flush()] == [[8, 9, 10]]
