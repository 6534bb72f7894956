"""The predictions of every token length for every view of a list: computed once, evaluated many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.labels import MinedLabels, token_length_labels
from revit_video.adaptive.policies import Known, Policy, mean_by_video
from revit_video.data.batch import Skipped
from revit_video.length import TokenLength
from revit_video.meters import VideoScores, averaged, by_video, right
from revit_video.models.inference import confidence

COLUMNS = ("rows", "labels", "starts", "clip_index", "crops", "correct", "scores", "assigned")


class Followed(NamedTuple):
    """What a policy does with V views of N videos.

    Attributes:
        start, stop: the first and the last length at which each view is run `(V,)`.
        agreed: whether the answers after all lengths that are run name the same class `(V,)`.
        videos: the videos' answers.
    """

    start: Tensor
    stop: Tensor
    agreed: Tensor
    videos: VideoScores


@dataclass(frozen=True)
class Table:
    """V views in the order of (row, clip, crop); lengths are ordered longest first.

    Attributes:
        paths: video of each view.
        rows: position of the video in its list `(V,)`.
        labels: class label `(V,)`, or with several `(V, classes)`, true for each.
        starts: start of the clip in seconds `(V,)`.
        clip_index, crops: number of the clip within its video and of the crop within its clip `(V,)`.
        correct: whether each length classifies the view correctly `(V, lengths)`.
        scores: class probabilities `(V, lengths, classes)`, or `(V, lengths, 0)` if they were not kept.
        assigned: the assigner's probabilities `(V, lengths)`, or `(V, 0)` without an assigner.
        skipped: path and reason of each unreadable video.
        ensemble: how the views of a video answer together, see `meters.averaged`.
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
    ensemble: str = "probabilities"

    @classmethod
    def joined(cls, parts: Sequence[Table]) -> Table:
        """Merge the parts of all ranks and batches into one table in the order of the list.

        Raises:
            ValueError: no part holds a view; names the first unreadable video.
        """
        skipped = [skip for part in parts for skip in part.skipped]
        paths = [path for part in parts for path in part.paths]
        if not paths:
            first = f"; the first: {': '.join(skipped[0])}" if skipped else ""
            raise ValueError("no video could be read" + first)
        filled = [part for part in parts if part.paths]
        columns = {name: torch.cat([getattr(part, name) for part in filled]) for name in COLUMNS}
        keys = list(zip(*(columns[name].tolist() for name in ("rows", "clip_index", "crops")), strict=True))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        ordered: dict[str, Any] = {name: column[order] for name, column in columns.items()}
        ordered["paths"] = [paths[n] for n in order]
        return cls(skipped=sorted(skipped), **ordered)

    @cached_property
    def confidence(self) -> Tensor:
        """How sure the answer at each length is `(V, lengths)`."""
        return confidence(self.scores, self.multi_label)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.labels.dim() == 2

    @cached_property
    def truth(self) -> Tensor:
        """Position of the shortest length that classifies each view's video correctly `(V,)`."""
        scores = averaged(self.scores, self.ensemble, self.multi_label)
        means = [mean_by_video(own, self.rows) for own in scores.unbind(dim=1)]
        correct = [right(mean, self.labels) for mean in means]
        return token_length_labels(torch.stack(correct, dim=1))

    @property
    def known(self) -> Known:
        """Input of the policies, including the oracle's."""
        assigned = self.assigned if self.assigned.shape[1] else None
        return Known(self.rows, self.scores.shape[1], assigned, self.truth)

    @cached_property
    def first_views(self) -> Tensor:
        """Position of each video's first view `(N,)`, videos in the order of the list."""
        new = torch.ones(len(self.rows), dtype=torch.bool)
        new[1:] = self.rows[1:] != self.rows[:-1]
        return new.nonzero().flatten()

    def only(self, kept: Tensor) -> Table:
        """The views for which `kept` `(V,)` is true."""
        columns = {name: getattr(self, name)[kept] for name in COLUMNS}
        paths = [path for path, own in zip(self.paths, kept.tolist(), strict=True) if own]
        return Table(paths=paths, skipped=self.skipped, ensemble=self.ensemble, **columns)

    def follow(self, policy: Policy) -> Followed:
        """What `policy` does with these views."""
        start = policy.start(self.known)
        scores = policy.answers(self.scores, start, self.multi_label)
        stop = policy.exits(start, confidence(scores, self.multi_label))
        every = torch.arange(len(stop))
        named, at_exit = scores.argmax(dim=2), scores[every, stop]
        not_run = ~policy.runs(start, scores.shape[1]) | (torch.arange(scores.shape[1]) < stop[:, None])
        agreed = (not_run | (named == named[every, stop][:, None])).all(dim=1)
        return Followed(start, stop, agreed, by_video(at_exit, self.labels, self.rows, self.ensemble))

    def videos_at(self, lengths: Tensor) -> VideoScores:
        """Class probabilities of each video, from its views, each at its own length `(V,)`."""
        chosen = self.scores[torch.arange(len(lengths)), lengths]
        return by_video(chosen, self.labels, self.rows, self.ensemble)


def static_top1(table: Table, lengths: Sequence[TokenLength]) -> dict[str, float]:
    """Top-1 in percent of videos at each length."""
    chosen = {str(length): torch.full_like(table.rows, i) for i, length in enumerate(lengths)}
    return {name: table.videos_at(each).topk(1) for name, each in chosen.items()}


def static_map(table: Table, lengths: Sequence[TokenLength]) -> dict[str, float]:
    """Mean average precision in percent of videos with several labels, at each length."""
    chosen = {str(length): torch.full_like(table.rows, i) for i, length in enumerate(lengths)}
    return {name: table.videos_at(each).mean_average_precision or 0.0 for name, each in chosen.items()}


def mine_labels(
    table: Table, lengths: Sequence[TokenLength], none_correct: str, checkpoint: str
) -> MinedLabels:
    """The token-length label of every clip of `table` (paper section 3.1).

    All clips of a video shorter than one clip are identical; only the first one is labelled.
    """
    same_clip = (table.rows[1:] == table.rows[:-1]) & (table.starts[1:] == table.starts[:-1])
    first = torch.cat([torch.tensor([True]), ~same_clip])
    correct = table.correct[first]
    return MinedLabels(
        lengths=tuple(lengths),
        videos=[path for path, kept in zip(table.paths, first.tolist(), strict=True) if kept],
        rows=table.rows[first],
        starts=table.starts[first],
        clip_index=table.clip_index[first],
        labels=table.labels[first],
        correct=correct,
        token_lengths=token_length_labels(correct, none_correct),
        checkpoints=(checkpoint,),
    )
