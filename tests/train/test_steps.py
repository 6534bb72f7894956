"""Training steps against their losses written out. On several ranks: `test_replicas.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from revit_video.data.targets import Targets
from revit_video.data.token_labels import TokenLabels
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.runtime.ranks import Ranks
from revit_video.train.losses import Distillation, dense_loss, distillation_loss, label_loss
from revit_video.train.steps import AssignerStep, CascadeStep, MixedLengthStep, trainable
from tests.label_maps import constant_map
from tests.tiny import CLASSES, LinearAssigner, random_clips, tiny_dvt, tiny_revit

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
HOW = Distillation(tau=2.0, lam=0.4)
LENGTHS = [8, 4, 2]
LABELS = torch.tensor([0, 3, 1, 4])


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def by_hand(how: Distillation | None, smoothing: float = 0.0) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients of the sum of all lengths' losses, from one backward pass; and the losses."""
    model = tiny_revit(lengths=LENGTHS)
    longest, *others = (model(random_clips(4), length) for length in model.lengths)
    losses = [label_loss(longest, LABELS, smoothing)]
    for output in others:
        if how is None:
            losses.append(label_loss(output, LABELS, smoothing))
        else:
            losses.append(distillation_loss(output, longest.cls.detach(), LABELS, how, smoothing))
    torch.stack(losses).sum().backward()
    return gradients(model), losses


@pytest.mark.parametrize("how", [HOW, Distillation(hard=True), None])
def test_gradients_of_all_lengths_add_up(how: Distillation | None) -> None:
    model = tiny_revit(lengths=LENGTHS)
    metrics = MixedLengthStep(model, how, ALONE, smoothing=0.1)(random_clips(4), LABELS)
    expected, losses = by_hand(how, smoothing=0.1)
    torch.testing.assert_close(gradients(model), expected, rtol=1e-5, atol=1e-6)
    for length, loss in zip(model.lengths, losses, strict=True):
        torch.testing.assert_close(metrics[f"loss_{length}"], loss)
        correct = model(random_clips(4), length).logits.argmax(dim=1) == LABELS
        assert metrics[f"top1_{length}"] == 100 * correct.float().mean()
    assert len(metrics) == 2 * len(LENGTHS) and not any(m.requires_grad for m in metrics.values())


def test_the_teacher_is_not_taught() -> None:
    """Nothing that only the longest length reads hears of the distillation."""
    grads = []
    for how in (HOW, None):
        model = tiny_revit(lengths=LENGTHS)
        MixedLengthStep(model, how, ALONE)(random_clips(4), LABELS)
        own = {
            name: grad for name, grad in gradients(model).items() if ".0.proj" in name or "norm1.0." in name
        }
        grads.append(own)
    assert len(grads[0]) == 2 + 2 * 4
    torch.testing.assert_close(grads[0], grads[1])


def test_distillation_waits_for_the_teacher() -> None:
    how = Distillation(tau=2.0, lam=0.4, min_teacher_top1=75.0)
    for accuracy, expected in ((74.9, None), (75.0, HOW)):
        model = tiny_revit(lengths=LENGTHS)
        step = MixedLengthStep(model, how, ALONE)
        step.load_state_dict({"teacher_top1": torch.tensor(accuracy)})
        step(random_clips(4), LABELS)
        torch.testing.assert_close(gradients(model), by_hand(expected)[0], rtol=1e-5, atol=1e-6)


def test_teachers_accuracy_is_a_running_mean_and_survives_a_checkpoint(tmp_path: Path) -> None:
    """A teacher that is always right, from zero: 2 % of the way each time."""
    model = tiny_revit(lengths=LENGTHS)
    right = model(random_clips(4), 8).cls.argmax(dim=1)
    step = MixedLengthStep(model, Distillation(min_teacher_top1=75.0), ALONE)
    for _ in range(3):
        step.learn_of(step(random_clips(4), right))
    assert step.teacher_top1.item() == pytest.approx(100 * (1 - 0.98**3))

    path = str(tmp_path / "step.pyth")
    checkpoint.save(path, {"step": step.state_dict()})
    resumed = MixedLengthStep(model, Distillation(min_teacher_top1=75.0), ALONE)
    resumed.load_state_dict(checkpoint.load_payload(path)["step"])
    assert torch.equal(resumed.teacher_top1, step.teacher_top1)


def test_only_trainable_parameters_are_trained() -> None:
    model = tiny_revit()
    model.cls_token.requires_grad_(False)
    assert len(trainable(model)) == len(list(model.parameters())) - 1


def test_tiny_models_differ_between_classes() -> None:
    """The tests above say something only if the lengths disagree with the labels and with each other."""
    outputs = [tiny_revit(lengths=LENGTHS)(random_clips(4), length).logits for length in LENGTHS]
    assert all(output.shape == (4, CLASSES) for output in outputs)
    assert not torch.allclose(outputs[0], outputs[1], atol=0.1)


# ---- Token labels and MixToken ---------------------------------------------------------------------------

BOX = (0.0, 0.0, 0.5, 1.0)  # the upper half


def token_labels(shown: list[int], score: float = 9.0) -> TokenLabels:
    maps = torch.stack([constant_map(number, score).float() for number in shown])
    return TokenLabels(maps, torch.tensor([[0.0, 0, 1, 1]]).repeat(len(shown), 1))


def test_tokens_learn_their_labels_at_every_length() -> None:
    """With one box for the teacher and all students."""
    targets = Targets(LABELS, token_labels([2, 0, 3, 1], score=3.0), BOX)
    models = [tiny_revit(lengths=LENGTHS, dense_head=True) for _ in range(2)]
    clips, mixed = random_clips(4), targets.of_clips(models[0].lengths[0], CLASSES)
    metrics = MixedLengthStep(models[0], HOW, ALONE, smoothing=0.1, dense_weight=0.7)(clips, targets)
    outputs = [models[1](clips, length, mix=BOX) for length in models[1].lengths]
    teacher = outputs[0].cls.detach()
    losses = [label_loss(outputs[0], mixed, 0.1)]
    losses += [distillation_loss(output, teacher, mixed, HOW, 0.1) for output in outputs[1:]]
    for n, (output, length) in enumerate(zip(outputs, models[1].lengths, strict=True)):
        losses[n] = losses[n] + 0.7 * dense_loss(output.dense, targets, length, 0.1)
        torch.testing.assert_close(metrics[f"loss_{length}"], losses[n].detach())
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(gradients(models[0]), gradients(models[1]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(outputs[1].cls, models[1](clips, LENGTHS[1]).cls, atol=0.01)


def test_maps_that_show_the_clips_label_everywhere_teach_what_no_maps_teach() -> None:
    told = []
    for targets in (Targets(LABELS, token_labels(LABELS.tolist(), score=60.0)), LABELS):
        model = tiny_revit(lengths=LENGTHS, dense_head=True)
        told.append(MixedLengthStep(model, HOW, ALONE)(random_clips(4), targets) | gradients(model))
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-6)


def test_the_weight_of_the_dense_head() -> None:
    """Without it, the dense head learns nothing, and all else learns what it does without one."""
    grads = []
    for dense_head in (True, False):
        model = tiny_revit(lengths=LENGTHS, dense_head=dense_head)
        model.load_state_dict(tiny_revit(lengths=LENGTHS).state_dict(), strict=False)
        MixedLengthStep(model, HOW, ALONE, dense_weight=0.0)(random_clips(4), LABELS)
        grads.append(gradients(model))
    extra = grads[0].keys() - grads[1].keys()
    assert extra and not any(grads[0].pop(name).any() for name in extra)
    torch.testing.assert_close(grads[0], grads[1])


# ---- The assigner ----------------------------------------------------------------------------------------


FEATURES = torch.arange(24, dtype=torch.float64).view(4, 6).cos()
LENGTH_LABELS = torch.tensor([0, 2, 2, 1])
WEIGHTS = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)


def test_class_weights_are_factors_of_each_clips_loss() -> None:
    """A mean over clips, so that clips with small weights do not grow in a batch that has no others."""
    assigner = LinearAssigner()
    metrics = AssignerStep(assigner, WEIGHTS)(FEATURES, LENGTH_LABELS)  # type: ignore[arg-type]
    log_probabilities = assigner(FEATURES).log_softmax(dim=1)
    losses = [-WEIGHTS[y] * row[y] for row, y in zip(log_probabilities, LENGTH_LABELS, strict=True)]
    torch.testing.assert_close(metrics["loss"], torch.stack(losses).mean().detach())
    correct = log_probabilities.argmax(dim=1) == LENGTH_LABELS
    assert metrics["accuracy"] == 100 * correct.float().mean()


def test_sufficiency_is_learned_length_by_length() -> None:
    assigner, right = LinearAssigner(), torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]]).bool()
    metrics = AssignerStep(assigner)(FEATURES, right)  # type: ignore[arg-type]
    chances = assigner(FEATURES).sigmoid()
    losses = -torch.where(right, chances, 1 - chances).log()
    torch.testing.assert_close(metrics["loss"], losses.mean().detach())
    assert metrics["accuracy"] == 100 * ((chances > 0.5) == right).float().mean()


def test_the_assigner_learns_its_labels() -> None:
    torch.manual_seed(0)
    assigner = TokenLengthAssigner(2, stages=1, num_frames=2, input_size=16)
    bright = torch.full((4, 3, 2, 16, 16), 1.0)
    clips, labels = torch.cat([bright, -bright]), torch.tensor([0, 1]).repeat_interleave(4)
    step, optimizer = AssignerStep(assigner), torch.optim.Adam(assigner.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        metrics = step(clips, labels)
        optimizer.step()
    assert metrics["accuracy"] == 100 and metrics["loss"] < 0.3


# ---- DVT ---------------------------------------------------------------------------------------------------


def test_a_cascades_gradients_are_those_of_the_sum_of_cross_entropies() -> None:
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


def test_shares_teach_a_cascade_what_classes_teach() -> None:
    model, other = tiny_dvt(), tiny_dvt()
    metrics = CascadeStep(model)(random_clips(4), LABELS)
    same = CascadeStep(other)(random_clips(4), torch.eye(CLASSES, dtype=torch.float64)[LABELS])
    torch.testing.assert_close(metrics, same)
    torch.testing.assert_close(gradients(model), gradients(other))


class Casts(TorchDispatchMode):
    """How often tensors of a shape are cast."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.count += args[0].dtype == torch.float32
        return func(*args, **(kwargs or {}))


def test_autocast_casts_weights_once_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those of weights that are cast for each length."""

    def gradients_and_casts() -> tuple[dict[str, Tensor], int]:
        model = tiny_revit(lengths=LENGTHS, depth=1).float()
        step = MixedLengthStep(model, HOW, ALONE, autocast=torch.bfloat16)
        with Casts(model.blocks[0].mlp.fc1.weight.shape) as casts:
            step(random_clips(4).float(), LABELS)
        return gradients(model), casts.count

    once, few = gradients_and_casts()
    backward = MixedLengthStep._backward

    def forgetting(*arguments: Any) -> Any:
        torch.clear_autocast_cache()
        return backward(*arguments)

    monkeypatch.setattr(MixedLengthStep, "_backward", forgetting)
    each_time, many = gradients_and_casts()
    assert (few, many) == (1, len(LENGTHS))
    torch.testing.assert_close(once, each_time, rtol=0, atol=0)
