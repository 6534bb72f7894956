"""The figures that a person reads are those of results.json."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from revit_video.report import print_table, summary
from revit_video.report.results_table import cost_unit, table

LENGTHS = ["6x6", "4x4", "3x3"]


@pytest.fixture
def results(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "results.json").read_text())


def printed(results: dict[str, Any]) -> str:
    out = io.StringIO()
    print_table(results, out)
    return out.getvalue()


def test_every_row_holds_its_figures(results: dict[str, Any]) -> None:
    entries = results["static"] | {"adaptive": results["adaptive"]} | results["policies"]
    lines = [line for line in printed(results).splitlines() if line.startswith("| ")][1:]
    rows = {
        cells[0]: cells[1:] for line in lines if (cells := [c.strip() for c in line.strip("|").split("|")])
    }
    assert list(rows) == [*LENGTHS, "adaptive", "assigned", "random", "cascade", "oracle"]
    for name, (top1, top5, cost, share, speed, speedup, mix) in rows.items():
        entry = entries[name]
        assert (top1, top5) == (f"{entry['top1']:.1f}", f"{entry['top5']:.1f}")
        assert cost == f"{1000 * entry['gmacs']:.1f}"
        assert share == f"{100 * entry['gmacs'] / results['static']['6x6']['gmacs']:.0f}"
        assert (speed, speedup) == (f"{entry['clips_per_sec']:.1f}", f"{entry['speedup']:.2f}x")
        counts = [entry["length_counts"][length] for length in LENGTHS]
        assert mix == "/".join(f"{100 * count / sum(counts):.0f}" for count in counts)


def test_sentence() -> None:
    results = {
        "lengths": ["6x6", "3x3"],
        "static": {"6x6": {"top1": 98.6, "gmacs": 0.05}},
        "adaptive": {"top1": 98.4, "gmacs": 0.027, "speedup": 1.6, "macs_speedup": 1.852},
    }
    assert summary(results) == (
        "adaptive: 98.4 % top-1 (-0.2 points) at 54 % of the longest length's MACs, "
        "1.60x its clips/s (MACs promise 1.85x)"
    )


def test_a_run_without_the_adaptive_policy(results: dict[str, Any]) -> None:
    results |= {"adaptive": None, "policies": {}}
    assert [row[0] for row in table(results)[1]] == LENGTHS
    assert "not run" in printed(results)


def test_a_run_without_static_lengths(results: dict[str, Any]) -> None:
    results["static"] = {}
    assert table(results)[1][0][0] == "adaptive"
    assert summary(results) == f"adaptive: hybrid, {results['adaptive']['top1']:.1f} % top-1"


def test_units() -> None:
    assert cost_unit(196.05) == (1, "GMACs")
    assert cost_unit(0.0505) == (1000, "MMACs")


def test_fits_a_terminal(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed(results)).splitlines()
    lines = [line.rstrip() for line in lines]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    rows = [row for line in lines if len(row := line.split()) == 8 and row[0] != "top-1"]
    assert [row[0] for row in rows] == [*LENGTHS, "adaptive", "assigned", "random", "cascade", "oracle"]


def test_top5_says_nothing_of_5_classes(results: dict[str, Any]) -> None:
    assert table(results)[0][2] == "top-5 %"
    header, rows = table(results | {"classes": list("abcde")})
    assert header[1:3] == ["top-1 %", "MMACs a view"] and all(len(row) == len(header) for row in rows)
