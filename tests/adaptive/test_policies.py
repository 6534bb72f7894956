"""The lengths that each policy chooses, from what is known of the views."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from revit_video.adaptive.policies import (
    Costs,
    Hybrid,
    Known,
    Settings,
    assigned,
    cascade,
    hybrid,
    mean_by_video,
    oracle,
    pick_lengths,
    random,
    static,
)

# The probabilities of the three lengths; of 7x7, 10x10 or shorter, and any: .2 .5 1, .7 .9 1, 0 0 1.
TABLE = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (None, [0, 2, 0]),
        (0.0, [2, 2, 2]),
        (0.15, [2, 2, 0]),
        (0.45, [1, 2, 0]),
        (0.8, [0, 1, 0]),
        (0.95, [0, 0, 0]),
        (1.0, [0, 0, 0]),
    ],
)
def test_shortest_length_that_suffices(threshold: float | None, expected: list[int]) -> None:
    assert pick_lengths(TABLE, threshold).tolist() == expected


def test_sure_of_the_shortest_at_threshold_one() -> None:
    assert pick_lengths(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), 1.0).tolist() == [2, 1]


def test_the_longest_is_enough_whatever_the_sum_rounds_to() -> None:
    """Ten tenths in single precision need not add up to one."""
    low = torch.tensor([[0.3, 0.3, 0.3]])  # any sum below the threshold
    assert pick_lengths(low, 1.0).tolist() == [0]
    assert pick_lengths(TABLE, 1.0 + 1e-6).tolist() == [0, 0, 0]


def test_tables_are_left_as_they_are() -> None:
    before = TABLE.clone()
    pick_lengths(TABLE, 0.5)
    assert torch.equal(TABLE, before)


def test_mean_over_the_views_of_a_video() -> None:
    values = torch.tensor([[1.0, 0.0], [0.2, 0.8], [0.0, 1.0], [0.4, 0.6]])
    videos = torch.tensor([7, 3, 7, 7])
    mean = [1.4 / 3, 1.6 / 3]
    torch.testing.assert_close(mean_by_video(values, videos), torch.tensor([mean, [0.2, 0.8], mean, mean]))


def test_views_of_a_video_share_a_decision_unless_told_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (4 * torch.rand(13, 3, generator=generator)).softmax(dim=1)
    known = Known(torch.arange(13) // 2, 3, probabilities)
    shared, alone = assigned(0.6).start(known), assigned(0.6, per_view=True).start(known)
    assert torch.equal(alone, pick_lengths(probabilities, 0.6)) and not torch.equal(alone, shared)
    drawn = random([0.3, 0.3, 0.4], seed=0).start(known)
    for video in known.rows.unique():
        assert len(shared[known.rows == video].unique()) == 1
        assert len(drawn[known.rows == video].unique()) == 1


def test_random_lengths_have_the_mix_and_repeat() -> None:
    many = Known(torch.arange(2000), 3)
    mix = [0.5, 0.2, 0.3]
    drawn = random(mix, seed=3).start(many)
    shares = drawn.bincount(minlength=3) / 2000
    assert shares.tolist() == pytest.approx(mix, abs=3 * math.sqrt(0.25 / 2000))
    assert torch.equal(drawn, random(mix, seed=3).start(many))
    assert not torch.equal(drawn, random(mix, seed=4).start(many))
    assert random([0, 0, 1], seed=0).start(many).tolist() == [2] * 2000


def test_random_lengths_do_not_depend_on_batches() -> None:
    policy = random([0.5, 0.2, 0.3], seed=3)
    whole = policy.start(Known(torch.arange(20), 3))
    for rows in (torch.arange(20)[::2], torch.tensor([7]), torch.arange(19, -1, -1)):
        assert torch.equal(policy.start(Known(rows, 3)), whole[rows])


def test_the_oracle_must_be_told() -> None:
    rows, truth = torch.arange(3), torch.tensor([2, 0, 1])
    assert oracle().start(Known(rows, 3, truth=truth)).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="needs the true token-length labels"):
        oracle().start(Known(rows, 3))


def test_one_length_for_all() -> None:
    policy = static(1)
    assert policy.start(Known(torch.arange(3), 3)).tolist() == [1, 1, 1]
    assert policy.stops(torch.tensor([0.0, 1.0]), 1).all()


# ---- Stopping --------------------------------------------------------------------------------------------

CONFIDENCE = torch.tensor(
    [[0.9, 0.8, 0.7], [0.9, 0.8, 0.3], [0.1, 0.2, 0.3]]
)  # of three views, longest first


def test_a_cascade_stops_at_the_first_confident_length() -> None:
    policy = cascade([1.0, 0.75, 0.5])
    start = policy.start(Known(torch.arange(3), 3))
    assert start.tolist() == [2, 2, 2]
    assert policy.exits(start, CONFIDENCE).tolist() == [2, 1, 0]
    for i in range(3):
        expected = [True, True, True] if i == 0 else (CONFIDENCE[:, i] >= (1.0, 0.75, 0.5)[i]).tolist()
        assert policy.stops(CONFIDENCE[:, i], i).tolist() == expected


def test_lengths_before_the_start_do_not_count() -> None:
    assert cascade([0, 0.75, 0.5]).exits(torch.tensor([1, 0, 2]), CONFIDENCE).tolist() == [1, 0, 0]


def test_hybrid_starts_where_sufficiency_less_price_is_largest() -> None:
    """The lengths suffice with probability 1 .5 .2, 1 .9 .7, 1 0 0."""
    known = Known(torch.arange(3), 3, TABLE)
    assert hybrid([0, 1, 2], 0.5, [1.0] * 3).start(known).tolist() == [2, 2, 2]
    assert hybrid([0, 1], 0.5, [1.0] * 3).start(known).tolist() == [1, 1, 1]
    priced = [0.4, 0.15, 0.0]  # worth .6 .35 .2, .6 .75 .7, .6 -.15 0
    assert hybrid([0, 1, 2], 0.5, [1.0] * 3, priced).start(known).tolist() == [0, 1, 0]
    assert hybrid([0, 2], 0.5, [1.0] * 3, priced).start(known).tolist() == [0, 2, 0]
    assert hybrid([1, 2], 0.5, [1.0] * 3, priced).start(known).tolist() == [1, 1, 2]


def test_hybrid_skips_what_is_not_usable_and_ends_at_the_longest_of_the_rest() -> None:
    policy = hybrid([1, 2], 0.75, [1.0] * 3)
    assert policy.next_longer(2) == 1 and hybrid([0, 2], 0.75, [1.0] * 3).next_longer(2) == 0
    start = torch.tensor([2, 2, 2])
    assert policy.exits(start, CONFIDENCE).tolist() == [1, 1, 1]
    assert hybrid([0, 2], 0.7, [1.0] * 3).exits(start, CONFIDENCE).tolist() == [2, 0, 0]
    assert policy.stops(torch.tensor([0.1]), 1).all() and not policy.stops(torch.tensor([0.1]), 2).any()


@pytest.mark.parametrize(
    "change",
    [{"usable": []}, {"usable": [1, 0]}, {"usable": [0, 3]}, {"temperatures": [1.0]}, {"prices": [0.1]}]
    + [{"temperatures": [1.0, 1.0, 0.0]}],
)
def test_settings_of_other_lengths_are_refused(change: dict[str, list[float]]) -> None:
    point = Hybrid([0, 2], 0.5, [1.0] * 3, [0.1] * 3, True, False)
    assert set(Settings(hybrid=point).policies(3)) == {"hybrid"}
    with pytest.raises(ValueError, match="not for 3 token lengths"):
        Settings(hybrid=replace(point, **change)).policies(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"threshold": value} for value in ("../x", None, float("nan"), float("inf"), -1, True, 2**70, 10**400)]
    + [{"temperatures": ["a"] * 3}, {"prices": [10**39, 0, 0]}, {"averaged": "../x"}, {"per_view": None}]
    + [{"usable": [0.0, 2]}, {"usable": ["a"]}],
)
def test_settings_that_are_no_numbers_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="policy hybrid"):
        Hybrid(**asdict(Hybrid([0, 2], 0.5, [1.0] * 3, [0.1] * 3, True, False)) | change)


# ---- Cost ------------------------------------------------------------------------------------------------


def test_every_length_that_was_run_is_paid() -> None:
    start, stop = torch.tensor([2, 2, 2, 1, 1, 0]), torch.tensor([2, 1, 0, 1, 0, 0])
    apart = Costs([8.0, 4.0, 1.0], assigner=0.5)
    assert apart.spent(start, stop, asked=False).tolist() == [1, 5, 13, 4, 12, 8]
    assert apart.spent(start, stop, asked=True).tolist() == [1.5, 5.5, 13.5, 4.5, 12.5, 8.5]


def test_lengths_that_are_not_usable_are_not_paid() -> None:
    costs = Costs([8.0, 4.0, 1.0])
    assert costs.spent(torch.tensor([2, 2]), torch.tensor([0, 2]), False, [0, 2]).tolist() == [9, 1]


def test_costs_of_lengths_that_continue_from_each_other_include_the_shorter_ones() -> None:
    stop = torch.tensor([2, 1, 0])
    for start in (torch.tensor([2, 2, 2]), stop):
        assert Costs([9.0, 3.0, 1.0], cumulative=True).spent(start, stop, asked=False).tolist() == [1, 3, 9]
