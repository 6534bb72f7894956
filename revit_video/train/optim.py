"""Optimisers, groups of parameters, and learning-rate schedules: functions of the fractional epoch."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm.optim
import torch
from timm.models import group_parameters
from torch import nn

LearningRate = Callable[[float], float]


HEAD = re.compile(r"(?:^|\.)heads?(?:_dist|_dense)?\.")


def make_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.999),
    groups: ParameterGroups | None = None,
) -> torch.optim.Optimizer:
    """timm's SGD or AdamW over the parameters that learn; on a GPU the fused ones.

    Args:
        groups: which parameters are decayed, and how fast each learns.
    """
    make = timm.optim.create_optimizer_v2
    parameters = (groups or ParameterGroups()).of(model, weight_decay)
    # Fused: all parameters in one kernel, which changes nothing where `found_inf` is 1.
    fused = True if all(parameter.is_cuda for parameter in model.parameters()) else None
    if name == "adamw":
        return make(parameters, opt="adamw", lr=lr, betas=tuple(betas), fused=fused)
    opt = "sgd" if nesterov else "momentum"  # timm's names for SGD with and without Nesterov
    return make(parameters, opt=opt, lr=lr, momentum=momentum, fused=fused)


def leaves_out_bad_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step changes nothing where the optimiser's `found_inf` is 1 (a tensor on the device)."""
    return all(group.get("fused") for group in optimizer.param_groups)


@dataclass(frozen=True)
class ParameterGroups:
    """Weight decay and relative learning rate of each parameter.

    Attributes:
        decay_all: decay biases, norms, tokens and position embeddings too, as TimeSformer does.
        layer_decay: factor on the learning rate from each layer to the one before it; layers are counted as
            in timm: embeddings, blocks, heads.
        head_factor: factor on the learning rate of the heads.
    """

    decay_all: bool = False
    layer_decay: float = 1.0
    head_factor: float = 1.0

    def of(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimiser; `lr_scale` is a factor on the learning rate, 1 where it is missing."""
        undecayed: set[str] = getattr(model, "no_weight_decay", set)()
        factors = self._factors(model)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            exempt = not self.decay_all and (parameter.ndim <= 1 or name in undecayed)
            factor = factors.get(name, 1.0) * (self.head_factor if HEAD.search(name) else 1.0)
            groups.setdefault((0.0 if exempt else weight_decay, factor), []).append(parameter)
        return [
            {"params": groups[decay, factor], "weight_decay": decay}
            | ({} if factor == 1 else {"lr_scale": factor})
            for decay, factor in sorted(groups)
        ]

    def _factors(self, model: Any) -> dict[str, float]:
        if self.layer_decay == 1:
            return {}
        layers = group_parameters(model, model.group_matcher(), reverse=True)
        last = max(layers.values())
        return {name: self.layer_decay ** (last - layer) for name, layer in layers.items()}


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
