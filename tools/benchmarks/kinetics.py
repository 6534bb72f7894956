"""Training, mining and testing with the Kinetics configs on one device, on clips from memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from benchmarks.forward import stream
from benchmarks.timing import Effort, Measurement, Timing, interleaved
from revit_video import flops
from revit_video.adaptive.engine import Engine
from revit_video.adaptive.policies import Costs, static
from revit_video.config.shipped import find_config
from revit_video.data.batch import Batch
from revit_video.data.transforms import Normalize
from revit_video.evaluate import tabulate
from revit_video.from_cfg.inputs import eval_batch_size
from revit_video.from_cfg.model import build_model, reader
from revit_video.from_cfg.resolve import load_checked
from revit_video.from_cfg.training import build_optimizer, compile_model, learning_rate
from revit_video.models.base import ResizableModel
from revit_video.runtime.logging import StatsLog
from revit_video.runtime.ranks import Ranks
from revit_video.stages.train import training_step
from revit_video.train.loop import Training, fit

STEPS, VIEWS = 8, 192  # in one round: training steps; views that are mined, and tested at each length
BASE = "Kinetics/ReViT_TimeSformer_divST_8x32_224"
HIGH_RESOLUTION = "Kinetics/ReViT_TimeSformer-HR_divST_16x16_448"
# Each GPU's share of the configs' steps on eight.
SHARE = {"TRAIN.BATCH_SIZE": 8, "TEST.BATCH_SIZE": 0, "ASSIGNER.ENABLE": False}
# On a CPU only shows that the command works.
REDUCED = SHARE | {"TRAIN.BATCH_SIZE": 2, "MODEL.EMBED_DIM": 48, "MODEL.DEPTH": 1, "MODEL.NUM_HEADS": 4}
Case = tuple[str, list[str], dict[str, Any]]  # config, token lengths, what differs
FULL: dict[str, Case] = {
    "8x224 at 14": (BASE, ["14x14"], SHARE),
    "8x224 at 14, 7": (BASE, ["14x14", "7x7"], SHARE),
    "8x224 at 14, 10, 7": (BASE, ["14x14", "10x10", "7x7"], SHARE),
    "16x448 at 28, 14": (HIGH_RESOLUTION, ["28x28", "14x14"], SHARE),
    "16x448 at 28": (HIGH_RESOLUTION, ["28x28"], SHARE),
    "8x224 at 14, 7, compiled": (BASE, ["14x14", "7x7"], SHARE | {"MODEL.COMPILE": True}),
}
TINY: dict[str, Case] = {
    "8x224 at 14, reduced": (BASE, ["14x14"], REDUCED),
    "8x224 at 14, 7, reduced": (BASE, ["14x14", "7x7"], REDUCED),
}


def kinetics(device: torch.device, effort: Effort) -> list[Measurement]:
    """Views/s in training, mining and testing, and the memory of training, each case a part of the suite."""
    full = device.type == "cuda"
    rows: list[Measurement] = []
    for title, (config, lengths, changes) in effort.parts(FULL if full else TINY):
        keys = changes | {"DEVICE": device.type, "REVIT.TOKEN_LENGTHS": lengths, "LOG_PERIOD": STEPS}
        cfg = load_checked(find_config(config), [word for pair in keys.items() for word in pair])
        rows += _measured(title, cfg, Ranks(0, 1, device), effort, VIEWS if full else 8)
    return rows


@dataclass(frozen=True)
class FromMemory:
    """Random clips as the loaders have decoded them, which are brought to the device and normalised."""

    cfg: CfgNode
    ranks: Ranks

    def clips(self, count: int) -> Tensor:
        data = self.cfg.DATA
        size = (count, 3, data.NUM_FRAMES, data.TRAIN_CROP_SIZE, data.TRAIN_CROP_SIZE)
        made = torch.randint(256, size, dtype=torch.uint8)
        return made.pin_memory() if self.ranks.device.type == "cuda" else made

    def batch(self, count: int) -> Batch:
        number, labels = torch.arange(count), torch.arange(count) % self.cfg.MODEL.NUM_CLASSES
        return Batch(self.clips(count), labels, number, number.double(), number, number, ["memory"] * count)

    def read(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The batches on the device, their clips normalised."""
        normalize = Normalize(self.cfg.DATA.MEAN, self.cfg.DATA.STD).to(self.ranks.device)
        for batch in batches:
            moved = batch.to(self.ranks.device, non_blocking=True)
            yield replace(moved, clips=normalize(moved.clips))


def _measured(title: str, cfg: CfgNode, ranks: Ranks, effort: Effort, views: int) -> Iterator[Measurement]:
    """One case: its training goes on from round to round, and a copy of the untrained model is tested."""
    memory, device, peaks = FromMemory(cfg, ranks), ranks.device, list[float]()
    model = build_model(cfg).to(device)
    fast = reader(cfg, model)
    steps = _training(cfg, model, memory, (effort.rounds + 1) * STEPS)
    size = min(views, eval_batch_size(cfg, ranks, 1))
    batches = [memory.batch(size) for _ in range(views // size)]

    def train() -> None:
        deque(islice(steps, STEPS), maxlen=0)
        peaks.append(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)

    actions: dict[str, Callable[[], object]] = {
        "training": train,
        "mining": lambda: tabulate(memory.read(batches), fast, ranks, keep_scores=False),
    }
    costs = Costs([each["gmacs"] for each in flops.cost_table(model, 1)["lengths"].values()])
    for i, length in enumerate(fast.lengths):
        engine = Engine(fast, static(i), costs, None, size)
        clips = next(memory.read(batches[:1])).clips
        actions[f"testing at {length}"] = partial(stream, engine, clips, len(batches) * size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = interleaved(actions, effort, device)
    yield _per_second(f"{title}: training", times["training"], STEPS * cfg.TRAIN.BATCH_SIZE)
    if device.type == "cuda":
        yield Measurement(f"{title}: peak memory, batch {cfg.TRAIN.BATCH_SIZE}", peaks[0] / 2**30, "GiB")
    for name in list(actions)[1:]:
        yield _per_second(f"{title}: {name}", times[name], len(batches) * size)


def _training(cfg: CfgNode, model: ResizableModel, memory: FromMemory, steps: int) -> Iterator[bool]:
    """The product's own loop, one iteration after the other."""
    ranks, share = memory.ranks, [memory.batch(cfg.TRAIN.BATCH_SIZE)]
    compile_model(cfg, model, ranks, steps)

    def batches(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        for batch in memory.read(share * steps):
            yield batch.clips, batch.labels, batch.paths

    training = Training(
        model,
        training_step(cfg, ranks, model),
        build_optimizer(cfg, model),
        batches,
        steps,
        cfg.TRAIN.BATCH_SIZE,
        learning_rate(cfg, steps),
        1,
        ranks,
        accumulate=cfg.TRAIN.ACCUMULATE,
        clip_gradient=cfg.SOLVER.CLIP_GRADIENT,
        log_period=cfg.LOG_PERIOD,
    )
    return fit(training, StatsLog(cfg.OUTPUT_DIR, tensorboard=False, active=False))


def _per_second(name: str, timing: Timing, views: int) -> Measurement:
    return Measurement.of(name, [views / seconds for seconds in timing.seconds], "views/s")
