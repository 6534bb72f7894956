"""Tables 1 to 3 from results made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import pytest
from fvcore.common.config import CfgNode
from reproduce.markdown import Page, write_page
from reproduce.rows import needs_table2
from reproduce.tables import table1, table2, table3

from revit_video.length import token_lengths
from revit_video.report.style import RC
from tests.toy import toy_cfg

GMACS = {"4x4": 2.0, "2x2": 0.5}


class HandMade:
    """Results of two seeds: mean `top1[row]` at 4x4 and 2x2, the second seed 2 points better."""

    def __init__(self, cfg: CfgNode, top1: dict[str, tuple[float, float]], adaptive: float = 0.0) -> None:
        self.lengths, self.top1, self.adaptive = token_lengths(cfg.REVIT.TOKEN_LENGTHS), top1, adaptive
        self.own_tau, self.own_gate = cfg.REVIT.DISTILL.TAU, cfg.REVIT.DISTILL.MIN_TEACHER_TOP1

    def results(self, name: str) -> list[dict[str, Any]]:
        pairs = zip(GMACS.items(), self.top1[name], strict=True)
        static = {length: (gmacs, top1) for (length, gmacs), top1 in pairs}
        return [
            {
                "static": {n: {"gmacs": g, "top1": t + more} for n, (g, t) in static.items()},
                "adaptive": {"gmacs": 1.0, "top1": self.adaptive + more},
                "views": 3,
            }
            for more in (-1.0, 1.0)
        ]


@pytest.fixture
def cfg(videos: Path, tmp_path: Path) -> CfgNode:
    return toy_cfg(videos, tmp_path, "REVIT.DISTILL.TAU", 2)


def cells(page: Page, first: str) -> list[str]:
    """Cells of the table row that starts with `first`."""
    (line,) = [x for text in page.paragraphs for x in text.splitlines() if x.startswith(f"| {first}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def verdicts(page: Page) -> dict[str, str]:
    return {claim.words: claim.verdict for claim in page.claims}


def test_table1_counts_all_views_and_is_relative_to_one_length_alone(cfg: CfgNode) -> None:
    page = table1([HandMade(cfg, {"single_4x4": (80, 0), "revit": (79, 70)}, adaptive=77)])
    assert cells(page, "4x4 alone")[1:5] == ["80.0 ± 1.4", "6.00", "100 %", "-"]
    assert cells(page, "ReViT, adaptive")[1:5] == ["77.0 ± 1.4", "3.00", "50 %", "-3.0 ± 0.0"]
    assert cells(page, "ReViT, adaptive")[5:] == ["ReViT-TimeSformer", "75.3", "0.39", "66 %", "-0.5"]
    assert set(verdicts(page).values()) == {"agrees"}


def test_table2_sets_lengths_beside_the_papers_by_rank(cfg: CfgNode) -> None:
    rows: dict[str, tuple[float, float]] = {
        "single_4x4": (80, 0),
        "single_2x2": (0, 60),
        "no_distillation": (81, 61),
        "tau_0.5": (70, 50),
        "tau_0.9": (70, 70),
        "revit": (75, 61),
    }
    assert set(needs_table2(cfg)) == set(rows)
    # One length alone has its results under its own name only.
    source = HandMade(cfg, rows)
    page = table2([source])
    assert cells(page, "one model per length")[1:] == ["80.0 ± 1.4", "60.0 ± 1.4", "79.85", "72.41"]
    assert cells(page, "ReViT, τ 0.9")[1:] == ["70.0 ± 1.4", "70.0 ± 1.4", "79.83", "74.21"]
    assert cells(page, "ReViT, τ 2, the config's own")[1:] == ["75.0 ± 1.4", "61.0 ± 1.4", "-", "-"]
    found = verdicts(page)
    shortest = "at the shortest length (2x2)"
    assert found[f"distillation (τ 0.9) helps {shortest}"] == "agrees"
    assert found[f"distillation (τ 0.5) helps {shortest}"] == "disagrees"
    assert found[
        "no distillation, as good as one model alone or better at the longest length (4x4)"
    ].startswith("within")


def test_the_papers_own_temperature_is_no_further_row(cfg: CfgNode, videos: Path, tmp_path: Path) -> None:
    own = toy_cfg(videos, tmp_path, "REVIT.DISTILL.TAU", 0.9)
    assert needs_table2(own).count("revit") == 2 and "tau_0.9" not in needs_table2(own)
    names = dict.fromkeys([*needs_table2(own)], (70.0, 60.0))
    text = table2([HandMade(own, names)]).paragraphs[1]
    assert text.count("τ 0.9") == text.count("τ 0.5") == 1


def test_table3_asks_at_every_length(cfg: CfgNode) -> None:
    rows: dict[str, tuple[float, float]] = dict.fromkeys(
        ("shared_both", "resized_patch", "resized_position", "shared_norm"), (90.0, 80.0)
    )
    page = table3(
        [HandMade(cfg, rows | {"revit": (90, 80), "shared_patch": (70, 90), "shared_position": (80, 80)})]
    )
    found = verdicts(page)
    assert found["own kernels beat a shared one, at 4x4"] == "agrees"
    assert found["own kernels beat a shared one, at 2x2"] == "disagrees"
    assert found["own positions beat shared ones, at 4x4"] == "agrees"
    assert found["an own layer norm for each length helps, at 4x4"] == "neither: equal"
    assert cells(page, "shared kernel, own positions")[1:] == ["70.0 ± 1.4", "90.0 ± 1.4", "65.14", "58.35"]


def test_a_page_is_written_whole(cfg: CfgNode, tmp_path: Path) -> None:
    with matplotlib.rc_context(RC):
        page = table1([HandMade(cfg, {"single_4x4": (80, 0), "revit": (79, 70)}, adaptive=77)])
        markdown, picture = write_page(page, str(tmp_path), "table1", ["command: `x`", "seeds: 2"])
    text = Path(markdown).read_text()
    assert text.startswith("# Table 1") and "- command: `x`\n- seeds: 2\n" in text
    assert "(table1.png)" in text and Path(picture).read_bytes().startswith(b"\x89PNG")
