"""What single keys do to a training."""

from __future__ import annotations

from functools import partialmethod
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from revit_video.config import load_cfg
from revit_video.from_cfg.model import build_model, reader
from revit_video.from_cfg.training import learning_rate
from revit_video.models.revit import ReViT
from revit_video.runtime.ranks import Ranks
from revit_video.stages.train import training_step
from tests.toy import LENGTHS, last_checkpoint, options, run_toy, stats_of, tool, toy_cfg, training_batches

ALONE = Ranks(0, 1, torch.device("cpu"))
TWO_EPOCHS = ("SOLVER.MAX_EPOCH", 2, "MODEL.DROP_RATE", 0.2, "MODEL.DROP_PATH", 0.3)


def trained(videos: Path, output_dir: Path, *changes: object) -> dict[str, Tensor]:
    """The weights after two epochs."""
    run_toy(videos, output_dir, *TWO_EPOCHS, *changes, stages=["train"])
    return last_checkpoint(output_dir)["model"]["weights"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def plain(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(videos, tmp_path_factory.mktemp("plain"))


# ---- Learning rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["cosine", "steps_with_relative_lrs"])
def test_rates_grow_with_the_batch(policy: str) -> None:
    rates = ("SOLVER.WARMUP_START_LR", 0.001, "SOLVER.COSINE_END_LR", 0.0001, "SOLVER.WARMUP_EPOCHS", 2)
    given = load_cfg(None, ["SOLVER.LR_POLICY", policy, *map(str, rates), "TRAIN.BATCH_SIZE", "64"])
    scaled = load_cfg(None, ["SOLVER.LR_POLICY", policy, *map(str, rates), "TRAIN.BATCH_SIZE", "16",
                             "SOLVER.BASE_LR_BATCH_SIZE", "64"])  # fmt: skip
    at, scaled_at = learning_rate(given, 10), learning_rate(scaled, 10)
    for epoch in (0, 1, 2, 7, 11, 15):
        assert scaled_at(epoch) == pytest.approx(at(epoch) / 4) and at(epoch) > 0


def test_the_rate_in_effect_is_said_and_used(
    videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_toy(videos, tmp_path, "SOLVER.BASE_LR_BATCH_SIZE", 16, "LOG_PERIOD", 1, stages=["train"])
    assert "learning rate 0.0025 for 4 clips a step" in capfd.readouterr().err
    assert stats_of(tmp_path)[0]["lr"] == 0.0025


# ---- Self-distillation -----------------------------------------------------------------------------------


def distilled_loss(tmp_path: Path, labels: Tensor, *changes: object) -> float:
    """The shorter length's loss of one batch, with the same weights for the same seed."""
    pairs = {f"REVIT.DISTILL.{key}": value for key, value in zip(changes[::2], changes[1::2], strict=True)}
    cfg = toy_cfg(tmp_path, tmp_path, *chain.from_iterable(pairs.items()))
    model = build_model(cfg).eval()
    step = training_step(cfg, ALONE, model)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))  # a teacher with opinions
    clips = torch.rand(4, 3, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    return float(step(clips, labels)[f"loss_{LENGTHS[1]}"])


def test_the_configs_lambda_weights_labels_and_teacher(tmp_path: Path) -> None:
    """λ = 0: only labels matter. λ = 1: they do not. In between, the loss is the weighted mean of both."""
    right, wrong = torch.tensor([0, 1, 2, 3]), torch.tensor([3, 2, 1, 0])
    truth, taught = (distilled_loss(tmp_path, right, "LAMBDA", share) for share in (0, 1))
    assert distilled_loss(tmp_path, right, "LAMBDA", 0, "TAU", 5) == truth
    assert distilled_loss(tmp_path, wrong, "LAMBDA", 0) != truth
    assert distilled_loss(tmp_path, wrong, "LAMBDA", 1) == taught
    assert distilled_loss(tmp_path, right, "LAMBDA", 0.25) == pytest.approx(0.75 * truth + 0.25 * taught)


def test_the_configs_hard_distillation_has_no_temperature(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    hard = distilled_loss(tmp_path, labels, "HARD", True)
    assert distilled_loss(tmp_path, labels, "HARD", True, "TAU", 5) == hard
    assert distilled_loss(tmp_path, labels, "HARD", False) != hard
    assert distilled_loss(tmp_path, labels, "TAU", 5) != distilled_loss(tmp_path, labels)


# ---- What makes no difference ----------------------------------------------------------------------------


def test_a_compiled_training_gives_the_same_weights(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one graph a length for training, and one for evaluation in all stages."""
    torch._dynamo.reset()
    graphs = CompileCounter()
    monkeypatch.setattr(ReViT, "compile", partialmethod(ReViT.compile, backend=graphs))
    recipe = ("SOLVER.OPTIMIZING_METHOD", "sgd", "TRAIN.EMA_DECAY", 0.5, "TEST.BATCH_SIZE", 5)
    expected = trained(videos, tmp_path / "plain", *recipe)
    weights = trained(videos, tmp_path, *recipe, "MODEL.COMPILE", True)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    assert graphs.frame_count == 2 * len(LENGTHS)
    run_toy(videos, tmp_path, *TWO_EPOCHS, *recipe, "MODEL.COMPILE", True, stages=["mine"])
    assert graphs.frame_count == 2 * len(LENGTHS)


def test_blocks_computed_twice_give_the_same_weights(
    plain: dict[str, Tensor], videos: Path, tmp_path: Path
) -> None:
    assert same(trained(videos, tmp_path, "MODEL.ACT_CHECKPOINT", True), plain)
    assert same(trained(videos, tmp_path), plain)  # not another model: complete already


def test_parts_of_a_batch_give_the_same_weights(videos: Path, tmp_path: Path) -> None:
    recipe = ("MODEL.DROP_RATE", 0, "MODEL.DROP_PATH", 0, "SOLVER.OPTIMIZING_METHOD", "sgd")
    whole = trained(videos, tmp_path / "whole", *recipe)
    parts = trained(videos, tmp_path / "parts", *recipe, "TRAIN.ACCUMULATE", 4)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    for key in ("loss_4x4", "top1_2x2", "grad_norm"):
        ours, theirs = (stats_of(tmp_path / name)[0][key] for name in ("parts", "whole"))
        assert ours == pytest.approx(theirs, rel=1e-3)


# ---- The average -----------------------------------------------------------------------------------------


def test_averaged_weights_are_validated_and_saved(
    plain: dict[str, Tensor], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[dict[str, Tensor]] = []

    def spy(cfg: CfgNode, model: ReViT) -> Any:
        validated.append({name: value.clone() for name, value in model.state_dict().items()})
        return reader(cfg, model)

    monkeypatch.setattr("revit_video.stages.validation.reader", spy)
    averaged = trained(videos, tmp_path, "TRAIN.EMA_DECAY", 0.9)
    assert len(validated) == 2 and same(validated[1], averaged)
    assert same(last_checkpoint(tmp_path)["training"]["weights"], plain)
    assert not same(averaged, plain)


# ---- Checkpoints -----------------------------------------------------------------------------------------


def test_checkpoints_come_every_few_epochs_and_at_the_end(videos: Path, tmp_path: Path) -> None:
    recipe = ("SOLVER.MAX_EPOCH", 5, "TRAIN.CHECKPOINT_PERIOD", 2, "TRAIN.EVAL_PERIOD", 0)
    run_toy(videos, tmp_path, *recipe, stages=["train"])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["epoch_00002.pyth", "epoch_00004.pyth", "epoch_00005.pyth", "last"]


def test_an_epoch_can_be_entered_at_any_batch(videos: Path, tmp_path: Path) -> None:
    batches = training_batches(toy_cfg(videos, tmp_path), ALONE)
    whole = list(batches(1))
    assert all(len(set(paths)) == 4 for _, _, paths in whole)
    for first in (0, 4):
        rest = list(batches(1, first))
        for (clips, labels, paths), (others, other_labels, other_paths) in zip(
            rest, whole[first:], strict=True
        ):
            assert torch.equal(clips, others) and torch.equal(labels, other_labels) and paths == other_paths


# ---- Losses that are not finite --------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_clips(videos: Path, tmp_path: Path) -> None:
    finished = tool(
        "train_net", *options(videos, tmp_path, "SOLVER.BASE_LR", 1e18, "TRAIN.CHECKPOINT_MINUTES", 1e-9)
    )
    assert finished.code == 2
    message = finished.err.splitlines()[-1]
    assert message.startswith("error: train epoch 1/1, iteration ") and " not finite on " in message
    assert message.count(f"{videos}/train/") == 4
    weights = last_checkpoint(tmp_path)["model"]["weights"]
    assert all(value.isfinite().all() for value in weights.values())


# ---- Fine-tuning -----------------------------------------------------------------------------------------


def test_a_frozen_backbone_stays_as_it_was(videos: Path, tmp_path: Path) -> None:
    start = run_toy(videos, tmp_path / "start", stages=["train"])
    before = last_checkpoint(start)["model"]["weights"]
    path = start / "checkpoints" / "epoch_00001.pyth"
    fine_tuning = ("TRAIN.CHECKPOINT_FILE_PATH", path, "TRAIN.FREEZE", "backbone", "TRAIN.EMA_DECAY", 0.5)
    rates = ("SOLVER.LAYER_DECAY", 0.7, "SOLVER.HEAD_LR_FACTOR", 10.0)
    after = trained(videos, tmp_path / "tuned", *fine_tuning, *rates)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "head_dist.weight", "blocks.0.norm1.1.weight"} <= changed
    assert not any(name.startswith(("blocks.0.attn", "blocks.0.mlp", "cls_token")) for name in changed)


def test_layer_decay_survives_being_stopped(videos: Path, tmp_path: Path) -> None:
    """And another one is another training."""
    own = ("SOLVER.LAYER_DECAY", 0.5, "SOLVER.LR_POLICY", "steps_with_relative_lrs")
    straight = trained(videos, tmp_path / "straight", *own)
    first = options(videos, tmp_path / "two", *TWO_EPOCHS, *own, "SOLVER.MAX_EPOCH", 1)
    assert tool("train_net", *first).code == 0
    refused = tool(
        "train_net", *options(videos, tmp_path / "two", *TWO_EPOCHS, *own, "SOLVER.LAYER_DECAY", 0.6)
    )
    assert refused.code == 2 and "error: SOLVER.LAYER_DECAY, " in refused.err
    assert "at 0.36 to 1 times the rate in 6 groups; take another OUTPUT_DIR" in refused.err
    assert same(trained(videos, tmp_path / "two", *own), straight)
