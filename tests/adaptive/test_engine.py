"""Bucketed answers are the one-by-one answers, and every pass is paid for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from revit_video.adaptive.engine import Engine, Prediction
from revit_video.adaptive.policies import (
    Costs,
    Known,
    Policy,
    assigned,
    cascade,
    pick_lengths,
    random,
    static,
)
from revit_video.models.dvt import DVT
from revit_video.models.revit import ReViT
from tests.tiny import random_clips, tiny_dvt, tiny_revit

COSTS = Costs([8.0, 4.0, 1.0], assigner=0.5)
COUNT = 13
TRUTH = torch.tensor([0, 2, 1, 1, 0, 2, 2, 2, 1, 0, 1, 2, 2])
ROWS = torch.arange(COUNT) // 2


class PixelAssigner(nn.Module):
    """Logits of the three lengths from three pixels."""

    def forward(self, clips: Tensor) -> Tensor:
        return 4 * clips[:, 0, 0, 0, :3]


def given(lengths: Tensor) -> Callable[[Known], Tensor]:
    """Starts each call's views at the given lengths, in turn."""
    left = lengths.tolist()

    def start(known: Known) -> Tensor:
        return torch.tensor([left.pop(0) for _ in known.rows])

    return start


MAKERS: dict[str, Callable[[], Policy]] = {
    "static": lambda: static(1),
    "assigned": lambda: assigned(0.6),
    "argmax": lambda: assigned(None),
    "cascade": lambda: cascade([0.425] * 3),
    "random": lambda: random([0.3, 0.3, 0.4], seed=2),
    "given": lambda: Policy(given(TRUTH)),
    "assigned start, cascade": lambda: Policy(assigned(0.6).start, [0.425] * 3, asks_assigner=True),
}


@pytest.fixture(scope="module")
def model() -> ReViT:
    """In training mode: the engine must leave it itself."""
    return tiny_revit(lengths=[8, 4, 2], drop_rate=0.5, drop_path=0.5).train()


def engine(model: ReViT | DVT, policy: Policy, costs: Costs = COSTS) -> Engine:
    return Engine(model, policy, costs, PixelAssigner(), batch_size=4)  # type: ignore[arg-type]


def streamed(engine: Engine, sizes: list[int]) -> Prediction:
    """The clips in batches of the given sizes."""
    parts: list[Prediction] = []
    start = 0
    for size in sizes:
        share = slice(start, start + size)
        parts += engine.submit(random_clips(COUNT)[share], ROWS[share])
        start += size
    assert start == COUNT
    return Prediction.joined([*parts, *engine.flush()])


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [4, 2, 7], [2, 6, 5]])
@pytest.mark.parametrize("name", MAKERS)
def test_bucketed_logits_are_those_of_one_clip_alone(name: str, sizes: list[int], model: ReViT) -> None:
    running = engine(model, MAKERS[name]())
    prediction = streamed(running, sizes)
    assert not model.training and not len(running.buckets)
    assert prediction.numbers.tolist() == list(range(COUNT))
    for clip, i, logits in zip(random_clips(COUNT), prediction.lengths, prediction.logits, strict=True):
        alone = model(clip[None], model.lengths[i]).logits[0]
        torch.testing.assert_close(logits, alone.float(), rtol=0, atol=1e-5)
    if name != "static":  # all lengths were in use
        assert prediction.lengths.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", MAKERS)
def test_a_call_is_a_stream_of_one_batch(name: str, model: ReViT) -> None:
    called = engine(model, MAKERS[name]())(random_clips(COUNT), ROWS)
    by_stream = streamed(engine(model, MAKERS[name]()), [COUNT])
    for ours, theirs in zip(called, by_stream, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_views_are_numbered_in_the_order_of_the_stream(model: ReViT) -> None:
    running = engine(model, Policy(given(torch.tensor([2, 0, 1, 0, 1, 2]))))
    for first in (0, 3):
        prediction = running(random_clips(3), torch.tensor([40, 10, 30]))
        assert prediction.numbers.tolist() == [first, first + 1, first + 2]
        assert prediction.lengths.tolist() == ([0, 1, 2] if first else [2, 0, 1])


def test_views_are_of_different_videos_unless_told_otherwise(model: ReViT) -> None:
    alone = engine(model, assigned(0.6))(random_clips(COUNT)).lengths
    own = pick_lengths(PixelAssigner()(random_clips(COUNT)).softmax(dim=1), 0.6)
    assert torch.equal(alone, own)
    assert not torch.equal(alone, engine(model, assigned(0.6))(random_clips(COUNT), ROWS).lengths)


# ---- Cost ------------------------------------------------------------------------------------------------


def test_cost_is_that_of_the_length_run(model: ReViT) -> None:
    for name in ("static", "random", "given"):
        prediction = engine(model, MAKERS[name]())(random_clips(COUNT), ROWS)
        assert prediction.gmacs.tolist() == [COSTS.gmacs[i] for i in prediction.lengths]
    assert prediction.lengths.tolist() == TRUTH.tolist()


def test_the_assigner_is_paid_for(model: ReViT) -> None:
    prediction = engine(model, MAKERS["assigned"]())(random_clips(COUNT), ROWS)
    assert prediction.gmacs.tolist() == [COSTS.gmacs[i] + 0.5 for i in prediction.lengths]


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
    prediction = engine(model, MAKERS["cascade"]())(random_clips(COUNT), ROWS)
    assert prediction.lengths.tolist() == expected
    assert prediction.gmacs.tolist() == [{2: 1.0, 1: 5.0, 0: 13.0}[i] for i in expected]


def test_what_comes_before_the_start_is_not_paid(model: ReViT) -> None:
    start = assigned(0.6).start(Known(ROWS, 3, PixelAssigner()(random_clips(COUNT)).softmax(dim=1)))
    prediction = engine(model, MAKERS["assigned start, cascade"]())(random_clips(COUNT), ROWS)
    assert (prediction.lengths <= start).all() and (prediction.lengths < start).any()
    paid = [sum(COSTS.gmacs[i : s + 1]) + 0.5 for i, s in zip(prediction.lengths, start, strict=True)]
    assert prediction.gmacs.tolist() == paid


def test_agreement_is_that_of_all_lengths_run(model: ReViT, dvt: DVT) -> None:
    """The views start at each of the three lengths and go on to the longest."""
    for each, costs in ((model, COSTS), (dvt, PAID)):
        named = [each.eval()(random_clips(COUNT), n).logits.argmax(dim=1) for n in each.lengths]
        expected = [len({named[i][n].item() for i in range(TRUTH[n] + 1)}) == 1 for n in range(COUNT)]
        running = engine(each, Policy(given(TRUTH), [1.1] * 3), costs)
        assert streamed(running, [5, 8]).agreed.tolist() == expected
        assert True in expected and False in expected
    assert engine(model, static(1))(random_clips(COUNT)).agreed.all()


@pytest.mark.parametrize(("threshold", "i", "cost"), [(0.0, 2, 1.0), (1.1, 0, 13.0)])
def test_cascades_at_the_ends(threshold: float, i: int, cost: float, model: ReViT) -> None:
    prediction = streamed(engine(model, cascade([threshold] * 3)), [5, 5, 3])
    assert prediction.lengths.tolist() == [i] * COUNT and prediction.gmacs.tolist() == [cost] * COUNT


# ---- DVT's early exit ------------------------------------------------------------------------------------

PAID = Costs([9.0, 3.0, 1.0], cumulative=True)  # GMACs of all stages up to each length


@pytest.fixture(scope="module")
def dvt() -> DVT:
    return tiny_dvt(drop_rate=0.5, drop_path=0.5).train()


def exit_of(dvt: DVT, clips: Tensor, thresholds: list[float]) -> list[int]:
    """Where each clip stops, from the answers of every length to all clips."""
    confidence = [dvt(clips, length).logits.softmax(dim=1).amax(dim=1) for length in dvt.lengths]
    return [next((i for i in (2, 1) if confidence[i][n] >= thresholds[i]), 0) for n in range(len(clips))]


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [2, 6, 5]])
def test_unsure_clips_go_on_with_their_state(sizes: list[int], dvt: DVT) -> None:
    """Whichever clips left before or go on with it, a clip's answer is its length's own, at its cost."""
    confidence = dvt.eval()(random_clips(COUNT), 2).logits.softmax(dim=1).amax(dim=1)
    second = dvt(random_clips(COUNT), 4).logits.softmax(dim=1).amax(dim=1)
    thresholds = [0.0, second.median().item(), confidence.quantile(0.7).item()]
    prediction = streamed(engine(dvt.train(), cascade(thresholds), PAID), sizes)
    assert prediction.numbers.tolist() == list(range(COUNT))
    assert prediction.lengths.tolist() == exit_of(dvt, random_clips(COUNT), thresholds)
    assert prediction.lengths.unique().tolist() == [0, 1, 2]
    assert prediction.gmacs.tolist() == [PAID.gmacs[i] for i in prediction.lengths]
    for clip, i, logits in zip(random_clips(COUNT), prediction.lengths, prediction.logits, strict=True):
        alone = dvt(clip[None], dvt.lengths[i]).logits[0]
        torch.testing.assert_close(logits, alone.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("threshold", "i"), [(0.0, 2), (1.1, 0)])
def test_early_exits_at_the_ends(threshold: float, i: int, dvt: DVT) -> None:
    prediction = engine(dvt, cascade([threshold] * 3), PAID)(random_clips(COUNT))
    assert prediction.lengths.tolist() == [i] * COUNT
    assert prediction.gmacs.tolist() == [PAID.gmacs[i]] * COUNT
    logits = dvt(random_clips(COUNT), dvt.lengths[i]).logits.float()
    torch.testing.assert_close(prediction.logits, logits, rtol=0, atol=1e-5)


def test_no_clip_of_a_dvt_stops_before_its_start(dvt: DVT) -> None:
    prediction = engine(dvt, Policy(given(TRUTH), [0.0] * 3), PAID)(random_clips(COUNT))
    assert prediction.lengths.tolist() == TRUTH.tolist()
    assert prediction.gmacs.tolist() == [PAID.gmacs[i] for i in TRUTH]


def test_other_policies_pay_for_all_stages_of_a_dvt(dvt: DVT) -> None:
    for policy in (Policy(given(TRUTH)), static(1)):
        prediction = engine(dvt, policy, PAID)(random_clips(COUNT))
        assert prediction.gmacs.tolist() == [PAID.gmacs[i] for i in prediction.lengths]
