"""Running a model over a list of videos: every length (mining, calibration) or every policy (the test)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.calibrate import Readings
from revit_video.adaptive.labels import MinedLabels, token_length_labels
from revit_video.adaptive.policies import Assigned, Policy, Prediction, Static, Views, mean_by_video
from revit_video.data.batch import Batch, Skipped
from revit_video.length import TokenLength
from revit_video.meters import by_video, counts_by_name, topk
from revit_video.models.base import ResizableModel
from revit_video.models.inference import logits_at_all
from revit_video.runtime.ranks import Ranks, gather_objects


class Table(NamedTuple):
    """What every length says of every view, in the order of (row, view).

    Attributes:
        paths: video of each view, B of them.
        rows, labels, starts, clip_index, crops: of each view `(B,)`.
        correct: whether each length is right on each view `(B, lengths)`.
        scores: class probabilities at each length `(B, lengths, classes)`; `(B, lengths, 0)` if not kept.
        assigned: the assigner's probabilities `(B, lengths)`, empty without an assigner.
        skipped: unreadable videos and why.
    """

    paths: list[str]
    rows: Tensor
    labels: Tensor
    starts: Tensor
    clip_index: Tensor
    crops: Tensor
    correct: Tensor
    scores: Tensor
    assigned: Tensor
    skipped: list[Skipped]

    @property
    def readings(self) -> Readings:
        """What calibration needs of the table."""
        return Readings(self.scores, self.labels, self.rows)


@torch.inference_mode()
def tabulate(
    batches: Iterable[Batch],
    model: ResizableModel,
    ranks: Ranks,
    assigned: Assigned | None = None,
    keep_scores: bool = True,
) -> Table:
    """Reads every view at every length, with the read-out that inference uses; on all ranks.

    Args:
        batches: this rank's share, normalised and on the device.
        model: as `for_inference` gives it.
        assigned: a policy whose assigner is asked as well.
        keep_scores: off, of hundreds of scores a view only `correct` is kept and sent between ranks.
    """
    model.eval()
    parts, skipped = [], []
    for batch in batches:
        skipped += batch.skipped
        if not len(batch):
            continue
        scores = logits_at_all(model, batch.clips).softmax(dim=2).cpu()
        views = Views(batch.clips, torch.arange(len(batch)), batch.rows.cpu())
        asked = assigned.probabilities(views) if assigned else scores.new_empty(len(batch), 0)
        parts.append(_Part(batch, scores, asked, keep_scores))
    gathered = gather_objects((parts, skipped), ranks)
    every_part = [part for own, _ in gathered for part in own]
    return _in_order(_table(every_part, [skip for _, own in gathered for skip in own]))


class _Part:
    """One batch's contribution to a `Table`, on the CPU and without the clips."""

    def __init__(self, batch: Batch, scores: Tensor, assigned: Tensor, keep_scores: bool = True) -> None:
        self.paths = batch.paths
        views = [v.cpu() for v in (batch.rows, batch.labels, batch.starts, batch.clip_index, batch.crops)]
        correct = scores.argmax(dim=2) == views[1][:, None]
        if not keep_scores:
            scores = scores.new_empty(*correct.shape, 0)
        self.columns = [*views, correct, scores, assigned]


def _table(parts: Sequence[_Part], skipped: list[Skipped]) -> Table:
    """All parts, one after the other."""
    if not parts:
        raise ValueError(
            "no video could be read" + (f"; the first: {': '.join(skipped[0])}" if skipped else "")
        )
    columns = [torch.cat(column) for column in zip(*(part.columns for part in parts), strict=True)]
    paths = [path for part in parts for path in part.paths]
    return Table(paths, *columns, sorted(skipped))  # type: ignore


def _in_order(table: Table) -> Table:
    """The same table with its views in the order of the list, whatever ranks they came from."""
    keys = list(zip(table.rows.tolist(), table.clip_index.tolist(), table.crops.tolist(), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    paths, *columns, skipped = table
    return Table([paths[n] for n in order], *(column[order] for column in columns), skipped)  # type: ignore


def static_top1(table: Table, lengths: Sequence[TokenLength]) -> dict[str, float]:
    """Top-1 in percent of each length, a video's views averaged."""
    result = {}
    for i, length in enumerate(lengths):
        videos = by_video(table.scores[:, i], table.labels, table.rows)
        result[str(length)] = topk(videos.scores, videos.labels, 1)
    return result


def mined_labels(
    table: Table, lengths: Sequence[TokenLength], none_correct: str, checkpoint: str
) -> MinedLabels:
    """The token-length label of every clip of `table` (paper section 3.1).

    A video shorter than a clip has the same one several times; the first of them stands for all.
    """
    same_clip = (table.rows[1:] == table.rows[:-1]) & (table.starts[1:] == table.starts[:-1])
    first = torch.cat([torch.tensor([True]), ~same_clip])
    correct = table.correct[first]
    return MinedLabels(
        lengths=tuple(lengths),
        videos=[path for path, kept in zip(table.paths, first.tolist(), strict=True) if kept],
        rows=table.rows[first],
        starts=table.starts[first],
        views=table.clip_index[first],
        classes=table.labels[first],
        correct=correct,
        labels=token_length_labels(correct, none_correct),
        checkpoints=(checkpoint,),
    )


class Score(NamedTuple):
    """One policy's result on a list; accuracies in percent over videos, cost in GMACs a view."""

    top1: float
    top5: float
    gmacs: float
    clips_per_sec: float
    length_counts: dict[str, int]

    def as_dict(self, longest: Score) -> dict[str, Any]:
        """For `results.json`; speed-ups are against always reading the longest length."""
        return self._asdict() | {
            "speedup": self.clips_per_sec / longest.clips_per_sec,
            "macs_speedup": longest.gmacs / self.gmacs,
        }


class Evaluation(NamedTuple):
    """Every policy's result on one list.

    Attributes:
        scores: by policy.
        table: what the static policies and the assigner said of every view.
        videos: list rows of the videos `(N,)`, ascending.
        paths, labels: of each video.
        predicted: class of each video by policy `(N,)`.
        lengths: position of the length that each video's first view was read at, by policy `(N,)`.
    """

    scores: dict[str, Score]
    table: Table
    videos: Tensor
    paths: list[str]
    labels: Tensor
    predicted: dict[str, Tensor]
    lengths: dict[str, Tensor]


@torch.inference_mode()
def evaluate(batches: Iterable[Batch], policies: Mapping[str, Policy], ranks: Ranks) -> Evaluation:
    """Runs all policies over one pass of `batches`, in turn on each batch, so that timings compare.

    Timings are of the policy and the model; decoding is left out, and so is a first, untimed call of
    each policy. Static policies come before the others, since they tell the oracle the true lengths.

    Args:
        batches: this rank's share, normalised and on the device; a video's views in one batch.
        policies: by name; the static ones in the order of the model's lengths. The first one's model is the
            one whose static policies make the table; those of other models are timed like any policy.
    """
    first = _model(policies)
    statics = {
        n: policy for n, policy in policies.items() if isinstance(policy, Static) and policy.model is first
    }
    others = {name: policy for name, policy in policies.items() if name not in statics}
    runs = {name: _Run() for name in policies}
    parts: list[_Part] = []
    skipped, count = [], 0
    for batch in batches:
        skipped += batch.skipped
        if not len(batch):
            continue
        views = Views(batch.clips, torch.arange(count, count + len(batch)), batch.rows.cpu())
        if count == 0:
            _warm_up(policies, views)
        count += len(batch)
        turn = len(parts)
        answers = {name: runs[name].timed(_at_once, p, views)[0] for name, p in _rotated(statics, turn)}
        scores = [answers[name].logits.softmax(dim=1).cpu() for name in statics]
        if len(scores) == len(first.lengths):
            views = views._replace(truth=_true_lengths(scores, batch))
        for name, policy in _rotated(others, turn):
            runs[name].timed(policy.submit, views)
        asked = [policy.answer for policy in others.values() if isinstance(policy, Assigned)]
        nothing = torch.empty(len(batch), 0, 1)
        by_length = torch.stack(scores, dim=1) if scores else nothing
        parts.append(_Part(batch, by_length, asked[0] if asked else nothing.flatten(1)))
    for name, policy in others.items():
        runs[name].timed(policy.flush)
    finished = {
        name: (Prediction.joined(run.predictions), run.seconds) for name, run in runs.items() if parts
    }
    shares = gather_objects((parts, skipped, finished), ranks)
    table = _table(
        [part for own, _, _ in shares for part in own], [skip for _, own, _ in shares for skip in own]
    )
    return _scored(table, [own for _, _, own in shares if own], _model(policies).lengths)


class _Run:
    """One policy's predictions, and the seconds they took."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        self.seconds = 0.0

    def timed(self, call: Callable[..., list[Prediction]], *arguments: Any) -> list[Prediction]:
        _wait_for_device()
        start = time.perf_counter()
        predictions = call(*arguments)
        _wait_for_device()
        self.seconds += time.perf_counter() - start
        self.predictions += [Prediction(*(part.cpu() for part in each)) for each in predictions]
        return predictions


def _at_once(policy: Policy, views: Views) -> list[Prediction]:
    return [policy(views)]


def _rotated(policies: Mapping[str, Policy], turn: int) -> list[tuple[str, Policy]]:
    """The policies, each batch beginning with another: whoever follows the decoder finds cold caches."""
    items = list(policies.items())
    first = turn % max(len(items), 1)
    return items[first:] + items[:first]


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _warm_up(policies: Mapping[str, Policy], views: Views) -> None:
    for policy in policies.values():
        policy(views._replace(truth=torch.zeros(len(views.clips), dtype=torch.long)))


def _model(policies: Mapping[str, Policy]) -> ResizableModel:
    return next(iter(policies.values())).model


def _true_lengths(scores: Sequence[Tensor], batch: Batch) -> Tensor:
    """Position of the shortest length that classifies each view's *video* correctly, `(B,)`."""
    videos, labels = batch.rows.cpu(), batch.labels.cpu()
    correct = [mean_by_video(each, videos).argmax(dim=1) == labels for each in scores]
    return token_length_labels(torch.stack(correct, dim=1))


def _scored(
    table: Table, shares: Sequence[Mapping[str, tuple[Prediction, float]]], lengths: Sequence[TokenLength]
) -> Evaluation:
    """Scores every policy; the predictions of all `shares` together are in the order of `table`."""
    first = {row: n for n, row in reversed(list(enumerate(table.rows.tolist())))}
    first_view = [first[row] for row in sorted(first)]
    scores, predicted, read_at = {}, {}, {}
    for name in shares[0]:
        parts = [share[name] for share in shares]
        logits, choices, cost = (
            torch.cat([getattr(prediction, what) for prediction, _ in parts])
            for what in ("logits", "lengths", "cost")
        )
        videos = by_video(logits.softmax(dim=1), table.labels, table.rows)
        scores[name] = Score(
            top1=topk(videos.scores, videos.labels, 1),
            top5=topk(videos.scores, videos.labels, 5),
            gmacs=cost.double().mean().item(),
            clips_per_sec=len(table.rows) / max(seconds for _, seconds in parts),
            length_counts=counts_by_name(choices, [str(length) for length in lengths]),
        )
        predicted[name] = videos.scores.argmax(dim=1)
        read_at[name] = choices[first_view]
    paths = [table.paths[n] for n in first_view]
    return Evaluation(
        scores, table, table.rows[first_view], paths, table.labels[first_view], predicted, read_at
    )
