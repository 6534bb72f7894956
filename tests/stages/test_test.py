"""The curves of the test stage are of videos, as its results are."""

from __future__ import annotations

from pathlib import Path

import pytest
import simplejson

from revit_video.adaptive.kept import read_calibration
from revit_video.adaptive.policies import Costs
from revit_video.stages.calibration import calibrated
from revit_video.stages.test import clock_batches
from tests.toy import LENGTHS, results_of, run_toy, toy_cfg

SIX_VIEWS = ("TEST.NUM_SPATIAL_CROPS", 3, "TEST.NUM_ENSEMBLE_VIEWS", 2, "DATA.SAMPLING_RATE", 2)


@pytest.mark.parametrize("decision", ["video", "view"])
def test_results_lie_on_their_curves(decision: str, own_run: Path, videos: Path) -> None:
    changes = (*SIX_VIEWS, "ADAPTIVE.DECISION", decision)
    run_toy(videos, own_run, *changes, "TEST.NAME", "six", stages=["test"])
    curve = results_of(own_run / "tests" / "six")["curves"]["assigned"]
    assert len(curve) > 3
    point = curve[len(curve) // 2]
    named = ("ADAPTIVE.THRESHOLD", point["threshold"], "TEST.NAME", "point")
    run_toy(videos, own_run, *changes, *named, stages=["test"])
    results = results_of(own_run / "tests" / "point")
    assert results["curves"]["assigned"] == curve
    mix = point.pop("mix")
    reached = {name: results["adaptive"][name] for name in point}
    assert reached == pytest.approx(point)
    counts = results["adaptive"]["length_counts"].values()
    assert [count / sum(counts) for count in counts] == pytest.approx(mix)
    assert results["environment"]["ranks"] == "1" and results["environment"]["device"]
    for end, length in zip(results["curves"]["random"], LENGTHS[::-1], strict=True):
        assert end == pytest.approx({name: results["static"][length][name] for name in ("gmacs", "top1")})


def test_a_cascade_needs_a_list_or_a_threshold(own_run: Path, own_videos: Path) -> None:
    """Where there is no assigner, which it would have been calibrated with."""
    (own_run / "assigner.pyth").unlink()
    (own_videos / "val.csv").unlink()
    run_toy(own_videos, own_run, "TEST.NAME", "alone", stages=["test"])
    assert set(results_of(own_run / "tests" / "alone")["policies"]) == {"oracle"}
    run_toy(own_videos, own_run, "TEST.NAME", "given", "ADAPTIVE.CASCADE_THRESHOLD", 0.25, stages=["test"])
    assert results_of(own_run / "tests" / "given")["policies"]["cascade"]["threshold"] == 0.25


def test_what_makes_results_too_good_stands_with_them(
    own_run: Path, own_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results_of(own_run)["remarks"] == []
    run_toy(own_videos, own_run, "TEST.NAME", "meant", "TEST.SPLIT", "val", stages=["test"])
    meant = "thresholds were chosen on the tested videos: 12 of 12 are in val"
    first = [(own_videos / f"{name}.csv").read_text().split("\n")[0] for name in ("train", "mine", "val")]
    (own_videos / "test.csv").write_text("\n".join([*first, (own_videos / "test.csv").read_text()]))
    run_toy(own_videos, own_run, "TEST.NAME", "some", stages=["test"])
    some = [
        f"{what} the tested videos: 1 of 15 are in {name}"
        for what, name in (
            ("the backbone was trained on", "train"),
            ("the assigner was trained on", "mine"),
            ("thresholds were chosen on", "val"),
        )
    ]
    said = capsys.readouterr().out
    for test, remarks in (("meant", [meant]), ("some", some)):
        folder = own_run / "tests" / test
        assert results_of(folder)["remarks"] == remarks
        for remark in remarks:
            assert f"<p>{remark}</p>" in (folder / "report.html").read_text() and remark in said
    thresholds = ("ADAPTIVE.THRESHOLD", 0.5, "ADAPTIVE.CASCADE_THRESHOLD", 0.5)
    given = ("TEST.NAME", "given", "TEST.SPLIT", "val", *thresholds)
    run_toy(own_videos, own_run, *given, stages=["test"])
    assert results_of(own_run / "tests" / "given")["remarks"] == []


def test_another_wish_at_test_time_is_met_from_the_kept_table(own_run: Path, own_videos: Path) -> None:
    """As if the assigner had been calibrated for it, and without the validation list."""
    wish = ("ADAPTIVE.BUDGET", 0.6)
    (own_videos / "val.csv").unlink()
    before = (own_run / "assigner.pyth").read_bytes()
    run_toy(own_videos, own_run, *wish, "TEST.NAME", "cheap", stages=["test"])
    results, cfg = results_of(own_run / "tests" / "cheap"), toy_cfg(own_videos, own_run, *wish)
    kept = read_calibration(str(own_run / "calibration.pyth"))
    assert kept is not None
    costs = simplejson.loads((own_run / "flops.json").read_text())
    expected = calibrated(cfg, kept.table, Costs.from_table(costs, cumulative=False))
    assert expected.hybrid is not None and expected.hybrid.usable == [1]
    assert results["adaptive"]["lengths"] == LENGTHS[1:]
    assert results["adaptive"]["certificate"] is None
    assert results["policies"]["assigned"]["threshold"] == expected.threshold
    assert results["policies"]["cascade"]["threshold"] == expected.cascade_threshold
    assert (own_run / "assigner.pyth").read_bytes() == before


@pytest.mark.parametrize(
    ("count", "gmacs", "timed"), [(38, 1.6, 15), (8, 1.6, 8), (500, 1568, 50), (9, 1568, 2)]
)
def test_the_clock_runs_over_more_clips_of_a_small_model(count: int, gmacs: float, timed: int) -> None:
    """25 GMACs, a tenth of the batches, or two batches: whichever is most."""
    assert clock_batches(count, gmacs) == timed
