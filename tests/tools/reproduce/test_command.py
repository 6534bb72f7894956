"""`tools/reproduce.py` at toy size: from a command to a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduce.command import parse_seeds, split_at_key

from tests.toy import options, tool


@pytest.fixture
def empty_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text("LOG_PERIOD: 2\n")
    return path


def test_table2_trains_each_row_once(
    videos: Path, tmp_path: Path, empty_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "revit_video.stages.test.write_report", lambda folder, own: folder
    )  # takes seconds a run
    changes = ("MINE.ENABLE", False, "ASSIGNER.ENABLE", False, "TEST.POLICIES", "[static]")
    arguments = ["table2", "--cfg", empty_yaml, "--seeds", 3, *options(videos, tmp_path / "out", *changes)]
    first = tool("reproduce", *arguments)
    page = tmp_path / "out" / "table2.md"
    assert (first.code, first.out.split()) == (0, [str(page), str(page.with_suffix(".png"))])
    text = page.read_text()
    for title in ("one model per length", "ReViT, no self-distillation", "ReViT, τ 0.5", "ReViT, τ 0.9"):
        assert f"\n| {title} " in text
    assert "seeds: 1 (3)" in text and "time of the 5 runs" in text and "training epochs: 1\n" in text
    rows = {"single_4x4", "single_2x2", "no_distillation", "tau_0.5", "revit"}
    runs = sorted((tmp_path / "out").glob("*/seed*"))
    assert {run.parent.name for run in runs} == rows and {run.name for run in runs} == {"seed3"}

    made = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    page.unlink()
    second = tool("reproduce", *arguments)
    assert second.code == 0 and second.err == "" and page.read_text() == text
    assert made == {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}


def test_fig6_shows_a_finished_run(toy_run: Path, videos: Path, tmp_path: Path, empty_yaml: Path) -> None:
    folder = tmp_path / "out" / "revit"
    folder.mkdir(parents=True)
    (folder / "seed0").symlink_to(toy_run)
    given = options(videos, tmp_path / "out", "LOG_PERIOD", 10)
    finished = tool("reproduce", "fig6", "--cfg", empty_yaml, "--seeds", 0, *given)
    assert finished.code == 0 and "easy, 2x2" in (tmp_path / "out" / "fig6.md").read_text()
    assert (tmp_path / "out" / "fig6.png").read_bytes().startswith(b"\x89PNG")


def test_fig7_needs_no_run(videos: Path, tmp_path: Path, empty_yaml: Path) -> None:
    finished = tool("reproduce", "fig7", "--cfg", empty_yaml, *options(videos, tmp_path / "out"))
    text = (tmp_path / "out" / "fig7.md").read_text()
    assert finished.code == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "fig7.md",
        "fig7.png",
    ]
    for way in ("separate models", "ReViT-B", "ReViT-E, slowest rank", "DVT"):
        assert f"\n| {way} " in text
    assert (
        text.count("| 4x4 + 2x2 | ") == 4 and "| parameters: DVT more than ReViT, 2 lengths to one " in text
    )


@pytest.mark.parametrize(
    ("what", "seeds", "changes", "message"),
    [
        ("table4", [0], (), "table4: not a table or figure that is made here; there are table1, table2,"),
        ("table2", [], (), "--seeds: give different whole numbers, at least one of them; got none"),
        ("table2", [0, "x"], (), "--seeds: give whole numbers from 0 on, got x"),
        ("table2", [1, 1], (), "--seeds: give different whole numbers, at least one of them; got 1 1"),
        ("table2", [0], ("REVIT.TOKEN_LENGTHS", "[4]"), "table2: REVIT.TOKEN_LENGTHS must have at least 2"),
        ("fig7", [0], ("REVIT.TOKEN_LENGTHS", "[4]"), "fig7: REVIT.TOKEN_LENGTHS must have at least 2"),
        ("table2", [0], ("REVIT.DISTILL.ENABLE", False), "table2: its subject is self-distillation"),
        ("table3", [0], ("REVIT.NORM", "shared"), "table3: REVIT.NORM must be per_length"),
        ("table1", [0], ("MINE.ENABLE", False), "table1: the adaptive policy is its subject"),
    ],
)
def test_mistakes_are_one_line(
    videos: Path,
    tmp_path: Path,
    empty_yaml: Path,
    what: str,
    seeds: list[object],
    changes: tuple[object, ...],
    message: str,
) -> None:
    given = options(videos, tmp_path / "out", *changes)
    finished = tool("reproduce", what, "--cfg", empty_yaml, "--seeds", *seeds, *given)
    assert finished.code == 2 and finished.err.startswith(f"error: {message}")
    assert finished.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_configs(videos: Path, tmp_path: Path, empty_yaml: Path) -> None:
    given = options(videos, tmp_path / "out")
    missing = tool("reproduce", "table1", "--cfg", empty_yaml, tmp_path / "no.yaml", *given)
    assert missing.code == 2 and "no.yaml: 1 mistake\n  no such file" in missing.err
    two = tool("reproduce", "table2", "--cfg", empty_yaml, empty_yaml, *given)
    assert two.code == 2 and two.err == "error: --cfg: table2 takes one file, got 2\n"


def test_words_after_an_option_are_told_apart() -> None:
    assert split_at_key(["a.yaml", "B.yaml", "RNG_SEED", "1"]) == (["a.yaml", "B.yaml"], ["RNG_SEED", "1"])
    assert split_at_key(["a.yaml"]) == (["a.yaml"], [])
    assert split_at_key(["0", "12", "DATA.PATH_PREFIX", "3"]) == (["0", "12"], ["DATA.PATH_PREFIX", "3"])
    assert parse_seeds(["0", "12"]) == [0, 12]
