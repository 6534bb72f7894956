"""The label rule on tables checked by hand, and `labels.csv` there and back."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from revit_video.adaptive.labels import (
    NONE_CORRECT,
    MinedLabels,
    read_labels,
    token_length_labels,
    write_labels,
)
from revit_video.length import token_lengths

LENGTHS = token_lengths([14, 10, 7])
# Which of 14x14, 10x10, 7x7 is right: all eight cases. The label is the last one that is.
CASES = torch.tensor(
    [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]
).bool()


@pytest.mark.parametrize(("none_correct", "first"), [("longest", 0), ("drop", NONE_CORRECT)])
def test_label_is_the_shortest_correct_length(none_correct: str, first: int) -> None:
    labels = token_length_labels(CASES, none_correct)
    assert labels.tolist() == [first, 2, 1, 2, 0, 2, 1, 2]


def test_one_length_alone() -> None:
    correct = torch.tensor([[True], [False]])
    assert token_length_labels(correct).tolist() == [0, 0]
    assert token_length_labels(correct, "drop").tolist() == [0, NONE_CORRECT]


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="none_correct is 'longest' or 'drop', not 'shortest'"):
        token_length_labels(CASES, "shortest")


def mined() -> MinedLabels:
    return MinedLabels(
        lengths=LENGTHS,
        videos=["a b.mp4", "a b.mp4", 'odd,"name".mp4', "ü.mp4", *["c.mp4"] * 4],
        rows=torch.tensor([0, 0, 3, 4, 5, 5, 5, 5]),
        starts=torch.tensor([0.0, 1 / 3, 12.5, 0.0, 0.0, 0.1, 0.2, 1234.567]),
        clip_index=torch.tensor([0, 1, 0, 0, 0, 1, 2, 3]),
        labels=torch.tensor([5, 5, 0, 399, 1, 1, 1, 1]),
        correct=CASES,
        token_lengths=token_length_labels(CASES, "drop"),
        checkpoints=("0123456789abcdef",),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    write_labels(str(path), mined())
    return path


def test_there_and_back(file: Path) -> None:
    read = read_labels(str(file), LENGTHS)
    for field in fields(MinedLabels):
        before, after = getattr(mined(), field.name), getattr(read, field.name)
        if isinstance(before, Tensor):
            torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
        else:
            assert after == before, field.name
    assert mined().histogram() == {"14x14": 1, "10x10": 2, "7x7": 4}


def test_what_is_written(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[:4] == [
        "# checkpoint 0123456789abcdef",
        "row,video,clip_start,clip,label,token_length,correct_14x14,correct_10x10,correct_7x7",
        "0,a b.mp4,0.000000,0,5,,0,0,0",
        "0,a b.mp4,0.333333,1,5,7x7,0,0,1",
    ]


def test_an_earlier_name_of_a_column(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("clip_start,clip,", "clip_start,view,"), encoding="utf-8")
    assert torch.equal(read_labels(str(file), LENGTHS).clip_index, mined().clip_index)


def test_clips_by_class() -> None:
    """Left-out clips do not count."""
    counts = mined().by_class(401)
    assert counts.shape == (401, 3) and counts.sum() == 7
    assert {c: counts[c].tolist() for c in (0, 1, 5, 399)} == {
        **{0: [0, 1, 0], 1: [1, 1, 2], 5: [0, 0, 1], 399: [0, 0, 1]},
    }
    assert torch.equal(mined().by_class(), counts[:400])


def test_folds_join_in_the_order_of_the_list(tmp_path: Path) -> None:
    """Cut apart and put together, labels are what they were, but for the hashes of both folds."""

    def part(kept: list[int], checkpoint: str) -> MinedLabels:
        columns = {
            field.name: getattr(mined(), field.name)[kept]
            for field in fields(MinedLabels)
            if isinstance(getattr(mined(), field.name), Tensor)
        }
        videos = [mined().videos[n] for n in kept]
        return replace(mined(), videos=videos, checkpoints=(checkpoint,), **columns)

    whole = MinedLabels.joined([part([2, 4, 5, 6, 7], "aa"), part([0, 1, 3], "bb")])
    write_labels(str(tmp_path / "joined.csv"), whole)
    write_labels(str(tmp_path / "whole.csv"), mined())
    ours, theirs = ((tmp_path / name).read_text().splitlines() for name in ("joined.csv", "whole.csv"))
    assert ours[0] == "# checkpoint aa bb" and ours[1:] == theirs[1:]
    assert read_labels(str(tmp_path / "joined.csv"), LENGTHS).checkpoints == ("aa", "bb")


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"labels.csv: no token-length labels; mine them first \(MINE.ENABLE"
    ):
        read_labels(str(tmp_path / "labels.csv"), LENGTHS)


@pytest.mark.parametrize("lengths", [[14, 7], [14, 10, 8], [16, 14, 10, 7]])
def test_labels_of_other_lengths(file: Path, lengths: list[int]) -> None:
    other = token_lengths(lengths)
    with pytest.raises(ValueError, match=f"not labels of token lengths {', '.join(map(str, other))}; mine"):
        read_labels(str(file), other)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("12.5", "soon"),  # no number
        (",7x7,0,0,1", ",9x9,0,0,1"),  # a length that the model does not have
        (",7x7,1,1,1", ",7x7,1"),  # the file ends in the middle of a row
        (",7x7,1,1,1", ",7x7,1,1,"),
        (",7x7,1,1,1", ",7x7,1,1,yes"),
        (",399,", ",,"),
    ],
)
def test_damaged_rows(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels.csv(:\d+)?: .*; mine the labels again"):
        read_labels(str(file), LENGTHS)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_files_without_a_row(file: Path, kept: int) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:kept]), encoding="utf-8")
    with pytest.raises(ValueError, match="labels.csv: not labels of token lengths 14x14, 10x10, 7x7; mine"):
        read_labels(str(file), LENGTHS)


@pytest.mark.parametrize("head", ["", "# checkpoint\n", "# weights 0123\n"])
def test_files_without_a_checkpoint(file: Path, head: str) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(head + "".join(lines[1:]), encoding="utf-8")
    with pytest.raises(ValueError, match="not labels of token lengths"):
        read_labels(str(file), LENGTHS)
