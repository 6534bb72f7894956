"""Bucketed answers are the one-by-one answers, every pass is paid for, and choices are the right ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from revit_video.adaptive.policies import (
    Assigned,
    Cascade,
    Oracle,
    Policy,
    Prediction,
    Random,
    Static,
    Views,
    mean_by_video,
    pick_lengths,
)
from revit_video.models.dvt import DVT
from revit_video.models.revit import ReViT
from tests.tiny import random_clips, tiny_dvt, tiny_revit

GMACS = [8.0, 4.0, 1.0]
COUNT = 13
TRUTH = torch.tensor([0, 2, 1, 1, 0, 2, 2, 2, 1, 0, 1, 2, 2])


class PixelAssigner(nn.Module):
    """Logits of the three lengths from three pixels."""

    def forward(self, clips: Tensor) -> Tensor:
        return 4 * clips[:, 0, 0, 0, :3]


MAKERS: dict[str, Callable[[ReViT], Policy]] = {
    "static": lambda model: Static(model, GMACS, "4x4", batch_size=4),
    "assigned": lambda model: Assigned(model, GMACS, PixelAssigner(), 0.5, 0.6, batch_size=4),  # type: ignore[arg-type]
    "argmax": lambda model: Assigned(model, GMACS, PixelAssigner(), 0.5, None, batch_size=4),  # type: ignore[arg-type]
    "cascade": lambda model: Cascade(model, GMACS, 0.425, batch_size=4),
    "random": lambda model: Random(model, GMACS, [0.3, 0.3, 0.4], batch_size=4),
    "oracle": lambda model: Oracle(model, GMACS, batch_size=4),
}


@pytest.fixture(scope="module")
def model() -> ReViT:
    """In training mode: policies must leave it themselves."""
    return tiny_revit(lengths=[8, 4, 2], drop_rate=0.5, drop_path=0.5).train()


def views() -> Views:
    each = torch.arange(COUNT)
    return Views(random_clips(COUNT), each, each // 2, TRUTH)


def streamed(policy: Policy, whole: Views, sizes: list[int]) -> Prediction:
    """The same clips in batches of the given sizes."""
    parts: list[Prediction] = []
    start = 0
    for size in sizes:
        share = slice(start, start + size)
        parts += policy.submit(Views(*(field[share] for field in whole if field is not None)))
        start += size
    assert start == COUNT
    return Prediction.joined([*parts, *policy.flush()])


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [4, 2, 7], [2, 6, 5]])
@pytest.mark.parametrize("name", MAKERS)
def test_bucketed_logits_are_those_of_one_clip_alone(name: str, sizes: list[int], model: ReViT) -> None:
    policy = MAKERS[name](model)
    prediction = streamed(policy, views(), sizes)
    assert not model.training and not len(policy.buckets)
    assert prediction.rows.tolist() == list(range(COUNT))
    for clip, i, logits in zip(random_clips(COUNT), prediction.lengths, prediction.logits, strict=True):
        alone = model(clip[None], model.lengths[i]).logits[0]
        torch.testing.assert_close(logits, alone.float(), rtol=0, atol=1e-5)
    if name != "static":  # all lengths were in use
        assert prediction.lengths.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", MAKERS)
def test_a_call_is_a_stream_of_one_batch(name: str, model: ReViT) -> None:
    called, submitted = MAKERS[name](model)(views()), streamed(MAKERS[name](model), views(), [COUNT])
    for ours, theirs in zip(called, submitted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_rows_are_the_callers(model: ReViT) -> None:
    rows = torch.tensor([40, 10, 30])
    prediction = MAKERS["oracle"](model)(Views(random_clips(3), rows, rows, torch.tensor([2, 0, 1])))
    assert prediction.rows.tolist() == [10, 30, 40]
    assert prediction.lengths.tolist() == [0, 1, 2]


# ---- Cost ------------------------------------------------------------------------------------------------


def test_cost_is_that_of_the_length_read(model: ReViT) -> None:
    for name in ("static", "random", "oracle"):
        prediction = MAKERS[name](model)(views())
        assert prediction.cost.tolist() == [GMACS[i] for i in prediction.lengths]
    assert MAKERS["oracle"](model)(views()).lengths.tolist() == TRUTH.tolist()


def test_the_assigner_is_paid_for(model: ReViT) -> None:
    prediction = MAKERS["assigned"](model)(views())
    assert prediction.cost.tolist() == [GMACS[i] + 0.5 for i in prediction.lengths]


def test_a_cascade_pays_for_every_pass_and_stops_when_sure(model: ReViT) -> None:
    confidence = torch.stack(
        [
            model.eval()(random_clips(COUNT), length).logits.softmax(dim=1).amax(dim=1)
            for length in model.lengths
        ]
    )
    expected = []
    for n in range(COUNT):
        expected.append(next((i for i in (2, 1) if confidence[i, n] >= 0.425), 0))
    prediction = MAKERS["cascade"](model)(views())
    assert prediction.lengths.tolist() == expected
    assert prediction.cost.tolist() == [{2: 1.0, 1: 5.0, 0: 13.0}[i] for i in expected]


@pytest.mark.parametrize(("threshold", "i", "cost"), [(0.0, 2, 1.0), (1.1, 0, 13.0)])
def test_cascades_at_the_ends(threshold: float, i: int, cost: float, model: ReViT) -> None:
    prediction = streamed(Cascade(model, GMACS, threshold, batch_size=4), views(), [5, 5, 3])
    assert prediction.lengths.tolist() == [i] * COUNT and prediction.cost.tolist() == [cost] * COUNT


# ---- DVT's early exit ------------------------------------------------------------------------------------

PAID = [9.0, 3.0, 1.0]  # what a clip has cost that stops at each length


@pytest.fixture(scope="module")
def cascade() -> DVT:
    return tiny_dvt(drop_rate=0.5, drop_path=0.5).train()


def exit_of(cascade: DVT, clips: Tensor, thresholds: list[float]) -> list[int]:
    """Where each clip stops, from what every length says of all."""
    confidence = [cascade(clips, length).logits.softmax(dim=1).amax(dim=1) for length in cascade.lengths]
    return [next((i for i in (2, 1) if confidence[i][n] >= thresholds[i]), 0) for n in range(len(clips))]


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [2, 6, 5]])
def test_unsure_clips_go_on_with_their_state(sizes: list[int], cascade: DVT) -> None:
    """Whoever left before them or goes with them, each clip's answer is the length's own, at its cost."""
    confidence = cascade.eval()(random_clips(COUNT), 2).logits.softmax(dim=1).amax(dim=1)
    second = cascade(random_clips(COUNT), 4).logits.softmax(dim=1).amax(dim=1)
    thresholds = [0.0, second.median().item(), confidence.quantile(0.7).item()]
    prediction = streamed(Cascade(cascade.train(), PAID, thresholds, batch_size=4), views(), sizes)
    assert prediction.rows.tolist() == list(range(COUNT))
    assert prediction.lengths.tolist() == exit_of(cascade, random_clips(COUNT), thresholds)
    assert prediction.lengths.unique().tolist() == [0, 1, 2]
    assert prediction.cost.tolist() == [PAID[i] for i in prediction.lengths]
    for clip, i, logits in zip(random_clips(COUNT), prediction.lengths, prediction.logits, strict=True):
        alone = cascade(clip[None], cascade.lengths[i]).logits[0]
        torch.testing.assert_close(logits, alone.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("threshold", "i"), [(0.0, 2), (1.1, 0)])
def test_early_exits_at_the_ends(threshold: float, i: int, cascade: DVT) -> None:
    prediction = Cascade(cascade, PAID, threshold)(views())
    assert prediction.lengths.tolist() == [i] * COUNT and prediction.cost.tolist() == [PAID[i]] * COUNT
    logits = cascade(random_clips(COUNT), cascade.lengths[i]).logits.float()
    torch.testing.assert_close(prediction.logits, logits, rtol=0, atol=1e-5)


def test_other_policies_pay_for_all_that_a_cascade_reads(cascade: DVT) -> None:
    for policy in (Oracle(cascade, PAID, batch_size=4), Static(cascade, PAID, "4x4", batch_size=4)):
        prediction = policy(views())
        assert prediction.cost.tolist() == [PAID[i] for i in prediction.lengths]


# ---- Choices ---------------------------------------------------------------------------------------------

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


def test_views_of_a_video_share_a_decision_unless_told_otherwise(model: ReViT) -> None:
    whole = views()
    shared = MAKERS["assigned"](model)(whole).lengths
    alone = Assigned(model, GMACS, PixelAssigner(), 0.5, 0.6, per_view=True)(whole).lengths  # type: ignore[arg-type]
    own = pick_lengths(PixelAssigner()(whole.clips).softmax(dim=1), 0.6)
    assert torch.equal(alone, own) and not torch.equal(alone, shared)
    for video in whole.videos.unique():
        assert len(shared[whole.videos == video].unique()) == 1
    drawn = MAKERS["random"](model).choose(whole)
    for video in whole.videos.unique():
        assert len(drawn[whole.videos == video].unique()) == 1


def test_random_lengths_have_the_mix_and_repeat(model: ReViT) -> None:
    each = torch.arange(2000)
    many = Views(torch.zeros(2000, 1), each, each)
    mix = [0.5, 0.2, 0.3]
    drawn = Random(model, GMACS, mix, seed=3).choose(many)
    shares = drawn.bincount(minlength=3) / 2000
    assert shares.tolist() == pytest.approx(mix, abs=3 * math.sqrt(0.25 / 2000))
    assert torch.equal(drawn, Random(model, GMACS, mix, seed=3).choose(many))
    assert not torch.equal(drawn, Random(model, GMACS, mix, seed=4).choose(many))
    assert Random(model, GMACS, [0, 0, 1]).choose(many).tolist() == [2] * 2000


def test_the_oracle_must_be_told(model: ReViT) -> None:
    with pytest.raises(ValueError, match="needs the true token lengths"):
        MAKERS["oracle"](model)(random_clips(2))


def test_a_static_length_must_exist(model: ReViT) -> None:
    with pytest.raises(ValueError, match="token length 5x5 not in this model; it has 8x8, 4x4, 2x2"):
        Static(model, GMACS, "5x5")
