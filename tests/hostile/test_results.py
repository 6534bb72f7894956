"""Folders of results that anyone may have written or damaged: a line that names the file, no traceback."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from revit_video.adaptive.labels import read_labels
from revit_video.length import token_lengths
from revit_video.models import checkpoint
from revit_video.report import write_report
from revit_video.report.files import Missing, Run
from revit_video.report.page import _headline
from revit_video.runtime import output_dir
from tests.toy import LENGTHS, results_of, run_toy, stats_of

DEEP, HUGE = "[" * 100_000, "9" * 400
ODD: list[Any] = [None, True, "x", [], {}, -1, 0, 1e300, float("nan"), [1], {"a": 1}, int(HUGE)]
CELLS = ["", "x", "-1", "1.5", HUGE, "9x9", '"', "nan", "1e9", "a,b", "1\n", "\udce9", "x" * 200_000]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested JSON; of lists the first."""
    found = [path] if path else []
    if isinstance(tree, dict):
        return found + [place for key, value in tree.items() for place in places(value, (*path, key))]
    return found + places(tree[0], (*path, 0)) if isinstance(tree, list) and tree else found


def with_value(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = part = copy.deepcopy(tree)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return changed


@pytest.fixture
def bare(toy_run: Path, tmp_path: Path) -> Path:
    """Without checkpoints, and videos that are no longer there."""
    ignored = shutil.ignore_patterns("*.pyth", "*.png", "checkpoints")
    folder = Path(shutil.copytree(toy_run, tmp_path / "run", ignore=ignored))
    text = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(text.replace(".mp4", ".gone"))
    return folder


def test_results_with_any_value_anywhere(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the place, or shown; the sections that draw read no more than these."""
    results, refused = results_of(bare), 0
    text = ""
    monkeypatch.setattr(Run, "text", lambda *_: text)
    for place in (place for place in places(results) if place[0] != "record"):
        for value in ODD:
            text = json.dumps(with_value(results, place, value))
            try:
                assert _headline(Run(str(bare)))
            except Missing as why:
                assert str(why).startswith("results.json is damaged: ")
                refused += 1
    assert refused > 500


@pytest.mark.parametrize("text", ["", "{", "5", DEEP, "\0", '{"lengths": [], "static": {}}', "\udcff"])
def test_results_that_are_none(text: str, bare: Path) -> None:
    (bare / "results.json").write_text(text, errors="surrogateescape")
    with pytest.raises(Missing, match=r"^results.json is damaged: "):
        _ = Run(str(bare)).results


@pytest.mark.parametrize("name", ["predictions.csv", "labels.csv"])
def test_tables_with_any_text_anywhere(name: str, bare: Path) -> None:
    whole = (bare / name).read_text()
    rows = whole.splitlines(keepends=True)
    cells = rows[-1].rstrip("\n").split(",")
    for column in range(len(cells)):
        for cell in CELLS:
            last = ",".join([*cells[:column], cell, *cells[column + 1 :]])
            text = "".join(rows[:-1]) + last + "\n"
            (bare / name).write_text(text, errors="surrogateescape")
            run = Run(str(bare))
            try:
                _ = run.predictions if name == "predictions.csv" else run.labels
            except Missing as why:
                only_by_digest = "rows are not those that were written" in str(why)
                assert str(why).startswith(f"{name}:{len(rows)}") or only_by_digest, why


def test_a_page_of_nothing_but_damage(bare: Path) -> None:
    for name in ("results.json", "stats.jsonl", "labels.csv", "predictions.csv"):
        (bare / name).write_text(f"{DEEP}\n7\n" + '{"stage": "train", "step": "x", "loss_4x4": "y"}\n')
    text = Path(write_report(str(bare))).read_text()
    assert text.count("Left out: ") == 11 and "results.json is damaged: nested too deeply" in text


def test_statistics_of_another_kind_are_left_out(
    bare: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("revit_video"), "propagate", True)
    before = stats_of(bare)
    odd = [DEEP, "5", "[]", '{"stage": 1}', '{"stage": "train", "step": 1.5}', '{"stage": "val", "a": "b"}']
    odd += ['{"stage": "val", "epoch": -2}', '{"stage": "train", "loss_4x4": 1e999}', "\udcff", '{"sta']
    text = (bare / "stats.jsonl").read_text() + "\n".join(odd)
    (bare / "stats.jsonl").write_text(text, errors="surrogateescape")
    assert output_dir.read_stats(str(bare)) == before
    assert f"stats.jsonl:{len(before) + 1}: no statistics, left out" in caplog.text


@pytest.mark.parametrize(
    "text", ["path,stage\na,test\n", "path,stage,reason\na\n", "\0", '"', f'path,stage,reason\n"{HUGE * 400}']
)
def test_a_damaged_list_of_what_was_skipped_is_written_anew(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("revit_video"), "propagate", True)
    (tmp_path / "skipped.csv").write_text(text)
    output_dir.record_skipped(str(tmp_path), "test", [("b.mp4", "empty")])
    assert (tmp_path / "skipped.csv").read_text() == "path,stage,reason\nb.mp4,test,empty\n"
    assert "written anew" in caplog.text and "skipped.csv:" in caplog.text


def test_a_test_ends_with_results_whatever_is_there(videos: Path, own_run: Path) -> None:
    """After all its work it reads nothing that it cannot do without."""
    (own_run / "results.json").write_text(DEEP)
    (own_run / "skipped.csv").write_text("path\n")
    (own_run / "stats.jsonl").write_text("7\n")
    whole = (own_run / "model.pyth").read_bytes()
    (own_run / "model.pyth").write_bytes(whole[: len(whole) // 2])
    run_toy(videos, own_run, stages=["test"])
    assert results_of(own_run)["videos"] == 12
    checkpoint.read(str(own_run / "model.pyth"))


def test_labels_that_lost_rows_are_refused(bare: Path) -> None:
    path, lengths = bare / "labels.csv", token_lengths(LENGTHS)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="12 clips were written and 11 are there"):
        read_labels(str(path), lengths)


def test_a_page_of_many_videos_takes_time_in_proportion(bare: Path) -> None:
    """None of them can be read, and half are of one class."""
    rows = 60_000
    lines = [f"gone/{n:08d}.mp4,{n % 6 * (n % 2)},4x4,{n % 5},{n % 5},{n % 5}\n" for n in range(rows)]
    head = (bare / "predictions.csv").read_text().splitlines(keepends=True)[0]
    (bare / "predictions.csv").write_text(head + "".join(lines))
    started = time.process_time()
    assert f"{rows:,} videos, 100 %" in Path(write_report(str(bare))).read_text()
    assert time.process_time() - started < 5


def test_labels_with_a_flipped_bit_are_refused(bare: Path) -> None:
    path, lengths = bare / "labels.csv", token_lengths(LENGTHS)
    text = path.read_text()
    path.write_text(text[:-2] + ("1" if text[-2] == "0" else "0") + "\n")
    with pytest.raises(ValueError, match="rows are not those that were written; mine the labels again"):
        read_labels(str(path), lengths)
