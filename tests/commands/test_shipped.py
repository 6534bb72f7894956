"""The model that comes with the package, and the tool that puts it there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import revit_video
from revit_video.commands.predict_files import SHIPPED
from tests.toy import ROOT, tool

MOST_BYTES = 2_100_000
needs_model = pytest.mark.skipif(not SHIPPED.is_dir(), reason="no demo model in this copy of the package")


def figures(card: str) -> dict[str, list[float]]:
    rows = re.findall(r"^\| (adaptive|always [\dx]+) \| ([\d.]+) \| (\d+) \|$", card, re.MULTILINE)
    return {name: [float(top1), float(cost)] for name, top1, cost in rows}


def test_a_run_is_shipped(toy_run: Path, tmp_path: Path) -> None:
    script = "import sys, pathlib; from ship_demo import ship; ship(sys.argv[1], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", script, str(toy_run), str(tmp_path / "shipped")]
    subprocess.run(command, cwd=ROOT / "tools", env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"}, check=True)
    card = (tmp_path / "shipped" / "MODEL_CARD.md").read_text()
    assert list(figures(card)) == ["always 4x4", "adaptive"] and "python toy" in card
    assert len(list((tmp_path / "shipped").glob("*.mp4"))) == 3
    revit_video.load(tmp_path / "shipped" / "model.pyth", "cpu")


@needs_model
def test_the_shipped_model_answers_on_its_clips() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= MOST_BYTES
    finished = tool("predict", "--demo", "--device", "cpu")
    assert finished.code == 0 and finished.err == ""
    answers = finished.out.splitlines()
    assert len(answers) == 3
    for answer in answers:
        name = re.search(r"\d+_(\w+)\.mp4: (\w+) ", answer)
        assert name and name[1] == name[2]


@needs_model
def test_the_cards_figures_are_those_of_the_results() -> None:
    card, page = ((SHIPPED / "MODEL_CARD.md").read_text(), (ROOT / "docs" / "results.md").read_text())
    seed = re.search(r"^- seed: (\d+)$", card, re.MULTILINE)
    assert seed is not None
    (longest, _), (top1, cost) = figures(card).values()
    rows = [
        [cell.strip(" *%") for cell in row.split("|")[1:-1]]
        for row in page.splitlines()
        if row.startswith("| ")
    ]
    column = int(seed[1]) + 1
    found = {row[0].replace("*", ""): row[column] for row in rows if len(row) > column}
    assert float(found["always 6×6, top-1"]) == longest
    assert (float(found["adaptive, top-1"]), float(found["adaptive, cost"])) == (top1, cost)


def test_without_a_model_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from revit_video.commands import predict_files

    monkeypatch.setattr(predict_files, "SHIPPED", tmp_path)
    finished = tool("predict", "--demo")
    assert finished.code == 2 and "`revit-video demo` trains such a model" in finished.err
    assert tool("predict", tmp_path).code == 2
