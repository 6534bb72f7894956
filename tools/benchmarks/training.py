"""Training speed: several token lengths per step against one, on one rank and with a rank per length."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.forward import milliseconds
from benchmarks.timesformer import LENGTHS, base, clock, dvt_base, gmacs, random_clips
from benchmarks.timing import Measurement, Target, Timing, interleaved, ratio
from revit_video.models.base import ResizableModel
from revit_video.models.revit import ReViT
from revit_video.report.style import DVT, POLICIES, RC, canvas, png
from revit_video.runtime.launch import launch
from revit_video.runtime.ranks import Ranks, in_length_groups, init, reduce_gradients, shutdown
from revit_video.train.cascade import CascadeStep
from revit_video.train.losses import Distillation
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import MixedLengthStep, Step

FULL, TWO, THREE = LENGTHS[:1], (LENGTHS[0], LENGTHS[2]), LENGTHS
GROWTH = ("14x14", "10x10", "7x7", "4x4")
CPU_DEPTH = 4  # of the 12 blocks, so that a suite ends within minutes
PAGES_OF_ITS_OWN = {"MALLOC_MMAP_THRESHOLD_": "65536"}
SEPARATE, REVIT_B, REVIT_E, CASCADE = "separate models", "ReViT-B", "ReViT-E, slowest rank", "DVT"
COLOURS = {SEPARATE: "#8a939c", REVIT_B: "#14365c", REVIT_E: POLICIES["adaptive"][0], CASCADE: DVT[0]}


def train(device: torch.device, rounds: int) -> list[Measurement]:
    """One step of several lengths (ReViT-B) against one of the full length: time and peak memory."""
    steps = {lengths: at_base_width(device, lengths) for lengths in (FULL, TWO, THREE)}
    actions = {names(lengths): step for lengths, step in steps.items()}
    times = interleaved(actions, rounds, device, clock(device))
    memory = {lengths: peak_memory(device, lengths) for lengths in steps}
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
    """One training step on the same random clips, again and again; the weights are updated.

    Args:
        step: adds the gradients.
        batch: clips a step.
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
        self.optimizer = optimizer or torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def __call__(self) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        metrics = self.step(self.clips, self.labels)
        reduce_gradients(self.model.parameters(), self.ranks)
        self.optimizer.step()
        return metrics


def at_base_width(device: torch.device, lengths: Sequence[str], ranks: Ranks | None = None) -> TimedStep:
    """TimeSformer-base at all of `lengths` in turn, or with `ranks` at a length a rank."""
    depth, batch, autocast = _reduced(device)
    model = base(device, lengths, depth)
    method = ReplicaStep if ranks else MixedLengthStep
    ranks = ranks or Ranks(0, 1, device)
    return TimedStep(model, method(model, Distillation(), ranks, autocast=autocast), ranks, batch)


def cascade_at_base_width(device: torch.device, lengths: Sequence[str]) -> TimedStep:
    """DVT of a TimeSformer-base for each of `lengths`."""
    depth, batch, autocast = _reduced(device)
    model = dvt_base(device, lengths, depth)
    return TimedStep(model, CascadeStep(model, autocast=autocast), Ranks(0, 1, device), batch)


def _reduced(device: torch.device) -> tuple[int, int, torch.dtype | None]:
    """Blocks, clips a step and the dtype of mixed precision: less of all on a CPU."""
    return (CPU_DEPTH, 2, None) if device.type == "cpu" else (12, 8, torch.bfloat16)


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
    """Most bytes that this process has had in memory; Linux tells. (`ru_maxrss` starts at its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]


def replicas(device: torch.device, rounds: int) -> list[Measurement]:
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
    full = at_base_width(ranks.device, lengths[:1]) if ranks.is_main else None
    shared = at_base_width(ranks.device, lengths, in_length_groups(ranks, len(lengths)))

    def alone() -> None:
        if full:
            full()
        dist.barrier()

    try:
        return interleaved({"alone": alone, "together": shared}, rounds, ranks.device)
    finally:
        shutdown()


def growth(device: torch.device, rounds: int, picture: str = "") -> list[Measurement]:
    """Training time and parameters against the number of token lengths (the paper's Fig. 7).

    Args:
        picture: PNG file to draw.
    """
    grown = time_growth(
        GROWTH, partial(at_base_width, device), partial(cascade_at_base_width, device), rounds, device
    )
    if picture:
        with rc_context(RC), open(picture, "wb") as file:
            file.write(png(growth_figure(grown)))
    return _growth_rows(grown)


class Growth(NamedTuple):
    """What the first k of some token lengths take to train, k = 1, 2, ...

    Attributes:
        seconds: of a step, by way and k, a value a round. Separate models: one a length, trained one after
            the other. ReViT-E: each length on a rank of its own, without the ranks' talk.
        params: parameters by way and k.
        beside_embedding: of these ReViT's, its patch embeddings left out.
    """

    seconds: dict[str, list[tuple[float, ...]]]
    params: dict[str, list[int]]
    beside_embedding: list[int]

    def time(self, way: str, k: int) -> float:
        """Median seconds of a step."""
        return median(self.seconds[way][k - 1])

    def to_one(self, way: str, k: int) -> float:
        """The step's time in those of one length's in the same round, median."""
        times = self.seconds[way]
        return median(some / one for some, one in zip(times[k - 1], times[0], strict=True))


def time_growth(
    lengths: Sequence[str],
    revit: Callable[[Sequence[str]], TimedStep],
    cascade: Callable[[Sequence[str]], TimedStep] | None,
    rounds: int,
    device: torch.device,
) -> Growth:
    """Times the steps of all ways in turn.

    Args:
        lengths: longest first.
        revit, cascade: make the training of a ReViT, and of DVT, with some lengths; None: without DVT.
    """
    counts = range(1, len(lengths) + 1)
    mixed = [revit(lengths[:k]) for k in counts]
    single = [mixed[0], *(revit([length]) for length in lengths[1:])]
    stacked = []
    if cascade:
        stacked = [mixed[0], *(cascade(lengths[:k]) for k in counts[1:])]  # with one length, a model like any
    steps = {id(step): step for step in (*mixed, *single, *stacked)}
    actions: dict[str, Callable[[], object]] = {str(name): step for name, step in steps.items()}
    times = interleaved(actions, rounds, device, clock(device))

    def seconds(step: TimedStep) -> tuple[float, ...]:
        return times[str(id(step))].seconds

    each = [seconds(step) for step in single]
    own = [parameters(step.model) for step in single]
    shared = [parameters(step.model) for step in mixed]
    of_steps: dict[str, list[tuple[float, ...]]] = {
        SEPARATE: [tuple(map(sum, zip(*each[:k], strict=True))) for k in counts],
        REVIT_B: [seconds(step) for step in mixed],
        REVIT_E: [tuple(map(max, zip(*each[:k], strict=True))) for k in counts],
        CASCADE: [seconds(step) for step in stacked],
    }
    params = {
        SEPARATE: [sum(own[:k]) for k in counts],
        REVIT_B: shared,
        REVIT_E: shared,
        CASCADE: [parameters(step.model) for step in stacked],
    }
    return Growth(
        {way: times for way, times in of_steps.items() if times},
        {way: counted for way, counted in params.items() if counted},
        [_beside_embedding(step.model) for step in mixed],
    )


def _growth_rows(grown: Growth) -> list[Measurement]:
    rows = []
    for n in range(len(grown.beside_embedding)):
        k = n + 1
        for way in grown.seconds:
            rows.append(Measurement(f"{k} lengths, {way}: time a step", grown.to_one(way, k), "x one length"))
        for way in (SEPARATE, REVIT_B, CASCADE):
            rows.append(Measurement(f"{k} lengths, {way}: parameters", grown.params[way][n] / 1e6, "M"))
        if n:
            more = grown.beside_embedding[n] - grown.beside_embedding[n - 1]
            title = f"length {k}: parameters more, patch embedding aside"
            share = 100 * more / grown.params[REVIT_B][n - 1]
            rows.append(Measurement(title, share, "%", target=Target(at_most=1)))
    return rows


def growth_figure(grown: Growth) -> Figure:
    """Time a step and parameters, each relative to one length, against the number of lengths."""
    figure = canvas(3.6)
    time_axes, params_axes = figure.subplots(1, 2)
    counts = range(1, len(grown.beside_embedding) + 1)
    for way in grown.seconds:
        colour, params = COLOURS[way], grown.params[way]
        times = [grown.to_one(way, k) for k in counts]
        for axes, relative in ((time_axes, times), (params_axes, [each / params[0] for each in params])):
            style = "--" if way == REVIT_E else "-"
            axes.plot(counts, relative, style, marker="o", color=colour, mec="white", ms=8, label=way)
    for axes, title in ((time_axes, "Time a training step"), (params_axes, "Parameters")):
        axes.set(title=title, xlabel="token lengths", ylabel="relative to one length", xticks=counts)
        axes.set_ylim(bottom=0)
    handles, labels = time_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _beside_embedding(model: ResizableModel) -> int:
    (revit,) = model.parts
    return parameters(revit) - parameters(revit.patch_embed)
