"""Policies and operating points that are set on a predictor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import revit_video
from revit_video.adaptive.calibrate import choose_point, hybrid_points
from revit_video.adaptive.table import Table
from revit_video.adaptive.temperatures import fit_temperatures
from revit_video.models import checkpoint


def test_a_policy_can_be_set(toy_run: Path, videos: Path) -> None:
    predictor, path = revit_video.load(toy_run, "cpu"), videos / "test" / "00000_left.mp4"
    shipped, identity = predictor.predict(path), predictor.identity
    assert repr(predictor).startswith(f"Predictor(ReViT of 4x4, 2x2; policy {predictor.policy}: ")
    for wish, length in (("longest", "4x4"), ("4x4", "4x4"), ("2x2", "2x2")):
        predictor.policy = wish
        answer = predictor.predict(path)
        assert str(answer.length) == length and answer.gmacs == pytest.approx(answer.gmacs)
        assert f"policy {wish};" in repr(predictor) and predictor.certificate == ""
        assert predictor.identity != identity
        assert torch.equal(answer.logits, next(predictor.predict_many([path])).logits)  # type: ignore[union-attr]
    predictor.policy = "hybrid"
    assert torch.equal(predictor.predict(path).logits, shipped.logits) and predictor.identity == identity


def test_wishes_are_met_on_the_validation_list(toy_run: Path, videos: Path) -> None:
    predictor = revit_video.load(toy_run, "cpu", policy="budget=0.6")
    answers = [predictor.predict(path) for path in sorted((videos / "test").glob("*.mp4"))]
    assert sum(a.gmacs for a in answers) <= 0.6 * sum(a.longest_gmacs for a in answers)

    kept = checkpoint.load_payload(str(toy_run / "calibration.pyth"))
    table, safety = Table(**kept["table"]), kept["adaptive"]["SAFETY"]
    costs = predictor.engine.costs
    points = hybrid_points(table, costs, fit_temperatures(table.scores, table.labels))
    for drop in (0, 100):
        predictor.policy = f"max_drop={drop}"
        expected = choose_point(points, drop, safety).hybrid
        assert expected is not None and predictor.engine.policy.usable == tuple(expected.usable)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("14x14", "policy '14x14': there are hybrid, assigned, cascade, longest, 4x4, 2x2, budget=SHARE"),
        ("budget=0", "policy budget=0: must be a share above 0, up to 1"),
        ("budget=0.01", "policy budget=0.01: nothing is as cheap; the cheapest takes 0.5"),
        ("max_drop=few", "policy max_drop=few: must be points from 0 to 100"),
    ],
)
def test_wishes_that_cannot_be_met(toy_run: Path, wish: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        revit_video.load(toy_run, "cpu", policy=wish)


def test_a_model_alone_has_no_validation_list(toy_run: Path, tmp_path: Path) -> None:
    alone = shutil.copy(toy_run / "model.pyth", tmp_path)
    with pytest.raises(ValueError, match="budget=0.5: needs .*calibration.pyth.*; load its OUTPUT_DIR"):
        revit_video.load(alone, "cpu", policy="budget=0.5")


def test_what_is_certified_is_told(own_run: Path) -> None:
    path = str(own_run / "model.pyth")
    payload = checkpoint.load_payload(path)
    payload["policy"]["certificate"] = {"max_drop": 0.5, "confidence": 0.95, "videos": 9, "holds": True}
    checkpoint.save(path, payload)
    predictor = revit_video.load(own_run, "cpu")
    assert predictor.certificate == "a drop of at most 0.5 points at 95 % confidence"
