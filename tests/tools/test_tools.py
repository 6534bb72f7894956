"""The tools as they are called; the stages themselves are tested in tests/stages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import simplejson

from tests.toy import CONFIG, ROOT, options, start_tool, tool

NAMES = sorted(path.stem for path in (ROOT / "tools").glob("[!_]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_tool_explains_itself(name: str) -> None:
    finished = tool(name, "--help")
    assert finished.code == 0 and finished.out.startswith(f"usage: {name}.py")


@pytest.mark.parametrize("name", NAMES)
def test_a_python_without_the_package_is_one_line(name: str) -> None:
    bare = [sys.executable, "-S", "-E", str(ROOT / "tools" / f"{name}.py"), "--help"]  # no site-packages
    finished = subprocess.run(bare, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert f".venv/bin/python {bare[3]}" in finished.stderr


def test_a_python_without_what_the_package_needs_is_one_line() -> None:
    bare = [sys.executable, "-S", "-E", "-m", "revit_video", "run"]
    finished = subprocess.run(bare, capture_output=True, text=True, cwd=ROOT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert ".venv/bin/python -m revit_video" in finished.stderr


def test_a_tool_runs_as_a_process_of_its_own(toy_run: Path) -> None:
    folder = toy_run / "checkpoints"
    process = start_tool("predict", toy_run, folder, "--device", "cpu")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith(f"error: {folder}: nothing to classify in this folder") and err.count("\n") == 1


def test_single_stages_make_a_run(videos: Path, tmp_path: Path) -> None:
    made = {
        "train_net": "checkpoints/last",
        "mine_labels": "labels.csv",
        "train_assigner": "model.pyth",
        "test_net": "results.json",
    }
    for name, file in made.items():
        assert not (tmp_path / file).exists()
        assert tool(name, *options(videos, tmp_path)).code == 0
        assert (tmp_path / file).is_file()
    command = simplejson.loads((tmp_path / "results.json").read_text())["command"]
    assert command.startswith("python ") and "tools/test_net.py" in command


def test_run_net_runs_the_enabled_stages_and_ends_in_a_table(toy_run: Path, videos: Path) -> None:
    run = toy_run.parent / "enabled"
    shutil.copytree(toy_run, run)
    switches = [word for stage in ("TRAIN", "MINE", "ASSIGNER") for word in (f"{stage}.ENABLE", False)]
    finished = tool("run_net", *options(videos, run, *switches))
    assert finished.code == 0
    for name in ("4x4", "2x2", "adaptive", "random", "cascade", "oracle"):
        assert f"| {name} " in finished.out
    assert f"report: {run}/report.html" in finished.err and "train" not in finished.err


def test_a_command_that_runs_on_the_cpu_sees_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for device, visible in (("auto", "0"), ("cpu", "")):
        assert tool("train_net", *options(tmp_path / "none", tmp_path, "DEVICE", device)).code == 2
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_yaml_and_the_command_line(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(
        "".join(f"{key}: {simplejson.dumps(value)}\n" for key, value in CONFIG.items() if "." not in key)
    )
    given = options(videos, tmp_path / "run", "SOLVER.MAX_EPOCH", 2)
    assert tool("train_net", "--cfg", path, *given).code == 0
    assert (tmp_path / "run" / "checkpoints" / "epoch_00002.pyth").is_file()
    assert "DEVICE: cpu\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_count_flops(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    finished = tool("count_flops", *options(videos, tmp_path))
    assert finished.code == 0
    costs = simplejson.loads((tmp_path / "flops.json").read_text())
    assert costs == simplejson.loads((toy_run / "flops.json").read_text())
    assert "4x4" in finished.out and "2x2" in finished.out
    assert finished.out.splitlines()[-1] == str(tmp_path / "flops.json")


def test_count_flops_needs_no_data(tmp_path: Path) -> None:
    assert tool("count_flops", *options(Path("nowhere"), tmp_path)).code == 0


def test_report(toy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    (run / "report.html").unlink()
    finished = tool("report", run)
    assert (finished.code, finished.out.strip()) == (0, str(run / "report.html"))
    assert (run / "report.html").is_file()
    missing = tool("report", tmp_path / "nowhere")
    assert missing.code == 2 and len(missing.err.splitlines()) == 1


def test_predict_a_folder_with_a_broken_file(toy_run: Path, own_videos: Path) -> None:
    paths = sorted((own_videos / "test").glob("*.mp4"))
    paths[2].write_bytes(b"no video")
    finished = tool("predict", toy_run, own_videos / "test", "--top", 2, "--device", "cpu")
    assert finished.code == 1
    assert finished.err == f"error: {paths[2]}: damaged, truncated, or not a video\n"
    lines = finished.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(p) for p in paths if p != paths[2]]
    assert all(line.count(" %") == 3 and "token length " in line and "MMACs" in line for line in lines)


def test_predict_good_files(toy_run: Path, videos: Path) -> None:
    finished = tool("predict", toy_run / "model.pyth", videos / "test" / "00000_left.mp4", "--device", "cpu")
    assert (finished.code, finished.err) == (0, "")


def test_make_synthetic(tmp_path: Path) -> None:
    counts = ("--train", 2, "--mine", 1, "--val", 1, "--test", 1, "--size", 16, "--num-frames", 2)
    finished = tool("make_synthetic", tmp_path / "new", *counts, "--processes", 1)
    assert finished.code == 0
    assert len((tmp_path / "new" / "train.csv").read_text().splitlines()) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    assert tool("make_synthetic", tmp_path / "other", *counts).code == 2
