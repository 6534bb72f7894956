"""Generated mp4 files through all stages, and what the stages leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import simplejson
import torch

from revit_video import flops
from revit_video.config import dump_cfg
from revit_video.from_cfg.model import build_assigner, build_model
from revit_video.models import checkpoint
from revit_video.runtime import output_dir
from tests.toy import (
    COUNTS,
    LENGTHS,
    STAGES,
    accuracies,
    last_checkpoint,
    results_of,
    run_toy,
    stats_of,
    table_of,
    toy_cfg,
)

FILES = (
    *("config.yaml", "stats.jsonl", "checkpoints/epoch_00001.pyth", "checkpoints/last", "labels.csv"),
    *("assigner.pyth", "model.pyth", "flops.json", "results.json", "predictions.csv", "skipped.csv"),
    *("report.html", "accuracy_cost.png"),
)


def same(one: Any, other: Any) -> bool:
    """Whether two nested structures hold bit-identical tensors and equal values."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# ---- What one run leaves behind --------------------------------------------------------------------------


def test_every_file_is_there(toy_run: Path) -> None:
    assert [name for name in FILES if not (toy_run / name).is_file()] == []
    assert not list(toy_run.rglob("*.tmp"))
    assert (toy_run / "checkpoints" / "last").read_text().strip() == "epoch_00001.pyth"
    assert (toy_run / "report.html").read_text().rstrip().endswith("</html>")


def test_the_config_that_ran_can_be_run_again(toy_run: Path, videos: Path) -> None:
    assert (toy_run / "config.yaml").read_text() == dump_cfg(toy_cfg(videos, toy_run))


def test_labels_are_the_shortest_correct_length(toy_run: Path, videos: Path) -> None:
    rows = table_of(toy_run / "labels.csv")
    assert [row["video"] for row in rows] == [
        str(videos / line.split()[0]) for line in (videos / "mine.csv").read_text().splitlines()
    ]
    for row in rows:
        right = [length for length in LENGTHS if row[f"correct_{length}"] == "1"]
        assert row["token_length"] == (right[-1] if right else LENGTHS[0])
    used = checkpoint.weights_digest(last_checkpoint(toy_run)["model"]["weights"])
    assert (toy_run / "labels.csv").read_text().startswith(f"# checkpoint {used}\n")


def test_results_agree_with_the_predictions(toy_run: Path) -> None:
    results, rows = results_of(toy_run), table_of(toy_run / "predictions.csv")
    assert len(rows) == results["videos"] == results["clips"] == COUNTS["test"]

    def top1(column: str) -> float:
        return 100 * sum(row["label"] == row[column] for row in rows) / len(rows)

    for length in LENGTHS:
        assert results["static"][length]["top1"] == pytest.approx(top1(f"prediction_{length}"))
    adaptive = results["adaptive"]
    assert adaptive["top1"] == pytest.approx(top1("adaptive_prediction"))
    read = [row["adaptive_length"] for row in rows]
    assert adaptive["length_counts"] == {length: read.count(length) for length in LENGTHS}
    # Every video is predicted as the length that was read predicts it.
    assert all(row["adaptive_prediction"] == row[f"prediction_{row['adaptive_length']}"] for row in rows)


def test_results_are_complete(toy_run: Path) -> None:
    results = results_of(toy_run)
    entries = {**results["static"], "adaptive": results["adaptive"], **results["policies"]}
    assert set(entries) == {*LENGTHS, "adaptive", "assigned", "random", "cascade", "oracle"}
    timed = {**{name: entry for name, entry in entries.items() if name != "oracle"}, **results["clock"]}
    for speed in timed.values():
        for name in ("clips_per_sec", "speedup"):
            low, high = speed[f"{name}_quartiles"]
            assert 0 < low <= speed[name] <= high
    assert entries[LENGTHS[0]]["speedup"] == 1
    assert not {"clips_per_sec", "speedup"} & set(entries["oracle"])
    for entry in entries.values():
        assert sum(entry["length_counts"].values()) == results["clips"]
        assert entry["macs_speedup"] == pytest.approx(entries[LENGTHS[0]]["gmacs"] / entry["gmacs"])
        assert 0 <= entry["top1"] <= entry["top5"] <= 100
    assert entries["oracle"]["top1"] >= max(results["static"][length]["top1"] for length in LENGTHS)
    assert results["classes"] == ["left", "right", "up", "down", "grow", "shrink"]
    assert (results["dataset"], results["command"], results["seed"]) == ("actions", "python toy", 0)
    assert (results["lengths"], results["views"], results["skipped"]) == (LENGTHS, 1, 0)
    assert set(results["curves"]) == {"hybrid", "assigned", "random", "cascade"}


def test_costs_are_the_flops_modules(toy_run: Path, videos: Path) -> None:
    cfg = toy_cfg(videos, toy_run)
    costs = flops.cost_table(build_model(cfg), 1, build_assigner(cfg))
    assert simplejson.loads((toy_run / "flops.json").read_text()) == simplejson.loads(simplejson.dumps(costs))
    results = results_of(toy_run)
    gmacs = {length: costs["lengths"][length]["gmacs"] for length in LENGTHS}
    for length in LENGTHS:
        assert results["static"][length]["gmacs"] == pytest.approx(gmacs[length])
    assigned = results["policies"]["assigned"]
    paid = sum(gmacs[length] * count for length, count in assigned["length_counts"].items()) / COUNTS["test"]
    assert assigned["gmacs"] == pytest.approx(paid + costs["assigner_gmacs"])


def test_statistics_cover_every_stage(toy_run: Path) -> None:
    lines = stats_of(toy_run)
    by_stage = {stage: [line for line in lines if line["stage"] == stage] for stage in (*STAGES[:3], "val")}
    assert all(by_stage.values())
    train = by_stage["train"][-1]
    assert {"loss_4x4", "loss_2x2", "top1_4x4", "lr", "clips_per_sec", "data_time", "eta"} <= set(train)
    assert train["step"] == COUNTS["train"] // 4
    assert set(by_stage["val"][0]) == {"stage", "epoch", "step", "top1_4x4", "top1_2x2"}
    assert {"loss", "accuracy", "step"} <= set(by_stage["assigner"][-1])
    assert sum(by_stage["mine"][0]["labels"].values()) == COUNTS["mine"]


# ---- Stages alone, and again -----------------------------------------------------------------------------


def test_each_stage_can_be_run_again_alone(own_run: Path, videos: Path) -> None:
    before = {name: (own_run / name).read_bytes() for name in ("labels.csv", "predictions.csv", "flops.json")}
    trained, assigner = last_checkpoint(own_run), checkpoint.load_payload(str(own_run / output_dir.ASSIGNER))
    scores, count = accuracies(own_run), len(stats_of(own_run))
    for stage in STAGES:
        run_toy(videos, own_run, stages=[stage])
    assert {name: (own_run / name).read_bytes() for name in before} == before
    assert same(last_checkpoint(own_run), trained)
    assert same(checkpoint.load_payload(str(own_run / output_dir.ASSIGNER)), assigner)
    assert accuracies(own_run) == scores
    assert len(stats_of(own_run)) == count


def test_the_same_command_gives_the_same_weights(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    # Data workers must not matter either.
    again = run_toy(videos, tmp_path / "again", "DATA_LOADER.NUM_WORKERS", 1, stages=STAGES[:3])
    assert same(last_checkpoint(again), last_checkpoint(toy_run))
    ours, theirs = (checkpoint.load_payload(str(run / output_dir.ASSIGNER)) for run in (again, toy_run))
    assert same(ours, theirs)


def test_another_seed_gives_other_weights(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    other = run_toy(videos, tmp_path / "other", "RNG_SEED", 1, "TRAIN.EVAL_PERIOD", 0, stages=["train"])
    assert not same(last_checkpoint(other)["model"]["weights"], last_checkpoint(toy_run)["model"]["weights"])
    assert [line["stage"] for line in stats_of(other)] == ["train"]


def test_training_starts_from_a_named_checkpoint(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    start = toy_run / "checkpoints" / "epoch_00001.pyth"
    changes = ("TRAIN.CHECKPOINT_FILE_PATH", start, "SOLVER.BASE_LR", 1e-30, "SOLVER.WEIGHT_DECAY", 0)
    other = run_toy(videos, tmp_path / "other", *changes, stages=["train"])
    ours, theirs = (last_checkpoint(run)["model"]["weights"] for run in (other, toy_run))
    torch.testing.assert_close(ours, theirs)


# ---- Other settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["joint_space_time", "space_only"])
def test_other_attention(attention: str, videos: Path, tmp_path: Path) -> None:
    run_toy(videos, tmp_path, "TIMESFORMER.ATTENTION_TYPE", attention)
    assert results_of(tmp_path)["adaptive"]["top1"] >= 0


def test_three_lengths_with_everything_shared(videos: Path, tmp_path: Path) -> None:
    shared = [word for part in ("NORM", "PATCH_EMBED", "POS_EMBED") for word in (f"REVIT.{part}", "shared")]
    run_toy(videos, tmp_path, "REVIT.TOKEN_LENGTHS", [8, 4, 2], *shared, "REVIT.DISTILL.ENABLE", False)
    assert results_of(tmp_path)["lengths"] == ["8x8", "4x4", "2x2"]


def test_reversed_classes_fill_half_of_each_batch(videos: Path, tmp_path: Path) -> None:
    changes = ("DATA.REVERSED_CLASSES", [[0, 1], [2, 3], [4, 5]], "TRAIN.EVAL_PERIOD", 0)
    run_toy(videos, tmp_path, *changes, stages=["train"])
    assert stats_of(tmp_path)[-1]["step"] == COUNTS["train"] // 2


def test_mining_the_training_list(own_run: Path, videos: Path) -> None:
    run_toy(videos, own_run, "MINE.HOLDOUT", "", stages=["mine", "assigner"])
    assert len(table_of(own_run / "labels.csv")) == COUNTS["train"]
    assert "/train/" in table_of(own_run / "labels.csv")[0]["video"]


def test_mining_several_clips_a_video(own_run: Path, videos: Path) -> None:
    # Clips of half the video; in a streamed epoch there are more of them than videos.
    changes = ("MINE.NUM_CLIPS", 2, "DATA.SAMPLING_RATE", 2, "ASSIGNER.CACHE_GB", 0)
    run_toy(videos, own_run, *changes, stages=["mine", "assigner"])
    rows = table_of(own_run / "labels.csv")
    assert [row["clip"] for row in rows] == ["0", "1"] * COUNTS["mine"]
    assert len({row["clip_start"] for row in rows}) == 2
    assigner = [line for line in stats_of(own_run) if line["stage"] == "assigner"]
    assert assigner[-1]["step"] == 2 * COUNTS["mine"] // 4


def test_several_views_a_video(own_run: Path, videos: Path) -> None:
    changes = ("TEST.NUM_SPATIAL_CROPS", 3, "TEST.NUM_ENSEMBLE_VIEWS", 2, "DATA.SAMPLING_RATE", 2)
    run_toy(videos, own_run, *changes, "TEST.NAME", "six", stages=["test"])
    results = results_of(own_run / "tests" / "six")
    assert (results["videos"], results["clips"], results["views"]) == (COUNTS["test"], 6 * COUNTS["test"], 6)
    counts = results["adaptive"]["length_counts"]
    assert all(count % 6 == 0 for count in counts.values()), "one decision a video"


def test_the_most_probable_length(own_run: Path, videos: Path) -> None:
    run_toy(videos, own_run, "ADAPTIVE.POLICY", "argmax", stages=["assigner", "test"])
    assert results_of(own_run)["adaptive"]["threshold"] is None


def test_fixed_thresholds(own_run: Path, videos: Path) -> None:
    changes = ("ADAPTIVE.THRESHOLD", 0.75, "ADAPTIVE.CASCADE_THRESHOLD", 0.25, "ADAPTIVE.DECISION", "view")
    run_toy(videos, own_run, *changes, stages=["assigner", "test"])
    settings = checkpoint.load_payload(str(own_run / output_dir.ASSIGNER))["policy"]
    assert (settings["threshold"], settings["cascade_threshold"], settings["per_view"]) == (0.75, 0.25, True)
    assert results_of(own_run)["adaptive"]["threshold"] == 0.75


@pytest.mark.parametrize(
    ("asked", "tested"),
    [
        (["static"], LENGTHS),
        (["assigned"], ["adaptive"]),
        (["cascade", "random"], ["cascade", "random"]),
        (["hybrid"], ["adaptive"]),
        (["oracle"], [*LENGTHS, "oracle"]),  # the static lengths tell the oracle the truth
    ],
)
def test_only_the_policies_asked_for(
    asked: list[str], tested: list[str], own_run: Path, videos: Path
) -> None:
    before = accuracies(own_run)
    run_toy(videos, own_run, "TEST.POLICIES", asked, "TEST.NAME", "some", stages=["test"])
    named = own_run / "tests" / "some"
    results, now = results_of(named), accuracies(named)
    found = [*results["static"], *(["adaptive"] if results["adaptive"] else []), *results["policies"]]
    assert sorted(found) == sorted(tested)
    assert now.items() <= before.items()
    assert (named / "report.html").is_file()


def test_a_backbone_alone_can_be_tested(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    weights = toy_run / "checkpoints" / "epoch_00001.pyth"
    run_toy(videos, tmp_path, "TEST.CHECKPOINT_FILE_PATH", weights, stages=["test"])
    results = results_of(tmp_path)
    assert results["adaptive"]["policy"] == "hybrid" and set(results["policies"]) == {"cascade", "oracle"}
    assert accuracies(tmp_path).items() <= accuracies(toy_run).items()


def test_the_whole_model_serves_as_a_checkpoint(toy_run: Path, videos: Path) -> None:
    cfg = toy_cfg(videos, toy_run)
    model, whole = build_model(cfg), build_model(cfg)
    checkpoint.read(str(toy_run / "checkpoints" / "epoch_00001.pyth")).load_into(model)
    checkpoint.read(str(toy_run / output_dir.MODEL)).load_into(whole)
    assert same(model.state_dict(), whole.state_dict())
