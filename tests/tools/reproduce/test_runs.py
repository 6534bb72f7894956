"""Rows as configs, and when a run counts as done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import simplejson
from fvcore.common.config import CfgNode
from reproduce.command import STUDIES
from reproduce.rows import ABLATIONS, row_options, tau_row
from reproduce.runs import Runs, differences, is_done, seconds_of

from revit_video.config import dump_cfg, load_cfg
from tests.toy import options, stats_of, toy_cfg


def runs(videos: Path, folder: Path, *changes: object) -> Runs:
    return Runs(None, options(videos, folder, *changes), [0, 1], "python toy")


def test_every_row_is_a_config_that_differs_in_its_own_keys(videos: Path, tmp_path: Path) -> None:
    toy = runs(videos, tmp_path)
    for name in {name for study in STUDIES.values() for name in study.needs(toy.cfg)}:
        cfg = toy.row_cfg(name, 1)
        assert Path(cfg.OUTPUT_DIR) == tmp_path / name / "seed1" and cfg.RNG_SEED == 1
        changed = set(differences(cfg, toy.row_cfg("revit", 1)))
        assert changed <= set(row_options(name)[::2]) and bool(changed) == (name != "revit")


def test_every_ablation_is_a_row_and_runs_alone(videos: Path, tmp_path: Path) -> None:
    toy = runs(videos, tmp_path, "REVIT.DISTILL.TAU", 2)
    rows = {name for study in STUDIES.values() for name in study.needs(toy.cfg)} - {"revit"}
    files = sorted(ABLATIONS.glob("*.yaml"))
    assert {path.stem for path in files} == {
        name.split("_")[0] if "single" in name else name for name in rows
    }
    for path in files:
        assert f"--cfg configs/Ablation/{path.name} " in path.read_text()
        assert load_cfg(str(path)).TEST.POLICIES[0] == "static"


def test_rows_of_a_config_win_over_the_command_line(videos: Path, tmp_path: Path) -> None:
    cfg = runs(videos, tmp_path, "REVIT.NORM", "per_length").row_cfg("shared_norm", 0)
    assert cfg.REVIT.NORM == "shared" and cfg.TEST.POLICIES == ["static"]


def test_the_configs_own_temperature_is_its_own_row() -> None:
    assert row_options("tau_0.5")[:2] == ["REVIT.DISTILL.TAU", 0.5]
    assert (tau_row(0.5, 0.5, 0), tau_row(0.9, 0.5, 0)) == ("revit", "tau_0.9")
    assert tau_row(0.5, 0.5, 75) == "tau_0.5", "the paper distils from the first step"


def test_a_finished_run_is_done_wherever_it_lies(own_run: Path, videos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(own_run, tmp_path / "moved"))
    assert is_done(toy_cfg(videos, own_run)) and is_done(toy_cfg(videos, moved))


def test_keys_that_the_config_leaves_open_were_filled_in(own_run: Path, videos: Path) -> None:
    assert is_done(toy_cfg(videos, own_run, "DATA.MEAN", [], "MODEL.NUM_CLASSES", 0))
    with pytest.raises(ValueError, match="DATA.MEAN"):
        is_done(toy_cfg(videos, own_run, "DATA.MEAN", [0.5, 0.5, 0.5]))


def test_a_config_of_before_a_key_was_there(own_run: Path, videos: Path) -> None:
    path = own_run / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if "RELATION_REUSE" not in line]
    path.write_text("\n".join(lines))
    assert is_done(toy_cfg(videos, own_run))


@pytest.mark.parametrize("damage", ["missing", "half"])
def test_a_run_without_whole_results_is_not_done(own_run: Path, videos: Path, damage: str) -> None:
    path = own_run / "results.json"
    text = path.read_text()
    path.unlink()
    if damage == "half":
        path.write_text(text[: len(text) // 2])
    assert not is_done(toy_cfg(videos, own_run))


def test_another_test_is_run_again_but_another_training_is_refused(own_run: Path, videos: Path) -> None:
    assert not is_done(toy_cfg(videos, own_run, "TEST.BATCH_SIZE", 3))
    with pytest.raises(
        ValueError, match="was run with SOLVER.BASE_LR 0.01, not 0.02; take another OUTPUT_DIR"
    ):
        is_done(toy_cfg(videos, own_run, "SOLVER.BASE_LR", 0.02))


def test_results_of_another_test_do_not_pass_for_this_ones(
    own_run: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted test has written the new config already, and must not keep the old results."""
    folder = tmp_path / "out" / "revit" / "seed0"
    shutil.copytree(own_run, folder)
    toy = Runs(None, options(videos, tmp_path / "out", "TEST.BATCH_SIZE", 3), [0], "python toy")

    def interrupted(_: object, ranks: int, cfg: CfgNode, *__: object) -> None:
        (folder / "config.yaml").write_text(dump_cfg(cfg))
        raise KeyboardInterrupt

    monkeypatch.setattr("reproduce.runs.launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.run(["revit"])
    assert not is_done(toy.row_cfg("revit", 0))
    assert simplejson.loads((folder / "seconds.json").read_text())["seconds"] >= 0


def test_seconds_of_a_run_of_another_command_come_from_its_log(own_run: Path) -> None:
    trained = [line for line in stats_of(own_run) if line["stage"] == "train"]
    clips = trained[-1]["step"] * 4
    rates = [line["clips_per_sec"] for line in trained]
    seconds, whole = seconds_of(str(own_run))
    assert seconds is not None and not whole
    assert clips / max(rates) <= 1.001 * seconds and seconds <= 1.001 * clips / min(rates)
    (own_run / "seconds.json").write_text('{"seconds": 12.5}')
    assert seconds_of(str(own_run)) == (12.5, True)
