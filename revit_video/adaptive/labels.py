"""Token-length labels: the shortest length that classifies a clip correctly (paper section 3.1)."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import simplejson
import torch
from torch import Tensor

from revit_video.length import TokenLength
from revit_video.runtime.output_dir import TEXT, write_csv

NONE_CORRECT = -1
CLIP_COUNT = "clips"  # in the record of a file
AGAIN = "mine the labels again (MINE.ENABLE True)"


def token_length_labels(correct: Tensor, none_correct: str = "longest") -> Tensor:
    """Position of the shortest correct length `(N,)`, whether or not longer ones are correct too.

    Args:
        correct: whether each length is correct `(N, lengths)`, longest first.
        none_correct: the label where no length is: `longest` for the longest length, `drop` for
            `NONE_CORRECT`, which leaves the clip out.
    """
    if none_correct not in ("longest", "drop"):
        raise ValueError(f"none_correct is 'longest' or 'drop', not {none_correct!r}")
    last = correct.shape[1] - 1
    shortest = last - correct.flip(1).int().argmax(dim=1)
    fallback = 0 if none_correct == "longest" else NONE_CORRECT
    return torch.where(correct.any(dim=1), shortest, torch.full_like(shortest, fallback))


@dataclass(frozen=True)
class MinedLabels:
    """The content of `labels.csv`: N mined clips in the order of (row, clip).

    Attributes:
        lengths: the model's token lengths, longest first.
        videos: path of each clip's video.
        rows: position of the video in its list `(N,)`.
        starts: start of each clip in seconds `(N,)`.
        clip_index: number of the clip within its video `(N,)`.
        labels: class label `(N,)`.
        correct: whether each length classified the clip correctly `(N, lengths)`.
        token_lengths: position of the token-length label in `lengths` `(N,)`, or `NONE_CORRECT`.
        checkpoints: digest of the weights that mined, one for each fold.
        record: what the labels were made of, see `from_cfg.identity`; None if that is unknown.
    """

    lengths: tuple[TokenLength, ...]
    videos: list[str]
    rows: Tensor
    starts: Tensor
    clip_index: Tensor
    labels: Tensor
    correct: Tensor
    token_lengths: Tensor
    checkpoints: tuple[str, ...]
    record: dict[str, Any] | None = None

    @classmethod
    def joined(cls, parts: Sequence[MinedLabels]) -> MinedLabels:
        """All parts of one list, each mined with weights of its own, in the order of the list."""
        keys = [
            key for part in parts for key in zip(part.rows.tolist(), part.clip_index.tolist(), strict=True)
        ]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        videos = list(chain.from_iterable(part.videos for part in parts))
        columns = {
            name: torch.cat([getattr(part, name) for part in parts])[order]
            for name in ("rows", "starts", "clip_index", "labels", "correct", "token_lengths")
        }
        return cls(
            lengths=parts[0].lengths,
            videos=[videos[n] for n in order],
            checkpoints=tuple(chain.from_iterable(part.checkpoints for part in parts)),
            record=parts[0].record,
            **columns,
        )

    def histogram(self) -> dict[str, int]:
        """Clips per token-length label, longest first."""
        return dict(zip(map(str, self.lengths), self.by_class().sum(dim=0).tolist(), strict=True))

    def by_class(self, num_classes: int = 0) -> Tensor:
        """Clips per class and token-length label `(classes, lengths)`; at least `num_classes` rows."""
        labelled = self.token_lengths != NONE_CORRECT
        width = len(self.lengths)
        cells = self.labels[labelled] * width + self.token_lengths[labelled]
        size = max(num_classes, int(self.labels.max()) + 1) * width
        return cells.bincount(minlength=size).view(-1, width)


FIELDS = ("row", "video", "clip_start", "clip", "label", "token_length")
OLD_NAMES = {"view": "clip"}  # columns of earlier files


def write_labels(path: str, mined: MinedLabels) -> None:
    """Writes `labels.csv`: comments with the weights' digests and the record, a header, one row per clip."""
    rows = []
    for n, video in enumerate(mined.videos):
        i = int(mined.token_lengths[n])
        rows.append(
            [
                int(mined.rows[n]),
                video,
                f"{float(mined.starts[n]):.6f}",
                int(mined.clip_index[n]),
                int(mined.labels[n]),
                "" if i == NONE_CORRECT else mined.lengths[i],
                *(int(flag) for flag in mined.correct[n]),
            ]
        )
    header = [*FIELDS, *(f"correct_{length}" for length in mined.lengths)]
    comment = f"checkpoint {' '.join(mined.checkpoints)}"
    if mined.record is not None:
        comment += "\n" + simplejson.dumps(mined.record | {CLIP_COUNT: len(rows)})
    write_csv(path, header, rows, comment)


def read_labels(path: str, lengths: Sequence[TokenLength]) -> MinedLabels:
    """Read `labels.csv`.

    Raises:
        ValueError: there is no such file, it is damaged, or it was mined with other token lengths.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no token-length labels; mine them first (MINE.ENABLE True)")
    with open(path, **TEXT) as file:
        head, line, record = file.readline().split(), file.readline(), None
        if line.startswith("#"):
            record, line = _record(path, line), file.readline()
        header = [OLD_NAMES.get(name, name) for name in next(csv.reader([line]), [])]
        table = list(csv.DictReader(file, header))
    columns = [f"correct_{length}" for length in lengths]
    if not table or head[:2] != ["#", "checkpoint"] or len(head) < 3 or set(header) != {*FIELDS, *columns}:
        wanted = ", ".join(map(str, lengths))
        raise ValueError(f"{path}: not labels of token lengths {wanted}; mine them again (MINE.ENABLE True)")
    if record is not None and len(table) != (clips := record.pop(CLIP_COUNT, len(table))):
        raise ValueError(f"{path}: damaged, {clips} clips were written and {len(table)} are there; {AGAIN}")
    names = {str(length): i for i, length in enumerate(lengths)} | {"": NONE_CORRECT}
    try:
        return MinedLabels(
            lengths=tuple(lengths),
            videos=[row["video"] for row in table],
            rows=torch.tensor([int(row["row"]) for row in table]),
            starts=torch.tensor([float(row["clip_start"]) for row in table]),
            clip_index=torch.tensor([int(row["clip"]) for row in table]),
            labels=torch.tensor([int(row["label"]) for row in table]),
            correct=torch.tensor([[bool(int(row[name])) for name in columns] for row in table]),
            token_lengths=torch.tensor([names[row["token_length"]] for row in table]),
            checkpoints=tuple(head[2:]),
            record=record,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {AGAIN}") from None


def _record(path: str, comment: str) -> dict[str, Any]:
    try:
        record = simplejson.loads(comment.removeprefix("#"))
    except ValueError as error:
        raise ValueError(f"{path}:2: damaged ({error}); {AGAIN}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}:2: damaged (not an object with keys); {AGAIN}")
    return record
