"""Token-length labels: the shortest length that classifies a clip correctly (paper section 3.1)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from iopath.common.file_io import g_pathmgr
from torch import Tensor

from revit_video.length import TokenLength
from revit_video.runtime.output_dir import atomic_write_text

NONE_CORRECT = -1


def token_length_labels(correct: Tensor, none_correct: str = "longest") -> Tensor:
    """The position of the shortest correct length, `(N,)`, from `correct` `(N, lengths)`, longest first.

    Lengths need not agree: a clip that only the shortest and the longest get right has the shortest.

    Args:
        none_correct: where no length is right, `longest` labels the clip with the longest length,
            `drop` with `NONE_CORRECT`, to be left out.
    """
    if none_correct not in ("longest", "drop"):
        raise ValueError(f"none_correct is 'longest' or 'drop', not {none_correct!r}")
    last = correct.shape[1] - 1
    shortest = last - correct.flip(1).int().argmax(dim=1)
    fallback = 0 if none_correct == "longest" else NONE_CORRECT
    return torch.where(correct.any(dim=1), shortest, torch.full_like(shortest, fallback))


@dataclass(frozen=True)
class MinedLabels:
    """The content of `labels.csv`: one row a mined clip, in the order of (row, view).

    Attributes:
        lengths: the model's, longest first.
        videos: path of each clip's video, N of them.
        rows: position of the video in its list `(N,)`.
        starts: start of each clip in seconds `(N,)`.
        views: number of the clip within its video `(N,)`.
        classes: true class of each clip `(N,)`.
        correct: whether each length was right `(N, lengths)`.
        labels: position of the token-length label in `lengths` `(N,)`, or `NONE_CORRECT`.
        checkpoints: hash of the weights that mined, or of each fold's.
    """

    lengths: tuple[TokenLength, ...]
    videos: list[str]
    rows: Tensor
    starts: Tensor
    views: Tensor
    classes: Tensor
    correct: Tensor
    labels: Tensor
    checkpoints: tuple[str, ...]

    @classmethod
    def joined(cls, parts: Sequence[MinedLabels]) -> MinedLabels:
        """The parts of one list, each mined with weights of its own, in the order of the list."""
        keys = [key for part in parts for key in zip(part.rows.tolist(), part.views.tolist(), strict=True)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        videos = list(chain.from_iterable(part.videos for part in parts))
        columns = {
            name: torch.cat([getattr(part, name) for part in parts])[order]
            for name in ("rows", "starts", "views", "classes", "correct", "labels")
        }
        return cls(
            lengths=parts[0].lengths,
            videos=[videos[n] for n in order],
            checkpoints=tuple(chain.from_iterable(part.checkpoints for part in parts)),
            **columns,
        )

    def histogram(self) -> dict[str, int]:
        """Clips per token-length label, longest first."""
        return dict(zip(map(str, self.lengths), self.by_class().sum(dim=0).tolist(), strict=True))

    def by_class(self, num_classes: int = 0) -> Tensor:
        """Clips per class and token-length label `(classes, lengths)`; at least `num_classes` rows."""
        labelled = self.labels != NONE_CORRECT
        width = len(self.lengths)
        cells = self.classes[labelled] * width + self.labels[labelled]
        size = max(num_classes, int(self.classes.max()) + 1) * width
        return cells.bincount(minlength=size).view(-1, width)


FIELDS = ("row", "video", "clip_start", "view", "label", "token_length")


def write_labels(path: str, mined: MinedLabels) -> None:
    """Writes `labels.csv`: a comment line with each checkpoint's hash, a header, a row a clip."""
    text = io.StringIO()
    text.write(f"# checkpoint {' '.join(mined.checkpoints)}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIELDS, *(f"correct_{length}" for length in mined.lengths)])
    for n, video in enumerate(mined.videos):
        label = int(mined.labels[n])
        writer.writerow(
            [
                int(mined.rows[n]),
                video,
                f"{float(mined.starts[n]):.6f}",
                int(mined.views[n]),
                int(mined.classes[n]),
                "" if label == NONE_CORRECT else mined.lengths[label],
                *(int(flag) for flag in mined.correct[n]),
            ]
        )
    atomic_write_text(path, text.getvalue())


def read_labels(path: str, lengths: Sequence[TokenLength]) -> MinedLabels:
    """Reads `labels.csv`.

    Raises:
        ValueError: there is no such file, it is damaged, or it was mined with other token lengths.
    """
    if not g_pathmgr.isfile(path):
        raise ValueError(f"{path}: no token-length labels; mine them first (MINE.ENABLE True)")
    with g_pathmgr.open(path, newline="") as file:
        head = file.readline().split()
        table = list(csv.DictReader(file))
    columns = [f"correct_{length}" for length in lengths]
    if not table or head[:2] != ["#", "checkpoint"] or len(head) < 3 or set(table[0]) != {*FIELDS, *columns}:
        wanted = ", ".join(map(str, lengths))
        raise ValueError(f"{path}: not labels of token lengths {wanted}; mine them again (MINE.ENABLE True)")
    names = {str(length): i for i, length in enumerate(lengths)} | {"": NONE_CORRECT}
    try:
        return MinedLabels(
            lengths=tuple(lengths),
            videos=[row["video"] for row in table],
            rows=torch.tensor([int(row["row"]) for row in table]),
            starts=torch.tensor([float(row["clip_start"]) for row in table]),
            views=torch.tensor([int(row["view"]) for row in table]),
            classes=torch.tensor([int(row["label"]) for row in table]),
            correct=torch.tensor([[bool(int(row[name])) for name in columns] for row in table]),
            labels=torch.tensor([names[row["token_length"]] for row in table]),
            checkpoints=tuple(head[2:]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); mine the labels again (MINE.ENABLE True)") from None
