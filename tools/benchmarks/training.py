"""Training speed: several token lengths per step against one, on one rank and with one rank per length."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.timesformer import LENGTHS, base, clock, dvt_base, gmacs, random_clips
from benchmarks.timing import Effort, Measurement, Target, Timing, interleaved, milliseconds, ratio
from revit_video.models.base import ResizableModel
from revit_video.models.revit import ReViT
from revit_video.runtime.gradients import Gradients
from revit_video.runtime.launch import launch
from revit_video.runtime.ranks import Ranks, in_length_groups, init, shutdown
from revit_video.train.losses import Distillation
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import CascadeStep, MixedLengthStep, Step

FULL, TWO, THREE = LENGTHS[:1], (LENGTHS[0], LENGTHS[2]), LENGTHS
CPU_DEPTH = 4  # of 12 blocks: a suite should end within minutes
PAGE_PER_TENSOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def training(device: torch.device, effort: Effort) -> list[Measurement]:
    """A step at several lengths (ReViT-B) against a step at full length: time and peak memory."""
    steps = {lengths: at_base_width(device, lengths) for lengths in (FULL, TWO, THREE)}
    actions = {names(lengths): step for lengths, step in steps.items()}
    memory = {lengths: peak_memory(device, lengths) for lengths in steps}
    times = interleaved(actions, effort, device, clock(device))
    rows = []
    for lengths, step in steps.items():
        title = names(lengths)
        rows += [
            milliseconds(title, times[title]),
            Measurement(f"{title}: peak memory", memory[lengths] / 2**20, "MiB"),
        ]
        if lengths != FULL:
            (model,) = step.model.parts
            rows.append(_against_flops(title, times, model))
            more = memory[lengths] / memory[FULL]
            rows.append(
                Measurement(f"{title}: peak memory / full length's", more, "", target=Target(at_most=1.1))
            )
    return rows


def _against_flops(title: str, times: dict[str, Timing], model: ReViT) -> Measurement:
    cost = [gmacs(model, i) for i in range(len(model.lengths))]
    promised = sum(cost) / cost[0]
    pairs = zip(times[title].seconds, times[names(FULL)].seconds, strict=True)
    each = [mixed / full / promised for mixed, full in pairs]
    return Measurement.of(f"{title}: time ratio / FLOPs ratio {promised:.2f}", each, "", Target(at_most=1.08))


class TimedStep:
    """A training step on random clips, the same at each call; weights are updated.

    Args:
        step: computes the losses and accumulates gradients.
        batch: clips per step and rank.
        optimizer: None for SGD.
    """

    def __init__(
        self,
        model: ResizableModel,
        step: Step,
        ranks: Ranks,
        batch: int,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.model, self.step, self.ranks = model, step, ranks
        self.clips = random_clips(model, batch)
        self.labels = torch.arange(batch, device=ranks.device) % model.num_classes
        step.prepare(batch)
        self.gradients = Gradients(model.parameters(), ranks, own_memory=step.reuses_memory)
        self.optimizer = optimizer or torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def __call__(self) -> dict[str, Tensor]:
        self.gradients.clear()
        metrics = self.step(self.clips, self.labels)
        self.gradients.sum()
        self.optimizer.step()
        return metrics


def at_base_width(device: torch.device, lengths: Sequence[str], ranks: Ranks | None = None) -> TimedStep:
    """TimeSformer-base at `lengths`: all in turn, or with `ranks` one length per rank (ReViT-E)."""
    depth, batch, autocast = _reduced(device)
    model = base(device, lengths, depth)
    method = ReplicaStep if ranks else MixedLengthStep
    ranks = ranks or Ranks(0, 1, device)
    return TimedStep(model, method(model, Distillation(), ranks, autocast=autocast), ranks, batch)


def cascade_at_base_width(device: torch.device, lengths: Sequence[str]) -> TimedStep:
    """DVT with one TimeSformer-base per length."""
    depth, batch, autocast = _reduced(device)
    model = dvt_base(device, lengths, depth)
    return TimedStep(model, CascadeStep(model, autocast=autocast), Ranks(0, 1, device), batch)


def _reduced(device: torch.device) -> tuple[int, int, torch.dtype | None]:
    """Depth, clips per step and autocast dtype; reduced on a CPU."""
    return (CPU_DEPTH, 2, None) if device.type == "cpu" else (12, 8, torch.bfloat16)


def names(lengths: Sequence[str]) -> str:
    return " + ".join(lengths)


def peak_memory(device: torch.device, lengths: Sequence[str]) -> int:
    """Peak bytes of two steps: GPU memory, or resident memory of a new process beyond PyTorch's own."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _two_steps(device, lengths)
        return torch.cuda.max_memory_allocated() - before
    # Each tensor gets its own pages, so that memory cached by the C library is not counted.
    with patch.dict(os.environ, PAGE_PER_TENSOR), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_process, (lengths, torch.get_num_threads()))


def _two_steps(device: torch.device, lengths: Sequence[str]) -> None:
    step = at_base_width(device, lengths)
    step()
    step()


def _peak_of_process(lengths: Sequence[str], threads: int) -> int:
    torch.set_num_threads(threads)
    torch.ones(8, 8) @ torch.ones(8, 8)
    before = _resident_peak()
    _two_steps(torch.device("cpu"), lengths)
    return _resident_peak() - before


def _resident_peak() -> int:
    """Peak resident bytes of this process, on Linux. (`ru_maxrss` would include the parent's.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def replicas(device: torch.device, effort: Effort) -> list[Measurement]:
    """A ReViT-E step, one rank per length, against a step of one rank at full length.

    On a CPU each rank is pinned to one core; there are as many lengths as cores, at most 3.

    Raises:
        ValueError: fewer than 2 devices, or cores.
    """
    places = torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))
    if places < 2:
        raise ValueError(f"replicas: a rank for each of 2 token lengths, but there is 1 {device.type} device")
    lengths = THREE if places > 2 else TWO
    times, effort.left_out[:] = launch(_replica_times, len(lengths), lengths, device.type, effort)
    alone, together = times["alone"], times["together"]
    return [
        milliseconds("full length, one rank", alone),
        milliseconds(f"{names(lengths)}, {len(lengths)} ranks", together),
        ratio("ReViT-E step / full-length step", together, alone, Target(at_most=1.15)),
    ]


def _replica_times(
    lengths: Sequence[str], device: str, effort: Effort
) -> tuple[dict[str, Timing], list[str]]:
    ranks = init(device)
    effort = replace(effort, ranks=ranks)
    if device == "cpu":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[ranks.rank]})
        torch.set_num_threads(1)
    full = at_base_width(ranks.device, lengths[:1]) if ranks.is_main else None
    shared = at_base_width(ranks.device, lengths, in_length_groups(ranks, len(lengths)))

    def alone() -> None:
        if full:
            full()
        dist.barrier()

    try:
        times = interleaved({"alone": alone, "together": shared}, effort, ranks.device)
        return times, effort.left_out
    finally:
        shutdown()
