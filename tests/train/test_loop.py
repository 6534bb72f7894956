"""The loop: resuming, clipping, learning rates, statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit_video.runtime import checkpoint
from revit_video.runtime.distributed import Ranks
from revit_video.runtime.logging import StatsLog
from revit_video.train.loop import NonFiniteLoss, Training, fit
from revit_video.train.losses import Distillation
from revit_video.train.optim import cosine_schedule, make_optimizer, with_warmup
from revit_video.train.steps import MixedLengthStep
from tests.tiny import CLASSES, random_clips, tiny_revit

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
BATCHES = 3


class Killed(Exception):
    pass


def batches(epoch: int, dies_in: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    for n in range(BATCHES):
        if epoch == dies_in and n == 1:
            raise Killed
        labels = torch.randint(CLASSES, (4,), generator=torch.Generator().manual_seed(10 * epoch + n))
        yield random_clips(4, seed=10 * epoch + n), labels


def training(optimizer: str, seed: int = 1, dies_in: int | None = None) -> Training:
    model = tiny_revit(drop_path=0.5, drop_rate=0.2)
    return Training(
        model,
        MixedLengthStep(model, Distillation(min_teacher_top1=1.0), ALONE),
        make_optimizer(model, optimizer, 0.01, 0.05),
        lambda epoch: batches(epoch, dies_in),
        BATCHES,
        with_warmup(cosine_schedule(0.01, 0.0, 3), 1, 0.0),
        epochs=3,
        ranks=ALONE,
        clip_gradient=1.0,
        seed=seed,
    )


def run_through(job: Training, folder: Path, save: bool = False) -> dict[str, Tensor]:
    with StatsLog(str(folder), tensorboard=False) as stats:
        for epoch in fit(job, stats):
            if save:
                payload = {"model": job.model.state_dict(), "training": job.state_dict()}
                checkpoint.save_epoch(str(folder), epoch, payload)
    return job.model.state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(optimizer: str, tmp_path: Path) -> None:
    """Bit for bit, though dropout and stochastic depth draw at random."""
    whole = run_through(training(optimizer), tmp_path)
    with pytest.raises(Killed):
        run_through(training(optimizer, dies_in=2), tmp_path, save=True)

    torch.manual_seed(99)
    path = checkpoint.latest(str(tmp_path))
    assert path is not None and path.endswith("epoch_00002.pyth")
    saved, job = checkpoint.load(path), training(optimizer)
    job.model.load_state_dict(saved["model"])
    job.load_state_dict(saved["training"])
    assert job.epoch == 2
    resumed = run_through(job, tmp_path)
    assert job.epoch == 3
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name

    other = run_through(training(optimizer, seed=2), tmp_path)  # else the above would say little
    assert any(not torch.equal(other[name], value) for name, value in whole.items())


class Constant:
    """A step whose gradient is always (3, 4) and whose loss is given, one a batch."""

    def __init__(self, model: nn.Module, losses: list[float]) -> None:
        self.model, self.losses, self.rates = model, iter(losses), []

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        (parameter,) = self.model.parameters()
        assert parameter.grad is None and self.model.training
        parameter.grad = torch.tensor([[3.0, 4.0]])
        return {"loss": torch.tensor(next(self.losses))}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


def constant(losses: list[float], **changes: Any) -> Training:
    """Two batches an epoch of plain gradient descent at learning rate 1 from the origin."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    arguments: dict[str, Any] = dict(
        batches=lambda epoch: [(torch.zeros(4, 2), torch.zeros(4))] * 2,
        batches_per_epoch=2,
        learning_rate=lambda epoch: 1.0,
        epochs=len(losses) // 2,
        ranks=ALONE,
        log_period=1,
    )
    optimizer = torch.optim.SGD(model.parameters(), 123.0)
    return Training(model, Constant(model, losses), optimizer, **arguments | changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("largest", "step"), [(0.0, (3.0, 4.0)), (10.0, (3.0, 4.0)), (1.0, (0.6, 0.8))])
def test_gradients_are_clipped_to_their_common_norm(
    largest: float, step: tuple[float, float], tmp_path: Path
) -> None:
    job = constant([1.0] * 4, clip_gradient=largest)
    weights = run_through(job, tmp_path)["weight"]
    torch.testing.assert_close(weights, -4 * torch.tensor([step]), rtol=1e-5, atol=1e-5)
    assert [line["grad_norm"] for line in lines(tmp_path)] == [5.0] * 4  # as it was before


def test_each_iteration_has_its_own_rate(tmp_path: Path) -> None:
    job = constant([1.0] * 6, learning_rate=lambda epoch: 10 + epoch)
    weights = run_through(job, tmp_path)["weight"]
    rates = [10.0, 10.5, 11.0, 11.5, 12.0, 12.5]
    torch.testing.assert_close(weights, -sum(rates) * torch.tensor([[3.0, 4.0]]))
    assert [line["lr"] for line in lines(tmp_path)] == rates


def test_statistics_lines(tmp_path: Path) -> None:
    job = constant([4.0, 3.0, 2.0, 1.0], stage="assigner", log_period=2)
    run_through(job, tmp_path)
    told = lines(tmp_path)
    assert [(line["epoch"], line["iter"], line["step"], line["loss"]) for line in told] == [
        (0, 1, 2, 3.0),
        (1, 1, 4, 1.0),
    ]
    assert {line["stage"] for line in told} == {"assigner"}
    assert all(line["clips_per_sec"] > 0 and line["data_time"] >= 0 for line in told)
    assert told[0]["eta"] > 0 and told[-1]["eta"] == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(loss: float, tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteLoss, match=r"train epoch 2/2, iteration 1: loss is not finite; lower SOLVER"
    ):
        run_through(constant([1.0, 1.0, 1.0, loss]), tmp_path)
    assert len(lines(tmp_path)) == 3
