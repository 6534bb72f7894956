"""Which operating point a config's words choose, on a table small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from revit_video.adaptive.kept import read_calibration, write_calibration
from revit_video.adaptive.policies import Certificate, Costs, Hybrid, Settings
from revit_video.adaptive.table import Table
from revit_video.evaluate import milliseconds
from revit_video.runtime.ranks import Ranks
from revit_video.stages import calibration
from revit_video.stages.calibration import (
    assigned_settings,
    calibrated,
    calibrated_here,
    cascade_threshold,
    costs_in_wish,
    hybrid_settings,
)
from tests.tables import table_of_scores
from tests.tiny import tiny_revit
from tests.toy import results_of, run_toy, toy_cfg

ALONE = Ranks(0, 1, torch.device("cpu"))

# Four videos of one view, of class 1; correct at 8x8 all, at 4x4 the two that it is sure of.
SCORES = torch.tensor([[0.1, 0.9], [0.05, 0.95], [0.2, 0.8], [0.3, 0.7]])
AT_4X4 = torch.tensor([[0.02, 0.98], [0.1, 0.9], [0.6, 0.4], [0.7, 0.3]])
SHORT_IS_ENOUGH = torch.tensor([0.9, 0.8, 0.3, 0.2])
COSTS = Costs([10.0, 2.0], assigner=1.0)
SAFE = ("ADAPTIVE.SAFETY", 0, "ADAPTIVE.MAX_DROP", 0)


def table() -> Table:
    scores = torch.stack([SCORES, AT_4X4], dim=1)
    assigned = torch.stack([1 - SHORT_IS_ENOUGH, SHORT_IS_ENOUGH], dim=1)
    return table_of_scores(scores, torch.ones(4, dtype=torch.long), torch.arange(4), assigned)


def mix_of(tmp_path: Path, *changes: object) -> list[float] | None:
    return assigned_settings(toy_cfg(tmp_path, tmp_path, *changes), table(), COSTS).mix


def test_the_assigner_spends_what_it_is_given(tmp_path: Path) -> None:
    """3 GMACs where the short length is run, 11 where the long one is: 3, 5, 7 (all right), 9, 11 in all."""
    safe = ("ADAPTIVE.SAFETY", 0, "ADAPTIVE.MAX_DROP", 0)
    assert mix_of(tmp_path, *safe) == [0.5, 0.5]
    assert mix_of(tmp_path, *safe, "ADAPTIVE.BUDGET", 0.7) == [0.5, 0.5]
    assert mix_of(tmp_path, *safe, "ADAPTIVE.BUDGET", 0.69) == [0.25, 0.75]
    assert mix_of(tmp_path, *safe, "ADAPTIVE.BUDGET", 0.1) == [0.0, 1.0]  # nothing is as cheap


@pytest.mark.parametrize(("budget", "stop"), [(0.5, 3), (0.7, 2), (1.0, 2)])
def test_the_cascade_does(budget: float, stop: int, tmp_path: Path) -> None:
    """It is 0.98, 0.9, 0.6 and 0.7 sure; 2 and 12 GMACs: 2, 4.5, 7 (all right) and so on in all."""
    cfg = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.BUDGET", budget)
    threshold = cascade_threshold(cfg, table(), COSTS)
    assert calibrated(cfg, table(), COSTS).cascade_threshold == threshold
    assert int((AT_4X4.amax(dim=1) >= threshold).sum()) == stop


@pytest.mark.parametrize(("budget", "stop"), [(0.4, 3), (0.6, 2), (1.0, 2)])
def test_early_exit_does(budget: float, stop: int, tmp_path: Path) -> None:
    """A DVT's costs include the shorter lengths: 2 and 10, so 4 (three stop), 6 (two stop, all right)."""
    cfg = toy_cfg(tmp_path, tmp_path, "DVT.ENABLE", True, "ADAPTIVE.BUDGET", budget)
    thresholds = cascade_threshold(cfg, table(), replace(COSTS, cumulative=True))
    assert isinstance(thresholds, list)
    assert thresholds[0] == 0 and int((AT_4X4.amax(dim=1) >= thresholds[1]).sum()) == stop


# ---- Hybrid ----------------------------------------------------------------------------------------------


def enlarged(times: int) -> Table:
    """The table's videos many times over."""
    small = table()
    scores, assigned = small.scores.repeat(times, 1, 1), small.assigned.repeat(times, 1)
    return table_of_scores(scores, torch.ones(4 * times, dtype=torch.long), torch.arange(4 * times), assigned)


def test_hybrid_stops_early_where_it_is_sure(tmp_path: Path) -> None:
    """Two of four are sure and right at 4x4: asked, 0.5 * 3 + 0.5 * 11 = 7 GMACs; by confidence the same."""
    hybrid, certificate = hybrid_settings(toy_cfg(tmp_path, tmp_path, *SAFE), table(), COSTS)
    followed = table().follow(hybrid.policy())
    assert followed.videos.correct.all() and followed.stop.tolist() == [1, 1, 0, 0]
    assert certificate is not None and not certificate.holds


def test_hybrid_spends_what_it_is_given_and_promises_nothing(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.BUDGET", 0.2)
    hybrid, certificate = hybrid_settings(cfg, table(), COSTS)
    assert (hybrid.usable, certificate) == ([1], None)


def test_a_short_list_certifies_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The estimate is taken, or, if a certificate is required, the longest length."""
    hybrid, certificate = hybrid_settings(toy_cfg(tmp_path, tmp_path, *SAFE), enlarged(3), COSTS)
    assert hybrid.usable == [0, 1] and certificate is not None and not certificate.holds
    assert "not certified by the 12 videos of val" in caplog.text
    required = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.CERTIFY", True, "ADAPTIVE.SAFETY", 0)
    hybrid, certificate = hybrid_settings(required, enlarged(3), COSTS)
    assert hybrid.usable == [0] and certificate is not None and not certificate.holds
    assert certificate.needed is not None and certificate.needed > 12


def test_a_long_list_does(tmp_path: Path) -> None:
    """Never a loss in 500 videos: 1.5 points are certified, at the cost of the cheapest point."""
    cfg = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.MAX_DROP", 1.5, "ADAPTIVE.CERTIFY", True)
    hybrid, certificate = hybrid_settings(cfg, enlarged(250), COSTS)
    assert hybrid.usable == [0, 1]
    assert certificate == Certificate(1.5, 0.95, 1000, True)


def test_where_adapting_does_not_pay_the_longest_length_is_the_operating_point(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """4x4 is wrong wherever it is sure, and the assigner costs more than the longest length."""
    caplog.set_level("INFO")
    small = table()
    wrong = replace(small, scores=torch.stack([SCORES, SCORES.flip(1)], dim=1))
    hybrid, certificate = hybrid_settings(
        toy_cfg(tmp_path, tmp_path, *SAFE), wrong, Costs([10.0, 9.0], assigner=15.0)
    )
    assert hybrid.usable == [0] and certificate is not None and certificate.holds
    assert (
        "asking the assigner costs 150 % of the longest length; the operating point is always 4x4"
        in caplog.text
    )


def test_a_calibration_is_kept_whole(tmp_path: Path) -> None:
    cfg, path = toy_cfg(tmp_path, tmp_path), str(tmp_path / "calibration.pyth")
    assert read_calibration(path) is None
    write_calibration(path, cfg.ADAPTIVE, table())
    kept = read_calibration(path)
    assert kept is not None and kept.adaptive == dict(cfg.ADAPTIVE)
    assert calibrated(cfg, kept.table, COSTS) == calibrated(cfg, table(), COSTS)


def test_settings_survive_a_checkpoint(tmp_path: Path) -> None:
    settings = calibrated(toy_cfg(tmp_path, tmp_path, *SAFE), table(), COSTS)
    assert settings.hybrid is not None and settings.certificate is not None
    assert Settings.of(settings.to_dict()) == settings


def test_a_wish_in_milliseconds_is_met_in_what_was_measured(
    own_run: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Far more than the longest length takes: as accurate as can be. Less than anything: the cheapest."""
    assert costs_in_wish(toy_cfg(videos, own_run), COSTS, tiny_revit(), None, ALONE) is COSTS
    found = {}
    for name, wish in (("slow", 1e4), ("fast", 1e-6)):
        named = ("ADAPTIVE.LATENCY_MS", wish, "TEST.NAME", name)
        run_toy(videos, own_run, *named, stages=["test"])
        found[name] = results_of(own_run / "tests" / name)["adaptive"]
        assert found[name]["certificate"] is None
    said = capsys.readouterr().err
    assert "ms per view on this machine, in batches of 8 views: 4x4 " in said
    assert "ADAPTIVE.LATENCY_MS 1e-06: nothing is as cheap; the cheapest is taken" in said
    assert len(found["fast"]["lengths"]) == 1


def test_milliseconds_of_lengths_and_assigner() -> None:
    model = tiny_revit()
    costs = milliseconds(model, None, torch.randn(2, 3, model.num_frames, model.img_size, model.img_size), 1)
    assert len(costs.gmacs) == len(model.lengths) and min(costs.gmacs) > 0 and costs.assigner == 0


# ---- Few videos ------------------------------------------------------------------------------------------


def luck(videos: int, seed: int) -> Table:
    """Lengths that are right on 70 and 60 % of the videos; neither confidence nor assigner knows where."""
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(videos, 2, generator=generator) < torch.tensor([0.7, 0.6])
    sure = 0.55 + 0.4 * torch.rand(videos, 2, generator=generator)
    of_class_1 = torch.where(correct, sure, 1 - sure)
    guess = torch.rand(videos, 1, generator=generator)
    return table_of_scores(
        torch.stack([1 - of_class_1, of_class_1], dim=2),
        torch.ones(videos, dtype=torch.long),
        torch.arange(videos),
        torch.cat([1 - guess, guess], dim=1),
    )


def test_a_choice_by_luck_is_not_shipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of 24 videos; with SAFETY 0 the estimate is believed."""
    new, longest = luck(2000, seed=99), torch.zeros(2000, dtype=torch.long)
    few, trusting = toy_cfg(tmp_path, tmp_path), toy_cfg(tmp_path, tmp_path, "ADAPTIVE.SAFETY", 0)

    def drop(cfg: CfgNode, seed: int) -> float:
        hybrid, _ = hybrid_settings(cfg, luck(24, seed), COSTS)
        return new.videos_at(longest).topk(1) - new.follow(hybrid.policy()).videos.topk(1)

    ours, believed = ([drop(cfg, seed) for seed in range(6)] for cfg in (few, trusting))
    assert sum(ours) < sum(believed) / 2
    assert ours.count(0) >= 4 and "so always 4x4 is taken" in caplog.text


@pytest.mark.parametrize(("lost", "usable"), [(1, [0, 1]), (2, [0])])
def test_one_video_lost_of_few_is_no_reason(
    lost: int, usable: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 videos one is 2.5 points, more than the wish for 0.5: that is what chance does."""
    scores = torch.tensor([0.01, 0.99]).repeat(40, 2, 1)
    scores[:lost, 1] = torch.tensor([0.6, 0.4])  # wrong at the short length, and not sure
    few = table_of_scores(scores, torch.ones(40, dtype=torch.long), torch.arange(40))
    always_short = Hybrid([1], 0.0, [1.0, 1.0], None, False, False)
    monkeypatch.setattr(calibration, "choose_hybrid", lambda *_: always_short)
    cfg = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.MAX_DROP", 0.5, "ADAPTIVE.SAFETY", 0.1)
    assert hybrid_settings(cfg, few, COSTS, torch.arange(40) % 2)[0].usable == usable


def test_few_videos_without_a_difference_promise_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """12 of 12 right at either length: it is said what one video weighs, and what to do."""
    alike = replace(enlarged(3), scores=torch.stack([SCORES, SCORES], dim=1).repeat(3, 1, 1))
    cfg = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.MAX_DROP", 9)
    assert hybrid_settings(cfg, alike, COSTS)[0].usable == [1]
    assert "12 videos of val are few, one is 8.3 points" in caplog.text
    assert "it is at +0.0 points (-16.3 to +16.3 at 95 % confidence); where no drop may be" in caplog.text
    assert hybrid_settings(toy_cfg(tmp_path, tmp_path), alike, COSTS)[0].usable == [0]


@pytest.mark.parametrize(
    ("clock", "usable", "asks"),
    [
        (Costs([4.0, 1.0], assigner=3.0), [0, 1], False),
        (Costs([1.0, 0.6], assigner=0.05), [0, 1], True),
        (Costs([1.0, 1.0], assigner=0.05), [0], False),
        (Costs([1.0, 0.97], assigner=0.0), [0], False),
        (Costs([1.0, 0.4], assigner=0.05), [0, 1], True),
        (Costs([1.0, 0.4], assigner=0.18), [0, 1], False),
    ],
)
def test_what_is_shipped_is_not_slow(
    clock: Costs, usable: list[int], asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cascade takes 70 % of the longest length's MACs: both lengths for two of four videos.

    Where both take 110 % of its time, the assigner's start is faster; where one alone takes as long as the
    other, or but 3 % less, always the longest is. Where the cascade takes 90 %, the assigner's start gets its
    place with 75 %, and not with 88 %, which a clock cannot tell apart.
    """
    monkeypatch.setattr(calibration, "_measured", lambda *_: clock)
    given = table(), COSTS, tiny_revit(), None, ALONE
    hybrid = calibrated_here(toy_cfg(tmp_path, tmp_path, *SAFE, "ADAPTIVE.ON_CLOCK", True), *given).hybrid
    assert hybrid is not None and (hybrid.usable, hybrid.prices is not None) == (usable, asks)
    assert calibrated_here(toy_cfg(tmp_path, tmp_path, *SAFE), *given) == calibrated(
        toy_cfg(tmp_path, tmp_path, *SAFE), table(), COSTS
    )
