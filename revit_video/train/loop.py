"""The one training loop, for the backbone and for the assigner."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from revit_video.runtime.distributed import Ranks, reduce_gradients, sum_over_ranks
from revit_video.runtime.logging import StatsLog, progress
from revit_video.train.optim import LearningRate
from revit_video.train.steps import Step, trainable

logger = logging.getLogger(__name__)

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number."""


@dataclass
class Training:
    """All that a training run carries from epoch to epoch.

    Attributes:
        model: what is trained.
        step: turns a batch `(inputs, labels)` into gradients and metrics.
        batches: epoch -> that epoch's batches, already on the device; the same epoch gives the same
            batches.
        batches_per_epoch: how many there are.
        learning_rate: fractional epoch -> learning rate.
        clip_gradient: largest norm of all gradients together; 0 leaves them as they are.
        seed: epoch e draws its dropout and stochastic depth from (seed, e, rank), so that a run
            resumed at e continues as if it had never stopped.
    """

    model: nn.Module
    step: Step
    optimizer: torch.optim.Optimizer
    batches: Batches
    batches_per_epoch: int
    learning_rate: LearningRate
    epochs: int
    ranks: Ranks
    stage: str = "train"
    clip_gradient: float = 0.0
    log_period: int = 10
    seed: int = 0
    epoch: int = field(default=0, init=False)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights, taken between epochs."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        # The settings of the optimiser (weight decay, momentum …) are this run's, not the checkpoint's.
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        self.step.load_state_dict(state["step"])


def fit(training: Training, stats: StatsLog) -> Iterator[int]:
    """Trains from `training.epoch` to `training.epochs`, yielding the number of epochs done after each.

    The caller saves and validates between epochs.

    Raises:
        NonFiniteLoss: at the first log line whose loss is not finite.
    """
    clock = _Clock(training)
    while training.epoch < training.epochs:
        training.model.train()
        torch.manual_seed(training.seed * 1_000_003 + training.epoch * 1_009 + training.ranks.rank)
        _run_epoch(training, stats, clock)
        training.epoch += 1
        yield training.epoch


def _run_epoch(training: Training, stats: StatsLog, clock: _Clock) -> None:
    parameters = trainable(training.model)
    done = training.epoch * training.batches_per_epoch
    batches = clock.timed(training.batches(training.epoch))
    title = f"{training.stage} epoch {training.epoch + 1}/{training.epochs}"
    with progress(batches, training.batches_per_epoch, title, training.ranks.is_main) as bar:
        for iteration, (inputs, labels) in enumerate(bar):
            lr = training.learning_rate((done + iteration) / training.batches_per_epoch)
            for group in training.optimizer.param_groups:
                group["lr"] = lr
            training.optimizer.zero_grad(set_to_none=True)
            metrics = training.step(inputs, labels)
            reduce_gradients(parameters, training.ranks)
            norm = nn.utils.clip_grad_norm_(parameters, training.clip_gradient or math.inf)
            training.optimizer.step()
            clock.clips += len(labels) * training.ranks.world_size
            if (iteration + 1) % training.log_period == 0 or iteration + 1 == training.batches_per_epoch:
                values = _over_ranks(metrics | {"grad_norm": norm}, training.ranks)
                _check_finite(values, title, iteration)
                step = done + iteration + 1
                times = clock.read(step)
                stats.write(
                    stage=training.stage,
                    epoch=training.epoch,
                    iter=iteration,
                    step=step,
                    lr=lr,
                    **values,
                    **times,
                )
                shown = _shown(values) | {"clips/s": times["clips_per_sec"]}
                bar.postfix(**shown)
    logger.info("%s: %s", title, ", ".join(f"{name} {value:.3g}" for name, value in shown.items()))


def _over_ranks(metrics: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Each metric's mean over the ranks, in one exchange."""
    stacked = torch.stack([value.float() for value in metrics.values()])
    means = sum_over_ranks(stacked, ranks) / ranks.world_size
    return dict(zip(metrics, means.tolist(), strict=True))


def _check_finite(values: dict[str, float], title: str, iteration: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteLoss(
            f"{title}, iteration {iteration}: {', '.join(bad)} is not finite; "
            "lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENT"
        )


def _shown(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(("loss", "accuracy"))}


class _Clock:
    """Measures the loop from outside, so that its body holds no clock code."""

    def __init__(self, training: Training) -> None:
        self.total = training.epochs * training.batches_per_epoch
        self.first = training.epoch * training.batches_per_epoch
        self.device = training.ranks.device
        self.start = self.window = time.perf_counter()
        self.clips = 0
        self.waited = 0.0
        self.batches = 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Passes batches on and adds up the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - asked
            self.batches += 1
            yield batch

    def read(self, step: int) -> dict[str, float]:
        """clips/s, mean wait for a batch and peak memory since the last reading; seconds to the end."""
        now = time.perf_counter()
        times = {
            "clips_per_sec": self.clips / (now - self.window),
            "data_time": self.waited / max(self.batches, 1),
            "eta": (now - self.start) / (step - self.first) * (self.total - step),
        }
        if self.device.type == "cuda":
            times["gpu_mem"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.window, self.clips, self.waited, self.batches = now, 0, 0.0, 0
        return times
