"""The points of Fig. 5 equal the results of the runs themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduce.fig5 import ALL_POLICIES, POINTS, STATIC_ALONE, along, operating_points, speed_page

from revit_video.adaptive.calibrate import Point
from revit_video.length import token_lengths
from tests.toy import LENGTHS, results_of, run_toy, toy_cfg


def test_points_are_those_of_the_runs(own_run: Path, videos: Path, tmp_path: Path) -> None:
    keys = ("DVT.ENABLE", True, "TEST.POLICIES", "[static, cascade]")
    dvt_run = run_toy(videos, tmp_path, *keys, stages=["train", "test"])
    own = toy_cfg(videos, own_run, *ALL_POLICIES)
    scores = operating_points(own, toy_cfg(videos, dvt_run, *keys, *STATIC_ALONE), "python toy")

    results, dvt = results_of(own_run), results_of(dvt_run)
    wanted = {
        "static": list(results["static"].values()),
        "adaptive": [results["adaptive"]],
        "assigned": [results["policies"]["assigned"]],
        "cascade": [results["policies"]["cascade"]],
        "random": [results["policies"]["random"]],
        "oracle": [results["policies"]["oracle"]],
        "DVT, static": list(dvt["static"].values()),
        "DVT": [dvt["policies"]["cascade"]],
    }
    for name, entries in wanted.items():
        for point, entry in zip(scores[name], entries, strict=False):
            assert point["top1"] == entry["top1"] and point["gmacs"] == pytest.approx(entry["gmacs"])
    assert [len(scores[name]) for name in ("adaptive", "assigned", "cascade", "DVT")] == 4 * [1 + POINTS]
    assert scores["static"][0]["speed"] == 1
    assert [name for name, points in scores.items() if "speed" not in points[0]] == ["oracle"]

    page = speed_page([scores, scores], token_lengths(LENGTHS))
    assert "| adaptive (hybrid), calibrated " in page.paragraphs[1]
    assert "| always 4x4 " in page.paragraphs[1] and "| DVT, early exit, calibrated " in page.paragraphs[1]
    distinct = {(point["top1"], point["gmacs"]) for point in scores["DVT"]}
    assert page.paragraphs[1].count("| DVT, early exit, ") == len(distinct)


def test_points_are_spread_evenly_in_cost() -> None:
    points = [Point(0.0, 0.0, float(cost), 0.0, 0.0, []) for cost in (0, 1, 2, 3, 8, 10)]
    assert [point.gmacs for point in along(points, 4)] == [2.0, 3.0, 8.0, 8.0]
