"""The training loop of the backbone and of the assigner."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit_video.data.targets import Targets
from revit_video.runtime.logging import StatsLog, progress
from revit_video.runtime.ranks import Ranks, reduce_gradients, shared_statistics
from revit_video.runtime.rng import seeded_generator
from revit_video.train.optim import LearningRate
from revit_video.train.steps import Step, trainable

MOST_NAMED = 8  # clips in an error message

logger = logging.getLogger(__name__)

# (epoch, first batch) -> (inputs, labels, names of the clips); labels are what the step takes.
Batches = Callable[[int, int], Iterable[tuple[Tensor, Any, Sequence[str]]]]


class NonFiniteLoss(ValueError):
    """The loss or a gradient is infinite or NaN; the weights were not updated."""


@dataclass
class Training:
    """The state of a training run.

    Attributes:
        model: the model being trained.
        step: forward and backward pass of a batch.
        batches: (epoch, batch) -> the epoch's batches from that one on, on the device; deterministic.
        batches_per_epoch: number of batches in a whole epoch.
        batch_size: clips per step over all ranks.
        learning_rate: fractional epoch -> learning rate.
        accumulate: parts of a batch, run one after the other to save memory.
        clip_gradient: largest norm of all gradients together; 0 for no clipping.
        average: moving average of the weights, if any.
        seed: dropout and stochastic depth are drawn from (seed, epoch, batch, rank), so that a resumed run
            equals one that never stopped.
        epoch, batch: complete epochs, and complete batches of the next epoch.
    """

    model: nn.Module
    step: Step
    optimizer: torch.optim.Optimizer
    batches: Batches
    batches_per_epoch: int
    batch_size: int
    learning_rate: LearningRate
    epochs: int
    ranks: Ranks
    stage: str = "train"
    accumulate: int = 1
    clip_gradient: float = 0.0
    average: ModelEmaV3 | None = None
    log_period: int = 10
    seed: int = 0
    epoch: int = field(default=0, init=False)
    batch: int = field(default=0, init=False)

    @property
    def iteration(self) -> int:
        """Complete iterations over all epochs."""
        return self.epoch * self.batches_per_epoch + self.batch

    @property
    def result(self) -> nn.Module:
        """The model to validate and save: the averaged one, if any."""
        return self.average.module if self.average else self.model

    def state_dict(self) -> dict[str, Any]:
        """State to resume from between two iterations, beside the weights of `result`."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "batch": self.batch,
            "division": self._division(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step.state_dict(),
            "weights": self.model.state_dict() if self.average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`; `model` already holds the weights of `result` saved with it.

        With another batch size, the epoch continues at the first batch with unseen clips.
        """
        self.epoch = state["epoch"]
        self.batch = state["batch"] * state["division"]["clips a batch"] // self.batch_size
        if self.batch >= self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        if self.average:
            self.average.set(self.model)
        if state["weights"] is not None:
            self.model.load_state_dict(state["weights"])
        # Keep this run's hyperparameters (weight decay, momentum …) instead of the checkpoint's.
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        self.step.load_state_dict(state["step"])
        changes = [
            f"{name} {state['division'][name]} -> {value}"
            for name, value in self._division().items()
            if state["division"][name] != value
        ]
        if changes:
            logger.info(
                "resumed with another division of the work (%s): the weights will not be bit-identical to "
                "those of a run that was never stopped",
                ", ".join(changes),
            )

    def _division(self) -> dict[str, int]:
        """The quantities on which random draws and the order of sums depend."""
        ranks = self.ranks
        return {
            "ranks": ranks.world_size,
            "shares of a batch": ranks.data_size,
            "parts of a share": self.accumulate,
            "clips a batch": self.batch_size,
        }


def fit(
    training: Training, stats: StatsLog, asked_to_stop: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Train to the last epoch; yields after every iteration, so that the caller can save and validate.

    After the last iteration of an epoch `training.batch` is 0.

    Args:
        asked_to_stop: whether this rank was asked to stop.

    Yields:
        whether any rank was asked to stop; the same on all ranks.

    Raises:
        NonFiniteLoss: on all ranks.
    """
    clock = _Clock(training)
    while training.epoch < training.epochs:
        training.model.train()
        yield from _run_epoch(training, stats, clock, asked_to_stop)


def _run_epoch(
    training: Training, stats: StatsLog, clock: _Clock, asked_to_stop: Callable[[], bool]
) -> Iterator[bool]:
    parameters, ranks = trainable(training.model), training.ranks
    batches = clock.timed(training.batches(training.epoch, training.batch))
    left = training.batches_per_epoch - training.batch
    title = f"{training.stage} epoch {training.epoch + 1}/{training.epochs}"
    with progress(batches, left, title, ranks.is_main) as bar:
        for inputs, labels, names in bar:
            _seed(training)
            lr = _set_learning_rate(training)
            training.optimizer.zero_grad(set_to_none=True)
            with shared_statistics(training.model, ranks):
                metrics = _forward_backward(training, inputs, labels)
            stop = reduce_gradients(parameters, ranks, training.accumulate, asked_to_stop())
            norm = nn.utils.clip_grad_norm_(parameters, training.clip_gradient or math.inf)
            values = _mean_over_ranks(metrics | {"grad_norm": norm}, ranks)
            if not all(map(math.isfinite, values.values())):
                raise _non_finite(f"{title}, iteration {training.batch}", values, metrics, names, ranks)
            training.optimizer.step()
            if training.average:
                training.average.update(training.model, training.iteration)
            iteration, training.batch = training.batch, training.batch + 1
            clock.clips += len(labels) * ranks.data_size
            last = training.batch == training.batches_per_epoch
            if last or training.batch % training.log_period == 0:
                times = clock.window(training.iteration)
                place = {"epoch": training.epoch, "iter": iteration, "step": training.iteration}
                stats.write(stage=training.stage, **place, lr=lr, **values, **times)
                bar.show(**_shown(values), **{"clips/s": times["clips_per_sec"]})
            if not last:
                yield stop
    logger.info("%s: %s", title, ", ".join(f"{name} {value:.3g}" for name, value in _shown(values).items()))
    training.epoch, training.batch = training.epoch + 1, 0
    yield stop


def _seed(training: Training) -> None:
    place = (training.epoch, training.batch, training.ranks.rank)
    torch.manual_seed(seeded_generator(training.seed, *place).initial_seed())


def _set_learning_rate(training: Training) -> float:
    lr = training.learning_rate(training.iteration / training.batches_per_epoch)
    for group in training.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    return lr


def _forward_backward(training: Training, inputs: Tensor, labels: Tensor | Targets) -> dict[str, Tensor]:
    """Sum the gradients over the parts of the batch; returns the mean of each metric."""
    parts = zip(inputs.chunk(training.accumulate), labels.chunk(training.accumulate), strict=True)
    metrics = [training.step(*part) for part in parts]
    return {name: torch.stack([each[name] for each in metrics]).mean() for name in metrics[0]}


def _mean_over_ranks(metrics: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """The mean of each metric over the ranks, in one all-reduce."""
    stacked = torch.stack([value.float() for value in metrics.values()])
    means = ranks.sum(stacked) / ranks.world_size
    return dict(zip(metrics, means.tolist(), strict=True))


def _non_finite(
    place: str, values: dict[str, float], own: dict[str, Tensor], names: Sequence[str], ranks: Ranks
) -> NonFiniteLoss:
    """An error that names the clips of the ranks with a non-finite loss, or of all ranks if none has one."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    is_bad = not all(bool(value.isfinite()) for value in own.values())
    shares = ranks.gather((is_bad, list(names)))
    worst = [share for share in shares if share[0]] or shares
    clips = list(dict.fromkeys(name for _, share in worst for name in share))
    shown = ", ".join(clips[:MOST_NAMED])
    if len(clips) > MOST_NAMED:
        shown += f" and {len(clips) - MOST_NAMED} more"
    return NonFiniteLoss(
        f"{place}: {', '.join(bad)} not finite{' on ' if clips else ''}{shown}; "
        "lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENT"
    )


def _shown(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(("loss", "accuracy"))}


class _Clock:
    """Times the loop, whose body holds no clock code."""

    def __init__(self, training: Training) -> None:
        self.total = training.epochs * training.batches_per_epoch
        self.first = training.epoch * training.batches_per_epoch
        self.device = training.ranks.device
        self.start = self.since = time.perf_counter()
        self.clips = 0
        self.waited = 0.0
        self.batches = 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches and add up the time spent waiting for them."""
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

    def window(self, step: int) -> dict[str, float]:
        """clips/s, mean wait per batch (s) and peak memory (GiB) since the last call; seconds left."""
        now = time.perf_counter()
        times = {
            "clips_per_sec": self.clips / (now - self.since),
            "data_time": self.waited / max(self.batches, 1),
            "eta": (now - self.start) / (step - self.first) * (self.total - step),
        }
        if self.device.type == "cuda":
            times["gpu_mem"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.since, self.clips, self.waited, self.batches = now, 0, 0.0, 0
        return times
