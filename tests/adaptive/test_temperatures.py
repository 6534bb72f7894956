"""Calibrated and averaged answers, on values that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from revit_video.adaptive.policies import combined
from revit_video.adaptive.temperatures import TEMPERATURES, calibration_error, fit_temperatures
from revit_video.models.inference import log_probabilities

LOGITS = 4 * torch.randn(50, 5, generator=torch.Generator().manual_seed(0))


def test_scores_at_a_temperature_are_those_of_the_logits_divided_by_it() -> None:
    for temperature in (0.3, 1.0, 4.0):
        expected = (LOGITS / temperature).log_softmax(dim=1)
        torch.testing.assert_close(log_probabilities(LOGITS.softmax(dim=1), temperature), expected)


def test_scores_of_zero_are_no_error() -> None:
    assert log_probabilities(torch.tensor([0.0, 1.0]), 0.1).isfinite().all()


@pytest.mark.parametrize("true", [0.5, 1.0, 2.0])
def test_the_temperature_that_made_the_labels_is_found(true: float) -> None:
    """Labels drawn with softmax(logits / true); the second length is twice as confident."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(20000, 4, generator=generator)
    labels = (logits / true).softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    scores = torch.stack([logits.softmax(dim=1), (2 * logits).softmax(dim=1)], dim=1)
    assert fit_temperatures(scores, labels) == pytest.approx([true, 2 * true], rel=0.06)


def test_where_all_is_right_the_sharpest_is_taken() -> None:
    scores = torch.tensor([[[0.9, 0.1]], [[0.8, 0.2]]])
    assert fit_temperatures(scores, torch.tensor([0, 0])) == [TEMPERATURES[0].item()]


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Two bins: 0.8 sure, half right, and 0.6 sure, all right; two views each."""
    scores = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    labels = torch.tensor([0, 1, 0, 0])
    assert calibration_error(scores, labels) == pytest.approx(100 * (0.3 + 0.4) / 2)
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0


def test_answers_are_geometric_means_of_the_lengths_run() -> None:
    """Views that start at the shortest length, at the middle one, and that skip the middle one."""
    scores = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).expand(3, 3, 2)
    run = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1]]).bool()
    alone = combined(scores, [1.0] * 3, run, averaged=False)
    torch.testing.assert_close(alone, scores)
    odds = [[9, 1, 0.25], [9, 1, None], [9, None, 0.25]]  # of the first class
    for view, answer in enumerate(combined(scores, [1.0] * 3, run, averaged=True)):
        read: list[float] = []
        for i in (2, 1, 0):
            own = odds[view][i]
            if own is None:
                continue
            read.append(own)
            mean = torch.tensor(read).log().mean().exp()
            assert answer[i, 0].item() == pytest.approx((mean / (1 + mean)).item())
