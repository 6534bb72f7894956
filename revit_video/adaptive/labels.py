"""Token-length labels: the shortest length that classifies a clip correctly (paper section 3.1)."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import simplejson
import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.length import TokenLength
from revit_video.runtime.csv_rows import CsvRows
from revit_video.runtime.output_dir import TEXT, csv_text, parsed_json, write_csv

NONE_CORRECT = -1
CLIP_COUNT, CONTENT = "clips", "rows"  # in the record of a file: how many, and a digest of them
MOST, MOST_CLASSES = 1 << 40, 1 << 20  # rows and clips; classes
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
        """Clips per class and token-length label `(classes, lengths)`; at least `num_classes` rows.

        A clip with several labels counts for each.
        """
        labelled = self.token_lengths != NONE_CORRECT
        chosen = F.one_hot(self.token_lengths[labelled], len(self.lengths))
        counts = chosen.new_zeros(max(num_classes, self.num_classes), len(self.lengths))
        if self.labels.dim() == 2:
            counts[: self.num_classes] = self.labels[labelled].long().t() @ chosen
            return counts
        return counts.index_add_(0, self.labels[labelled], chosen)

    @property
    def num_classes(self) -> int:
        """One more than the highest class label."""
        return self.labels.shape[1] if self.labels.dim() == 2 else int(self.labels.max()) + 1


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
                labels_in_words(mined.labels[n]),
                "" if i == NONE_CORRECT else mined.lengths[i],
                *(int(flag) for flag in mined.correct[n]),
            ]
        )
    header = [*FIELDS, *(f"correct_{length}" for length in mined.lengths)]
    comment = f"checkpoint {' '.join(mined.checkpoints)}"
    if mined.record is not None:
        own = {CLIP_COUNT: len(rows), CONTENT: _digest(csv_text(header, rows))}
        comment += "\n" + simplejson.dumps(mined.record | own)
    write_csv(path, header, rows, comment)


def read_labels(path: str, lengths: Sequence[TokenLength]) -> MinedLabels:
    """Read `labels.csv`.

    Raises:
        ValueError: there is no such file, it is damaged, or it was mined with other token lengths.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no token-length labels; mine them first (MINE.ENABLE True)")
    try:
        return _read(path, lengths)
    except ValueError as error:
        raise ValueError(f"{error}; {AGAIN}") from None


def _read(path: str, lengths: Sequence[TokenLength]) -> MinedLabels:
    with open(path, **TEXT) as file:
        head, record, first = file.readline().split(), None, 2
        text = file.read()
    if text.startswith("#"):
        line, _, text = text.partition("\n")
        record, first = _record(path, line), 3
    table = CsvRows(path, io.StringIO(text, newline=""), first, OLD_NAMES)
    columns = [f"correct_{length}" for length in lengths]
    headed = head[:2] == ["#", "checkpoint"] and len(head) > 2
    if not len(table) or not headed or set(table.columns) != {*FIELDS, *columns}:
        raise ValueError(f"{path}: not labels of token lengths {', '.join(map(str, lengths))}")
    if record is not None and len(table) != (clips := record.pop(CLIP_COUNT, len(table))):
        raise ValueError(f"{path}: damaged, {clips} clips were written and {len(table)} are there")
    names = {str(length): i for i, length in enumerate(lengths)} | {"": NONE_CORRECT}
    chosen = table.parsed("token_length", names.__getitem__, "a token length of the model")
    correct = [table.whole(name, 1) for name in columns]
    mined = MinedLabels(
        lengths=tuple(lengths),
        videos=table.texts("video"),
        rows=torch.tensor(table.whole("row", MOST)),
        starts=torch.tensor(table.finite("clip_start")),
        clip_index=torch.tensor(table.whole("clip", MOST)),
        labels=_labels(table.parsed("label", _numbers, "a class, or several such as 3,17")),
        correct=torch.tensor(correct, dtype=torch.bool).T.contiguous(),
        token_lengths=torch.tensor(chosen),
        checkpoints=tuple(head[2:]),
        record=record,
    )
    if record is not None and _digest(text) != record.pop(CONTENT, _digest(text)):
        raise ValueError(f"{path}: its rows are not those that were written")
    return mined


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def labels_in_words(label: Tensor) -> str:
    """`3`, or of several labels, true for each `(classes,)`: `3,17`."""
    return str(int(label)) if label.dim() == 0 else ",".join(map(str, label.nonzero().flatten().tolist()))


def _numbers(text: str) -> list[int]:
    """The labels in a text that `labels_in_words` wrote."""
    numbers = [int(part) for part in text.split(",")]
    if not all(0 <= number <= MOST_CLASSES for number in numbers):
        raise ValueError
    return numbers


def _labels(several: Sequence[list[int]]) -> Tensor:
    """Labels `(N,)`, or if a clip has several `(N, classes)`, true for each."""
    if all(len(labels) == 1 for labels in several):
        return torch.tensor(several)[:, 0]
    found = torch.zeros(len(several), max(chain.from_iterable(several)) + 1, dtype=torch.bool)
    for row, labels in zip(found, several, strict=True):
        row[labels] = True
    return found


def _record(path: str, comment: str) -> dict[str, Any]:
    try:
        record = parsed_json(comment.removeprefix("#"))
    except ValueError as error:
        raise ValueError(f"{path}:2: damaged ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}:2: damaged (not an object with keys)")
    return record
