"""What is said of the figures of a small test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from revit_video.adaptive.policies import Costs, cascade, static
from revit_video.adaptive.table import Table
from revit_video.evaluate import replay
from revit_video.stages.verdict import extrapolated, verdict
from tests.tables import table_of_scores
from tests.toy import toy_cfg

COSTS = Costs([10.0, 2.0])


def right_on(longest: int, shortest: int, videos: int = 60) -> Table:
    """A table in which each length is right on the first videos, of six classes."""
    labels = torch.arange(videos) % 6
    scores = torch.full((videos, 2, 6), 0.01)
    for length, count in enumerate((longest, shortest)):
        told = torch.where(torch.arange(videos) < count, labels, (labels + 1) % 6)
        scores[torch.arange(videos), length, told] = 0.95
    return table_of_scores(scores, labels, torch.arange(videos))


def said(tmp_path: Path, table: Table, curve: dict[int, float] | None = None) -> str:
    answers = {"cascade": replay(table, cascade([0.5, 0.5]), COSTS), "4x4": replay(table, static(0), COSTS)}
    return " | ".join(verdict(toy_cfg(tmp_path, tmp_path), table, answers, curve or {}))


def test_a_model_that_has_not_learned_is_not_recommended(tmp_path: Path) -> None:
    """12 of 60 right: 12 to 32 %, which meets chance."""
    words = said(tmp_path, right_on(12, 12))
    assert "lies between 12 and 32 % (95 % confidence), chance is 16.7 %, always the largest class" in words
    assert "this model has not learned" in words and "recommendation: do not use it" in words


def test_one_that_has_is_with_its_interval(tmp_path: Path) -> None:
    words = said(tmp_path, right_on(56, 56), {14: 70.0, 27: 84.0, 54: 92.0})
    curve = "learning curve: 70 % from 14, 84 % from 27, 92 % from 54 clips; twice as many may give 96 %"
    assert curve in words
    assert "use it as it is; cascade is at +0.0 points (-3.3 to +3.3) to always the longest length" in words
    assert words.endswith("; more clips pay")
    assert said(tmp_path, right_on(56, 56), {27: 92.0, 54: 92.0}).endswith("promise little")


def test_a_policy_that_loses_is_not_recommended(tmp_path: Path) -> None:
    assert "use always the longest length (predict --policy longest): cascade loses 26.7 points" in said(
        tmp_path, right_on(56, 40)
    )


def test_large_tests_need_no_verdict(tmp_path: Path) -> None:
    assert said(tmp_path, right_on(900, 900, videos=1000)) == ""


def test_errors_that_halve_with_twice_the_clips() -> None:
    assert extrapolated({10: 60.0, 20: 80.0, 40: 90.0}) == pytest.approx(95)
    assert extrapolated({10: 90.0, 20: 80.0}) == pytest.approx(80)  # never worse
