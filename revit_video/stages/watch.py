"""What a run says of itself on the way: how long it will take, its memory, and whether it learns."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from typing import TypeVar

import torch

from revit_video.data.lists import labelled_files
from revit_video.runtime import output_dir
from revit_video.runtime.text import time_in_words
from revit_video.stages.job import Job
from revit_video.stages.validation import trained_model
from revit_video.train.loop import Training

TIMED = 5  # steps, by which the time of all is judged
CHECKED_AT = 200  # steps after which a training should have begun to learn, or half of them after the warm-up
FEWEST = 20  # steps of a training from which something is expected
LAST_LINES = 5  # of stats.jsonl, over which the loss is averaged
CLEARLY = 0.95  # of the loss of chance

Each = TypeVar("Each")

logger = logging.getLogger(__name__)


def watched(steps: Iterator[bool], job: Job, training: Training) -> Iterator[bool]:
    """Passes the steps of a training on; what happens between them is not in the time."""
    begun, seconds = training.iteration, 0.0
    last = training.epochs * training.batches_per_epoch
    warm = round(job.cfg.SOLVER.WARMUP_EPOCHS * training.batches_per_epoch)
    check = min(last, max(CHECKED_AT, warm + CHECKED_AT // 2))
    for done in count(1):
        since = time.monotonic()
        stop = next(steps, None)
        if stop is None:
            return
        seconds += time.monotonic() - since if done > 1 else 0.0  # the first one warms up
        if done == TIMED + 1:
            say_time("training", seconds / TIMED * (last - begun), training.ranks.device)
        if begun + done == check >= FEWEST and job.ranks.is_main:
            check_learning(job, check, str(trained_model(training).lengths[0]))
        yield stop


def timed(batches: Iterable[Each], total: int, what: str, device: torch.device) -> Iterator[Each]:
    """Passes batches on, and says after a few how long all take, with what is done in between."""
    since = time.monotonic()
    for done, batch in enumerate(batches):
        if done == 1:
            since = time.monotonic()
        if done == TIMED + 1:
            say_time(what, (time.monotonic() - since) / TIMED * total, device)
        yield batch


def say_time(what: str, seconds: float, device: torch.device) -> None:
    """Logs how long a piece of work takes in all, as measured on its first batches, and the memory so far."""
    logger.info(
        "%s takes about %s in all, as its first batches went; %s",
        what,
        time_in_words(seconds),
        memory(device),
    )


def memory(device: torch.device) -> str:
    """The most memory that was taken so far, in words."""
    words = f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    if device.type == "cuda":
        words += f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of the GPU"
    return words


def check_learning(job: Job, step: int, length: str) -> None:
    """Warns where the training loss of the longest length is not clearly under that of guessing.

    A guess names each class with its share of the training list.
    """
    cfg = job.cfg
    lines = [line for line in output_dir.read_stats(cfg.OUTPUT_DIR) if line["stage"] == "train"]
    losses = [line[f"loss_{length}"] for line in lines[-LAST_LINES:] if f"loss_{length}" in line]
    chance = loss_of_guessing(
        [label for _, label in labelled_files(job.data.videos("train"))],
        cfg.MODEL.NUM_CLASSES,
        cfg.SOLVER.LABEL_SMOOTHING,
    )
    if not losses or (loss := sum(losses) / len(losses)) < CLEARLY * chance:
        return
    logger.warning(
        "not learning: after %d steps the training loss of %s is %.2f, that of guessing is %.2f. %s",
        *(step, length, loss, chance, "; ".join(likely_causes(job, step))),
    )


def loss_of_guessing(labels: Sequence[int | tuple[int, ...]], classes: int, smoothing: float = 0.0) -> float:
    """The least cross-entropy of an answer that is the same for every clip.

    Args:
        labels: of each clip; with several of them, of the classes' mean binary cross-entropy.
        smoothing: of one label a clip.
    """
    listed = [label if isinstance(label, tuple) else (label,) for label in labels]
    counts = Counter(chain.from_iterable(listed))
    shares = [counts[n] / len(labels) for n in range(classes)]
    if isinstance(labels[0], tuple):
        return sum(_entropy(share) + _entropy(1 - share) for share in shares) / classes
    return sum(_entropy((1 - smoothing) * share + smoothing / classes) for share in shares)


def _entropy(share: float) -> float:
    return -share * math.log(share) if share > 0 else 0.0


def likely_causes(job: Job, step: int) -> list[str]:
    """Why a training may stay at chance, what is likeliest with this config first."""
    cfg, clips = job.cfg, len(job.data.videos("train"))
    solver, seen = cfg.SOLVER, step * cfg.TRAIN.BATCH_SIZE
    causes = []
    if step < CHECKED_AT:
        causes.append(f"{step} steps are few: more (SOLVER.MIN_STEPS 500), or smaller batches")
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and solver.HEAD_LR_FACTOR < 10 and cfg.TRAIN.METHOD != "unfreeze":
        causes.append(
            "the head starts at random and learns as slowly as pretrained weights: SOLVER.HEAD_LR_FACTOR 100"
        )
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        causes.append(
            f"it starts from random weights and has seen {seen:,} clips: TRAIN.CHECKPOINT_FILE_PATH"
        )
    if clips < 2000:
        frozen = "Custom/cpu.yaml" if cfg.DATA.NUM_FRAMES > 1 else "Images/frozen.yaml"
        causes.append(f"{clips} clips are few for a whole model: configs/{frozen} trains heads alone")
    return [*causes, "SOLVER.BASE_LR may be too low or too high; labels may not fit the clips"]
