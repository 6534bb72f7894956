"""The training loop of the backbone and of the assigner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit_video.data.targets import Targets
from revit_video.runtime.gradients import Gradients
from revit_video.runtime.logging import StatsLog, progress
from revit_video.runtime.ranks import Ranks, shared_statistics
from revit_video.runtime.rng import seeded_generator
from revit_video.train.clock import Clock
from revit_video.train.figures import Figures
from revit_video.train.optim import LearningRate, leaves_out_bad_steps
from revit_video.train.steps import Step, trainable

logger = logging.getLogger(__name__)

# (epoch, first batch) -> (inputs, labels, names of the clips); labels are what the step takes.
Batches = Callable[[int, int], Iterable[tuple[Tensor, Any, Sequence[str]]]]


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
        bad_steps: how many had a loss or gradient that is not finite; on the device.
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
    bad_steps: Tensor | int = field(default=0, init=False)

    @property
    def iteration(self) -> int:
        """Complete iterations over all epochs."""
        return self.epoch * self.batches_per_epoch + self.batch

    def ends_period(self, period: int) -> bool:
        """Whether an epoch has just ended that is the last, or a multiple of `period`."""
        at_end = self.batch == 0 and self.epoch > 0
        return at_end and (self.epoch == self.epochs or self.epoch % period == 0)

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
        saved = state["optimizer"]
        groups = [
            theirs | {name: value for name, value in own.items() if name != "params"}
            for theirs, own in zip(saved["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        self.optimizer.load_state_dict(saved | {"param_groups": groups})
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
    step, ranks, parts = training.step, training.ranks, training.accumulate
    clock = Clock(training.iteration, training.epochs * training.batches_per_epoch, ranks)
    figures = Figures(ranks, at_once=not leaves_out_bad_steps(training.optimizer))
    step.prepare(training.batch_size // (ranks.data_size * parts))
    with Gradients(trainable(training.model), ranks, parts, step.reuses_memory) as gradients:
        while training.epoch < training.epochs:
            training.model.train()
            yield from _run_epoch(training, stats, clock, figures, gradients, asked_to_stop)


def _run_epoch(
    training: Training,
    stats: StatsLog,
    clock: Clock,
    figures: Figures,
    gradients: Gradients,
    asked_to_stop: Callable[[], bool],
) -> Iterator[bool]:
    ranks = training.ranks
    batches = clock.timed(training.batches(training.epoch, training.batch))
    left = training.batches_per_epoch - training.batch
    title = f"{training.stage} epoch {training.epoch + 1}/{training.epochs}"
    with progress(batches, left, title, ranks.is_main) as bar:
        for inputs, labels, names in bar:
            _seed(training)
            lr = _set_learning_rate(training)
            gradients.clear()
            with shared_statistics(training.model, ranks):
                metrics = _forward_backward(training, inputs, labels)
                stop = gradients.sum(asked_to_stop())
            last = training.batch + 1 == training.batches_per_epoch
            logged = last or (training.batch + 1) % training.log_period == 0
            means = figures.add(training.batch, names, metrics, _clipped_norm(training, gradients.parameters))
            training.step.learn_of(means)
            if logged or stop or figures.due:
                with clock.for_device():
                    values = figures.read(title)
            _update(training, figures.last_is_bad)
            iteration, training.batch = training.batch, training.batch + 1
            clock.clips += len(labels) * ranks.data_size
            if logged:
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
    with _fast_products(training.ranks.device):
        metrics = [training.step(*part) for part in parts]
    return {name: torch.stack([each[name] for each in metrics]).mean() for name in metrics[0]}


@contextmanager
def _fast_products(device: torch.device) -> Iterator[None]:
    """Products of float32 matrices in TF32 on a GPU: in training their rounding does not matter."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _clipped_norm(training: Training, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, as it was before they were clipped to `clip_gradient`."""
    if training.clip_gradient:
        return nn.utils.clip_grad_norm_(parameters, training.clip_gradient)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _update(training: Training, is_bad: Tensor) -> None:
    """The optimiser's step, and the average's."""
    training.bad_steps = training.bad_steps + is_bad
    if leaves_out_bad_steps(training.optimizer):
        training.optimizer.found_inf = is_bad  # type: ignore[attr-defined]
    training.optimizer.step()
    if training.average:
        training.average.update(training.model, training.iteration)


def _shown(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(("loss", "accuracy"))}
