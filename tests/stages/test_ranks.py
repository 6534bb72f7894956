"""Two ranks do what one does, started on one machine or on two."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from revit_video.models import saved_epochs
from tests.toy import (
    ROOT,
    Finished,
    accuracies,
    last_checkpoint,
    options,
    results_of,
    run_toy,
    start_tool,
    stats_of,
    tool,
)

# Not AdamW, which makes steps of one size of gradients that are zero but for rounding.
RECIPE = ("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.BASE_LR", 0.1)


@pytest.fixture(scope="module")
def alone(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ReViT-B on one rank."""
    return run_toy(videos, tmp_path_factory.mktemp("ranks") / "alone", *RECIPE, stages=["train"])


def weights(output_dir: Path) -> dict[str, Tensor]:
    return last_checkpoint(output_dir)["model"]["weights"]


def assert_same_training(output_dir: Path, alone: Path) -> None:
    """The same weights but for rounding, and the same statistics."""
    torch.testing.assert_close(weights(output_dir), weights(alone), rtol=1e-4, atol=1e-6)
    ours, theirs = (
        [{k: v for k, v in line.items() if k.startswith(("step", "loss", "top1"))} for line in stats]
        for stats in (stats_of(output_dir), stats_of(alone))
    )
    assert len(theirs) == 2
    for one, other in zip(ours[:2], theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_two_ranks_through_all_stages(videos: Path, tmp_path: Path, alone: Path) -> None:
    """A rank a length in training; then each reads half of the videos at all lengths."""
    pair, again = tmp_path / "pair", tmp_path / "again"
    changes = (*RECIPE, "NUM_GPUS", 2, "TRAIN.METHOD", "revit_e")
    process = start_tool("run_net", *options(videos, pair, *changes))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("adaptive:") == 1, "one rank alone should talk"
    assert err.count("each clip is decoded 2 times") == 1
    assert (pair / "report.html").is_file()
    assert_same_training(pair, alone)

    # Mining and test of the same weights on one rank.
    again.mkdir()
    shutil.copy(pair / "assigner.pyth", again)
    latest = saved_epochs.latest(str(pair / "checkpoints"))
    run_toy(videos, again, "TEST.CHECKPOINT_FILE_PATH", latest, stages=["mine", "test"])
    assert (again / "labels.csv").read_bytes() == (pair / "labels.csv").read_bytes()
    assert (again / "predictions.csv").read_bytes() == (pair / "predictions.csv").read_bytes()
    assert accuracies(again) == accuracies(pair)
    for name in ("clips", "videos", "skipped", "lengths", "views"):
        assert results_of(again)[name] == results_of(pair)[name]


# ---- Two machines ----------------------------------------------------------------------------------------

# As SLURM's, it starts the same command on every machine; what each tells is kept apart.
SRUN = """
for node in 0 1; do
    (SLURM_NODEID=$node "$@" >"$FOLDER/$node.out" 2>"$FOLDER/$node.err"; echo $? >"$FOLDER/$node.code") &
done
wait
"""


def on_two_machines(folder: Path, *arguments: object) -> list[Finished]:
    """`tools/slurm.sh` with a rank on each of two machines, both of which are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, text in {"srun": SRUN, "scontrol": "echo 127.0.0.1"}.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(port - 20_000), "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2"}
    path = os.pathsep.join([str(folder), os.path.dirname(sys.executable), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", str(ROOT / "tools" / "slurm.sh"), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | job | {"PATH": path, "PYTHONPATH": str(ROOT), "FOLDER": str(folder)},
        start_new_session=True,
    )
    try:
        process.wait(180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    texts = [[(folder / f"{node}.{kind}").read_text() for kind in ("code", "out", "err")] for node in (0, 1)]
    return [Finished(int(code), out, err) for code, out, err in texts]


def test_a_dry_run_says_what_each_machine_would_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    for n, finished in enumerate(on_two_machines(tmp_path, "--dry-run")):
        assert finished.code == 0, finished.err
        assert finished.out.startswith(f"machine {n} of 2, ") and ": 8 ranks on " in finished.out
        assert " cores (64 asked for), meeting at 127.0.0.1:" in finished.out


def test_two_machines_share_the_clips(videos: Path, tmp_path: Path, alone: Path) -> None:
    output_dir = tmp_path / "run"
    only_train = (name for stage in ("MINE", "ASSIGNER", "TEST") for name in (f"{stage}.ENABLE", False))
    first, second = on_two_machines(tmp_path, *options(videos, output_dir, *RECIPE, *only_train))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "top-1 on val" in first.err and "top-1" not in second.err, "one rank alone should talk"
    assert_same_training(output_dir, alone)


def test_a_mistake_on_one_machine_is_told_once(videos: Path, tmp_path: Path) -> None:
    """The first rank finds it, while the other one waits for it."""
    machines = on_two_machines(
        tmp_path, *options(videos, tmp_path / "run", "DATA.PATH_TO_DATA_DIR", "/nowhere")
    )
    assert all(machine.code for machine in machines)
    errors = "".join(machine.err for machine in machines)
    assert errors.count("error: DATA.PATH_TO_DATA_DIR: no such folder: '/nowhere'") == 1
    assert errors.count("error: ") == 1
    ours = tuple(f'File "{ROOT / part}' for part in ("revit_video", "tools"))  # not .venv, which has torch
    assert not any(part in errors for part in ours), "a traceback of ours"


def test_a_mistake_on_all_machines_is_told_once(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun has started three ranks; they read the same command line."""
    launcher = dist.TCPStore("127.0.0.1", 0, is_master=True)
    environment = {"WORLD_SIZE": 3, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": launcher.port}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    first, *others = (tool("train_net", *options(videos, tmp_path)) for _ in range(3))
    assert first.code == 2 and "TRAIN.BATCH_SIZE: must be a multiple of 3" in first.err
    assert [(other.code, other.err) for other in others] == [(1, "")] * 2
