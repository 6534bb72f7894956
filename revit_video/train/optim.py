"""Optimisers and learning-rate schedules: functions of the fractional epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import timm.optim
import torch
from torch import nn

LearningRate = Callable[[float], float]


def make_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """timm's SGD or AdamW, without weight decay for biases, norms, tokens and position embeddings."""
    make = timm.optim.create_optimizer_v2
    if name == "adamw":
        return make(model, opt="adamw", lr=lr, weight_decay=weight_decay, betas=tuple(betas))
    opt = "sgd" if nesterov else "momentum"  # timm's names for SGD with and without Nesterov
    return make(model, opt=opt, lr=lr, weight_decay=weight_decay, momentum=momentum)


def step_schedule(base_lr: float, steps: Sequence[int], factors: Sequence[float]) -> LearningRate:
    """`base_lr * factors[k]` from epoch `steps[k]` on: TimeSformer's `steps_with_relative_lrs`."""
    return lambda epoch: base_lr * factors[bisect_right(steps, epoch) - 1]


def cosine_schedule(base_lr: float, end_lr: float, epochs: float, start: float = 0.0) -> LearningRate:
    """Half a cosine from `base_lr` at epoch `start`, where a warm-up ends, to `end_lr` at `epochs`."""

    def at(epoch: float) -> float:
        done = min(max(epoch - start, 0) / (epochs - start), 1)
        return end_lr + (base_lr - end_lr) * (1 + math.cos(math.pi * done)) / 2

    return at


def warmup_epochs(wanted: float, batches: int, epochs: int) -> float:
    """The warm-up rounded to whole steps: the first step after it has the full rate, and there is one.

    Args:
        batches: steps per epoch.
        epochs: of the training.
    """
    return min(round(wanted * batches), epochs * batches - 1) / batches


def with_warmup(schedule: LearningRate, epochs: float, start_lr: float) -> LearningRate:
    """Linear warm-up from `start_lr` to the schedule's value at `epochs`, then the schedule."""
    if epochs <= 0:
        return schedule

    def at(epoch: float) -> float:
        if epoch >= epochs:
            return schedule(epoch)
        return start_lr + (schedule(epochs) - start_lr) * epoch / epochs

    return at
