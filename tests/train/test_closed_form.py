"""Heads in closed form: the same by both ways of solving, blind to units, and honest out of fold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from revit_video.train.closed_form import SHARPNESS, STRENGTH, out_of_fold, ridge


def some(count: int, width: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features `(count, width)` of which the first tell the class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(count, width, generator=generator)
    features[:, :classes] += 2 * torch.nn.functional.one_hot(labels, classes)
    return features, labels


@pytest.mark.parametrize(("count", "width"), [(30, 8), (12, 40)])
def test_the_penalised_error_is_least(count: int, width: int) -> None:
    """By both ways: no small change of the weights makes the penalised squared error smaller."""
    x, labels = some(count, width)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    head = ridge(x, labels, 3, [width])
    targets = torch.nn.functional.one_hot(labels, 3).double()

    def loss(weight: Tensor) -> Tensor:
        scaled = x.double() / width**0.5
        errors = scaled @ weight.T + targets.mean(0) - targets
        return errors.square().sum() + STRENGTH * count * weight.square().sum()

    weight = (head.weight.double() / SHARPNESS * width**0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(weight), weight)
    assert gradient.abs().max() < 1e-3 * targets.sum()


def test_units_do_not_matter_and_parts_count_the_same() -> None:
    features, labels = some(40, 6)
    units = torch.tensor([1.0, 10, 0.1, 1000, 1, 1])
    shifted = features * units + 5
    expected = ridge(features, labels, 3, [3, 3])(features)
    torch.testing.assert_close(ridge(shifted, labels, 3, [3, 3])(shifted), expected, rtol=1e-3, atol=1e-2)
    twice = torch.cat([features[:, :3], features[:, 3:], features[:, 3:]], dim=1)  # of twice as many numbers
    torch.testing.assert_close(ridge(twice, labels, 3, [3, 6])(twice), expected, rtol=1e-3, atol=1e-2)


def test_a_constant_feature_changes_nothing() -> None:
    features, labels = some(40, 5)
    wider = torch.cat([features, torch.full((40, 1), 7.0)], dim=1)
    expected = ridge(features, labels, 3, [5])(features)
    assert torch.equal(ridge(wider, labels, 3, [5, 1])(wider).argmax(1), expected.argmax(1))


def test_noise_is_learned_by_heart_but_not_out_of_fold() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 1, 200, generator=generator), torch.arange(60) % 6
    seen = ridge(features[:, 0], labels, 6, [200])(features[:, 0])
    unseen = out_of_fold(features, labels, 6, [200], torch.arange(60) % 10)
    assert (seen.argmax(1) == labels).float().mean() == 1
    assert (unseen.argmax(1) == labels).float().mean() < 0.4


def test_out_of_fold_scores_are_those_of_a_head_without_the_fold() -> None:
    features, labels = some(30, 8)
    views, fold = torch.stack([features, features + 0.1], dim=1), torch.arange(30) // 10
    scores = out_of_fold(views, labels, 3, [8], fold)
    others = fold != 1
    head = ridge(views[others].flatten(0, 1), labels[others].repeat_interleave(2), 3, [8])
    torch.testing.assert_close(scores[~others], head(features[~others]))
