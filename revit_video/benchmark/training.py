"""Training on the clock: several token lengths a step against one, on one rank and on a rank for each."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from revit_video.benchmark.inference import milliseconds
from revit_video.benchmark.models import LENGTHS, base, clock, gmacs, random_clips
from revit_video.benchmark.timing import Row, Target, Timing, interleaved, measured, ratio
from revit_video.models.revit import ReViT
from revit_video.report.style import RC, canvas, png
from revit_video.runtime.distributed import Ranks, in_length_groups, init, launch, reduce_gradients, shutdown
from revit_video.train.losses import Distillation
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import MixedLengthStep

FULL, TWO, THREE = LENGTHS[:1], (LENGTHS[0], LENGTHS[2]), LENGTHS
GROWTH = ("14x14", "10x10", "7x7", "4x4")
CPU_DEPTH = 4  # of the 12 blocks, so that a suite ends within minutes
PAGES_OF_ITS_OWN = {"MALLOC_MMAP_THRESHOLD_": "65536"}
COLOURS = {"separate models": "#8a939c", "ReViT-B": "#14365c", "ReViT-E, slowest rank": "#e4572e"}


def train(device: torch.device, rounds: int) -> list[Row]:
    """One step of several lengths (ReViT-B) against one of the full length: time and peak memory."""
    steps = {lengths: Training(device, lengths) for lengths in (FULL, TWO, THREE)}
    actions = {names(lengths): step for lengths, step in steps.items()}
    times = interleaved(actions, rounds, device, clock(device))
    memory = {lengths: peak_memory(device, lengths) for lengths in steps}
    rows = []
    for lengths, step in steps.items():
        title = names(lengths)
        rows += [
            milliseconds(title, times[title]),
            Row(f"{title}: peak memory", memory[lengths] / 2**20, "MiB"),
        ]
        if lengths != FULL:
            rows.append(_against_flops(title, times, step.model))
            more = memory[lengths] / memory[FULL]
            rows.append(Row(f"{title}: peak memory / full length's", more, "", target=Target(at_most=1.1)))
    return rows


def _against_flops(title: str, times: dict[str, Timing], model: ReViT) -> Row:
    cost = [gmacs(model, i) for i in range(len(model.lengths))]
    promised = sum(cost) / cost[0]
    pairs = zip(times[title].seconds, times[names(FULL)].seconds, strict=True)
    each = [mixed / full / promised for mixed, full in pairs]
    return measured(f"{title}: time ratio / FLOPs ratio {promised:.2f}", each, "", Target(at_most=1.08))


class Training:
    """One step on random clips, weights updated: `MixedLengthStep` at all of `lengths`."""

    def __init__(self, device: torch.device, lengths: Sequence[str], ranks: Ranks | None = None) -> None:
        on_cpu = device.type == "cpu"
        self.ranks = ranks or Ranks(0, 1, device)
        self.model = base(device, lengths, CPU_DEPTH if on_cpu else 12)
        method = ReplicaStep if ranks else MixedLengthStep
        self.step = method(
            self.model, Distillation(), self.ranks, autocast=None if on_cpu else torch.bfloat16
        )
        self.clips = random_clips(self.model, 2 if on_cpu else 8)
        self.labels = torch.arange(len(self.clips), device=device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)

    def __call__(self) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        metrics = self.step(self.clips, self.labels)
        reduce_gradients(self.model.parameters(), self.ranks)
        self.optimizer.step()
        return metrics


def names(lengths: Sequence[str]) -> str:
    return " + ".join(lengths)


def peak_memory(device: torch.device, lengths: Sequence[str]) -> int:
    """Bytes that two steps need at most: of a GPU's memory, or of a process of its own, beyond PyTorch's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _two_steps(device, lengths)
        return torch.cuda.max_memory_allocated() - before
    # Every tensor gets pages of its own, so that what the C library keeps for later does not count.
    with patch.dict(os.environ, PAGES_OF_ITS_OWN), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_process, (lengths, torch.get_num_threads()))


def _two_steps(device: torch.device, lengths: Sequence[str]) -> None:
    step = Training(device, lengths)
    step()
    step()


def _peak_of_process(lengths: Sequence[str], threads: int) -> int:
    torch.set_num_threads(threads)
    torch.ones(8, 8) @ torch.ones(8, 8)
    before = _resident_peak()
    _two_steps(torch.device("cpu"), lengths)
    return _resident_peak() - before


def _resident_peak() -> int:
    """Most bytes that this process has had in memory; Linux tells. (`ru_maxrss` starts at its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def replicas(device: torch.device, rounds: int) -> list[Row]:
    """A ReViT-E step, a rank for each length, against one rank's step at the full length.

    On a CPU every rank has one core to itself; as many lengths are read as there are cores, at most 3.
    """
    places = torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))
    if places < 2:
        raise ValueError(f"replicas: a rank for each of 2 token lengths, but there is 1 {device.type} device")
    lengths = THREE if places > 2 else TWO
    times = launch(_replica_times, len(lengths), lengths, device.type, rounds)
    alone, together = times["alone"], times["together"]
    return [
        milliseconds("full length, one rank", alone),
        milliseconds(f"{names(lengths)}, {len(lengths)} ranks", together),
        ratio("ReViT-E step / full-length step", together, alone, Target(at_most=1.15)),
    ]


def _replica_times(lengths: Sequence[str], device: str, rounds: int) -> dict[str, Timing]:
    ranks = init(device)
    if device == "cpu":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[ranks.rank]})
        torch.set_num_threads(1)
    full = Training(ranks.device, lengths[:1]) if ranks.is_main else None
    shared = Training(ranks.device, lengths, in_length_groups(ranks, len(lengths)))

    def alone() -> None:
        if full:
            full()
        dist.barrier()

    try:
        return interleaved({"alone": alone, "together": shared}, rounds, ranks.device)
    finally:
        shutdown()


def growth(device: torch.device, rounds: int, picture: str = "") -> list[Row]:
    """Training time and parameters against the number of token lengths (the paper's Fig. 7).

    Args:
        picture: PNG file to draw.
    """
    counts = range(1, len(GROWTH) + 1)
    mixed = {k: Training(device, GROWTH[:k]) for k in counts}
    single = {length: Training(device, [length]) for length in GROWTH[1:]}
    actions: dict[str, Callable[[], object]] = {f"{k} lengths": step for k, step in mixed.items()}
    actions |= {length: step for length, step in single.items()}
    times = interleaved(actions, rounds, device, clock(device))
    each = [times["1 lengths"].median, *(times[length].median for length in GROWTH[1:])]
    seconds = {
        "separate models": [sum(each[:k]) for k in counts],
        "ReViT-B": [times[f"{k} lengths"].median for k in counts],
        "ReViT-E, slowest rank": [max(each[:k]) for k in counts],
    }
    of_each = [parameters(mixed[1].model), *(parameters(step.model) for step in single.values())]
    shared = [parameters(mixed[k].model) for k in counts]
    params = {
        "separate models": [sum(of_each[:k]) for k in counts],
        "ReViT-B": shared,
        "ReViT-E, slowest rank": shared,
    }
    if picture:
        with rc_context(RC), open(picture, "wb") as file:
            file.write(png(growth_figure(seconds, params)))
    return _growth_rows(seconds, params, mixed)


def _growth_rows(
    seconds: dict[str, list[float]], params: dict[str, list[int]], mixed: dict[int, Training]
) -> list[Row]:
    rows = []
    for n, k in enumerate(mixed):
        for way, values in seconds.items():
            rows.append(Row(f"{k} lengths, {way}: time a step", values[n] / values[0], "x one length"))
        for way in ("separate models", "ReViT-B"):
            rows.append(Row(f"{k} lengths, {way}: parameters", params[way][n] / 1e6, "M"))
        if n:
            before, now = mixed[k - 1].model, mixed[k].model
            more = 100 * (_beside_embedding(now) - _beside_embedding(before)) / parameters(before)
            title = f"length {k}: parameters more, patch embedding aside"
            rows.append(Row(title, more, "%", target=Target(at_most=1)))
    return rows


def growth_figure(seconds: dict[str, list[float]], params: dict[str, list[int]]) -> Figure:
    """Time a step and parameters, each relative to one length, against the number of lengths."""
    figure = canvas(3.6)
    time_axes, params_axes = figure.subplots(1, 2)
    for way, colour in COLOURS.items():
        for axes, values in ((time_axes, seconds[way]), (params_axes, params[way])):
            places = range(1, len(values) + 1)
            relative = [value / values[0] for value in values]
            style = "--" if way.startswith("ReViT-E") else "-"
            axes.plot(places, relative, style, marker="o", color=colour, mec="white", ms=8, label=way)
    for axes, title in ((time_axes, "Time a training step"), (params_axes, "Parameters")):
        axes.set(title=title, xlabel="token lengths", ylabel="relative to one length", xticks=range(1, 5))
        axes.set_ylim(bottom=0)
    handles, labels = time_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def parameters(model: ReViT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _beside_embedding(model: ReViT) -> int:
    return parameters(model) - sum(parameter.numel() for parameter in model.patch_embed.parameters())
