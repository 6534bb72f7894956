"""Losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from revit_video.data.targets import Targets
from revit_video.length import TokenLength
from revit_video.models.base import Output
from revit_video.train.losses import Distillation, dense_loss, distillation_loss, label_loss

LN2, LN3 = math.log(2), math.log(3)
EVEN = torch.zeros(2, 2)  # probabilities 1/2, 1/2 in both rows
# KL((3/4, 1/4) || (1/2, 1/2)); the other direction would be 0.1438.
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


@pytest.mark.parametrize("tau", [1.0, 0.9, 2.0])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_soft_distillation(tau: float, lam: float) -> None:
    """The teacher says (3/4, 1/4) at temperature tau. Two equal rows: a mean over rows, not over entries."""
    teacher = torch.tensor([[tau * LN3, 0.0], [tau * LN3, 0.0]])
    loss = distillation_loss(Output(EVEN), teacher, torch.tensor([0, 1]), Distillation(tau, lam))
    assert loss.item() == pytest.approx((1 - lam) * LN2 + lam * tau**2 * KL, rel=1e-5)


def test_each_head_has_its_own_term() -> None:
    """Cross-entropy reads the class head, the distillation term the other one."""
    student = Output(torch.tensor([[LN3, 0.0]]), torch.zeros(1, 2))
    teacher, labels = torch.tensor([[LN3, 0.0]]), torch.tensor([1])
    loss = distillation_loss(student, teacher, labels, Distillation(1.0, 0.5))
    assert loss.item() == pytest.approx(0.5 * math.log(4) + 0.5 * KL, rel=1e-5)
    without = distillation_loss(Output(student.cls), teacher, labels, Distillation(1.0, 0.5))
    assert without.item() == pytest.approx(0.5 * math.log(4), rel=1e-5)  # the class head agrees: KL 0


def test_hard_distillation_learns_the_teachers_choice() -> None:
    """No temperature: cross-entropy with class 0, the teacher's, on the distillation head."""
    student = Output(torch.zeros(1, 2), torch.tensor([[LN3, 0.0]]))
    how = Distillation(tau=5.0, lam=0.25, hard=True)
    loss = distillation_loss(student, torch.tensor([[0.1, 0.0]]), torch.tensor([1]), how)
    assert loss.item() == pytest.approx(0.75 * LN2 + 0.25 * math.log(4 / 3), rel=1e-5)


def test_labels_teach_all_heads_alike() -> None:
    cls, dist = torch.tensor([[LN3, 0.0]]), torch.zeros(1, 2)
    labels = torch.tensor([0])
    assert label_loss(Output(cls), labels).item() == pytest.approx(math.log(4 / 3), rel=1e-5)
    both = label_loss(Output(cls, dist), labels).item()
    assert both == pytest.approx((math.log(4 / 3) + LN2) / 2, rel=1e-5)


def test_smoothing_spreads_over_all_classes() -> None:
    """0.2 of smoothing: 0.9 of the label's term and 0.1 of the other's. The distillation term has none."""
    cls, labels = torch.tensor([[LN3, 0.0]]), torch.tensor([0])
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert label_loss(Output(cls), labels, 0.2).item() == pytest.approx(smoothed, rel=1e-5)
    loss = distillation_loss(Output(cls, EVEN[:1]), cls, labels, Distillation(1.0, 0.5), 0.2)
    assert loss.item() == pytest.approx(0.5 * smoothed + 0.5 * KL, rel=1e-5)


def test_every_token_learns() -> None:
    """Two clips of two tokens; of four tokens, those of the second clip are undecided."""
    dense = torch.tensor([[[LN3, 0.0], [0.0, LN3]], [[0.0, 0.0], [0.0, 0.0]]])
    targets, length = Targets(torch.tensor([0, 1])), TokenLength(1, 2)
    expected = (math.log(4 / 3) + math.log(4) + 2 * LN2) / 4
    assert dense_loss(dense, targets, length).item() == pytest.approx(expected, rel=1e-5)
    smoothed = (0.9 * math.log(4 / 3) + 0.1 * math.log(4) + 0.9 * math.log(4) + 0.1 * math.log(4 / 3)) / 4
    loss = dense_loss(dense, targets, length, smoothing=0.2).item()
    assert loss == pytest.approx(smoothed + LN2 / 2, rel=1e-5)


# ---- Several labels --------------------------------------------------------------------------------------

SEVERAL = torch.tensor([[True, False], [True, True]])


def test_each_class_is_decided_on_its_own() -> None:
    """A probability of 3/4 for class 0 and 1/2 for class 1, of two rows."""
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0]])
    by_hand = (-math.log(0.75) + LN2) / 2
    assert label_loss(Output(logits), SEVERAL).item() == pytest.approx(by_hand)
    smooth = (-0.95 * math.log(0.75) - 0.05 * math.log(0.25) + LN2) / 2
    assert label_loss(Output(logits), SEVERAL, 0.1).item() == pytest.approx(smooth)
    assert label_loss(Output(logits, torch.zeros(2, 2)), SEVERAL).item() == pytest.approx((by_hand + LN2) / 2)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_distillation_of_each_class(tau: float) -> None:
    """KL of a coin that the teacher gives 3/4 and the student 1/2, at temperature tau; two such classes."""
    teacher = torch.full((2, 2), tau * LN3)
    loss = distillation_loss(Output(EVEN), teacher, SEVERAL, Distillation(tau, 0.3))
    assert loss.item() == pytest.approx(0.7 * LN2 + 0.3 * tau**2 * KL, rel=1e-5)
    same = distillation_loss(Output(teacher), teacher, SEVERAL, Distillation(tau, 1.0))
    assert same.item() == pytest.approx(0.0, abs=1e-6)
    hard = distillation_loss(Output(teacher), -teacher, SEVERAL, Distillation(tau, 1.0, hard=True))
    assert hard.item() == pytest.approx(math.log(1 + math.exp(tau * LN3)), rel=1e-5)
