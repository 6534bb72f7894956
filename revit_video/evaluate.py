"""Evaluation: run every length once, replay every policy from that table, time the policies separately."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from revit_video.adaptive.engine import Engine, ask
from revit_video.adaptive.policies import Costs, Policy
from revit_video.adaptive.table import Table
from revit_video.data.batch import Batch
from revit_video.length import TokenLength
from revit_video.meters import VideoScores, right
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.inference import logits_at, logits_at_all, probabilities
from revit_video.runtime.ranks import Ranks

CONTROL = "control"  # the reference policy, timed a second time

# ---- Table -----------------------------------------------------------------------------------------------


@torch.inference_mode()
def tabulate(
    batches: Iterable[Batch],
    model: ResizableModel,
    ranks: Ranks,
    assigner: TokenLengthAssigner | None = None,
    keep_scores: bool = True,
    ensemble: str = "probabilities",
) -> Table:
    """Run every view at every length; returns the table of all ranks, on the main one alone with scores.

    Args:
        batches: this rank's share, the clips normalised and on the device.
        model: from `for_inference`.
        assigner: run too, if given.
        keep_scores: whether scores are kept and sent to the main rank; `correct` always is, to every rank.
        ensemble: how the views of a video answer together, see `meters.averaged`.
    """
    model.eval()
    parts = []
    for batch in batches:
        if len(batch):
            scores = probabilities(logits_at_all(model, batch.clips), model.config.multi_label)
            assigned = ask(assigner.eval(), batch.clips) if assigner else torch.empty(len(batch), 0)
        else:
            scores, assigned = torch.empty(0, 1, 1), torch.empty(0, 0)
        parts.append(_part(batch, scores.cpu(), assigned, keep_scores))
    light = [replace(part, scores=part.scores[..., :0]) for part in parts]
    everywhere = [part for own in ranks.gather(light) for part in own]
    whole = ranks.gather_on_main(parts) if keep_scores else []
    return replace(Table.joined(whole or everywhere), ensemble=ensemble)


def _part(batch: Batch, scores: Tensor, assigned: Tensor, keep_scores: bool) -> Table:
    """The table of one batch."""
    correct = right(scores, batch.labels[:, None])
    if not keep_scores:
        scores = scores.new_empty(*correct.shape, 0)
    views = (batch.paths, batch.rows, batch.labels, batch.starts, batch.clip_index, batch.crops)
    return Table(*views, correct, scores, assigned, batch.skipped)


def keep_first(batches: Iterable[Batch], kept: list[Batch], count: int, max_bytes: int) -> Iterator[Batch]:
    """Passes on `batches` and appends the first ones that are not empty to `kept`.

    Args:
        count, max_bytes: how much is kept at most; one batch is kept in any case.
    """
    for batch in batches:
        fits = len(kept) < count and sum(each.clips.nbytes for each in (*kept, batch)) <= max_bytes
        if len(batch) and (fits or not kept):
            kept.append(batch)
        yield batch


# ---- Replay ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Results of a policy on V views of N videos.

    Attributes:
        starts, lengths: position of the first length that each view was run at, and of the last `(V,)`.
        gmacs: cost of each view `(V,)`: all lengths that were run, and the assigner.
        videos: mean class probabilities, class labels and list rows of the videos, in the order of the list.
    """

    starts: Tensor
    lengths: Tensor
    gmacs: Tensor
    videos: VideoScores

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Answers on parts of a list with one view per video, in the order of the list."""
        order = torch.cat([part.videos.rows for part in parts]).argsort()
        starts, lengths, gmacs = (
            torch.cat([getattr(part, name) for part in parts])[order]
            for name in ("starts", "lengths", "gmacs")
        )
        columns = zip(*(part.videos for part in parts), strict=True)
        return cls(starts, lengths, gmacs, VideoScores(*(torch.cat(column)[order] for column in columns)))

    @property
    def mean_gmacs(self) -> float:
        """Mean cost per view."""
        return self.gmacs.mean().item()


def replay(table: Table, policy: Policy, costs: Costs) -> Answers:
    """Predictions and cost of `policy`, equal to those of running it on the views of `table`."""
    start, stop, _, videos = table.follow(policy)
    return Answers(start, stop, costs.spent(start, stop, policy.asks_assigner, policy.usable), videos)


# ---- Timing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Speed of one policy over the rounds; each field is (lower quartile, median, upper quartile).

    Attributes:
        clips_per_sec: views per second, over all ranks.
        speedup: against the reference policy in the same round.
    """

    clips_per_sec: tuple[float, float, float]
    speedup: tuple[float, float, float]


def speed_of_mix(answers: Answers, alone: Sequence[Speed], cumulative: bool, usable: Sequence[int]) -> Speed:
    """Speed of a policy without an assigner, from that of each length alone and the lengths of its answers.

    Args:
        cumulative, usable: see `Costs`.
    """

    def mixed(field: str) -> tuple[float, float, float]:
        low, median, high = (
            Costs([1 / getattr(each, field)[k] for each in alone], 0.0, cumulative)
            .spent(answers.starts, answers.lengths, False, usable)
            .mean()
            for k in range(3)
        )
        return 1 / low.item(), 1 / median.item(), 1 / high.item()

    return Speed(mixed("clips_per_sec"), mixed("speedup"))


def time_policies(
    engines: Mapping[str, Engine],
    batches: Sequence[Batch],
    ranks: Ranks,
    rounds: int = 5,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Speed]:
    """Time the policies without decoding, on batches that are already on the device.

    Each round runs every policy over all batches; the rounds start at evenly spaced policies. The first
    engine is the reference of the speed-ups; it runs twice per round, the second time as a control.

    Args:
        batches: this rank's share; may be empty on some ranks, but not on all.
        between: called before each policy's turn.
    """
    names = [*engines, CONTROL]
    reference = next(iter(engines))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for n in range(rounds if batches else 0):
        first = n * len(names) // rounds
        for name in names[first:] + names[:first]:
            between()
            engine = engines[reference if name == CONTROL else name]
            if n == 0:
                engine(batches[0].clips, batches[0].rows)  # warm-up
            seconds[name].append(_seconds(engine, batches))
    shares = ranks.gather((sum(map(len, batches)), seconds))
    views = sum(count for count, _ in shares)
    slowest = {
        name: torch.tensor([own[name] for _, own in shares if own[name]], dtype=torch.float64).amax(dim=0)
        for name in names
    }
    return {
        name: Speed(_quartiles(views / times), _quartiles(slowest[reference] / times))
        for name, times in slowest.items()
    }


@torch.inference_mode()
def milliseconds(
    model: ResizableModel, assigner: TokenLengthAssigner | None, clips: Tensor, rounds: int = 7
) -> Costs:
    """Costs in milliseconds per view instead of GMACs: medians over `rounds`, in batches like `clips`.

    Those of the shorter lengths contain the copy of the clips into a bucket.
    """
    order, bucket = torch.arange(len(clips), device=clips.device).flip(0), torch.empty_like(clips)

    def from_bucket(length: TokenLength) -> None:
        logits_at(model, torch.index_select(clips, 0, order, out=bucket), length)

    runs: list[Callable[[], object]] = [partial(logits_at, model, clips, model.lengths[0])]
    runs += [partial(from_bucket, length) for length in model.lengths[1:]]
    if assigner is not None:
        runs.append(partial(ask, assigner.eval(), clips))
    seconds: list[list[float]] = [[] for _ in runs]
    for n in range(rounds + 1):
        for own, run in zip(seconds, runs, strict=True):
            _wait_for(clips.device)
            start = time.perf_counter()
            run()
            _wait_for(clips.device)
            if n > 0:  # the first is for warming up
                own.append(time.perf_counter() - start)
    medians = [1000 * statistics.median(own) / len(clips) for own in seconds]
    lengths = len(model.lengths)
    return Costs(medians[:lengths], sum(medians[lengths:]), model.carries_state)


def _seconds(engine: Engine, batches: Sequence[Batch]) -> float:
    device = batches[0].clips.device
    _wait_for(device)
    start = time.perf_counter()
    for batch in batches:
        engine.submit(batch.clips, batch.rows)
    engine.flush()
    _wait_for(device)
    return time.perf_counter() - start


def _quartiles(values: Tensor) -> tuple[float, float, float]:
    low, median, high = values.quantile(values.new_tensor([0.25, 0.5, 0.75])).tolist()
    return low, median, high


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":  # a run on the CPU leaves a GPU alone
        torch.cuda.synchronize(device)
