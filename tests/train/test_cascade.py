"""DVT's training step: the lengths' losses, added up."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from revit_video.models.dvt import DVT
from revit_video.train.cascade import CascadeStep
from tests.tiny import CLASSES, random_clips, tiny_dvt

LABELS = torch.tensor([0, 3, 1, 4])


def gradients(model: DVT) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradients_are_those_of_the_sum_of_cross_entropies() -> None:
    model, other = tiny_dvt(), tiny_dvt()
    metrics = CascadeStep(model, smoothing=0.1)(random_clips(4), LABELS)
    losses = [
        F.cross_entropy(other(random_clips(4), length).cls, LABELS, label_smoothing=0.1)
        for length in other.lengths
    ]
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(gradients(model), gradients(other), rtol=1e-5, atol=1e-6)
    assert list(metrics) == [f"{what}_{length}" for length in model.lengths for what in ("loss", "top1")]
    for length, loss in zip(model.lengths, losses, strict=True):
        torch.testing.assert_close(metrics[f"loss_{length}"], loss.detach())
        correct = model(random_clips(4), length).logits.argmax(dim=1) == LABELS
        assert metrics[f"top1_{length}"] == 100 * correct.float().mean()
    assert not any(metric.requires_grad for metric in metrics.values())


def test_shares_teach_what_classes_teach() -> None:
    model, other = tiny_dvt(), tiny_dvt()
    metrics = CascadeStep(model)(random_clips(4), LABELS)
    same = CascadeStep(other)(random_clips(4), torch.eye(CLASSES, dtype=torch.float64)[LABELS])
    torch.testing.assert_close(metrics, same)
    torch.testing.assert_close(gradients(model), gradients(other))
