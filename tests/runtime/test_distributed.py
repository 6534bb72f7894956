"""Two real ranks on the CPU, and one that needs no process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from revit_video.runtime import distributed
from revit_video.runtime.distributed import RankError, Ranks, launch

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


class TwoBranches(nn.Module):
    """`shared` is always used, `own[i]` by branch i only, and `unused` by none."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.own = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2).double()])
        self.unused = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        own = self.own[branch]
        return own(self.shared(self.frozen(x)).to(own.weight.dtype)).square().sum()


def gradients_of(model: TwoBranches) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def on_two_ranks(bucket_elements: int) -> list[dict[str, object]]:
    """Everything that ranks tell each other, in one launch, because starting ranks takes seconds."""
    distributed.BUCKET_ELEMENTS = bucket_elements
    ranks = distributed.init("cpu")
    torch.manual_seed(ranks.rank)
    model = TwoBranches()
    distributed.broadcast_parameters(model, ranks)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    x = torch.full((3, 4), 1.0 + ranks.rank)
    model(x, branch=ranks.rank).backward()
    distributed.reduce_gradients(model.parameters(), ranks)

    count = torch.tensor(10 + ranks.rank)
    distributed.barrier(ranks)
    told = {
        "state": state,
        "gradients": gradients_of(model),
        "sum": distributed.sum_over_ranks(count, ranks),
        "own": count,
        "rank": (ranks.rank, ranks.world_size, ranks.is_main, torch.get_num_threads()),
    }
    everyone = distributed.gather_objects(told, ranks)
    distributed.shutdown()
    return everyone


@pytest.fixture(scope="module")
def told() -> list[dict[str, object]]:
    # 5 values a bucket: some parameters fill one, others share one
    return launch(on_two_ranks, 2, 5)


def test_objects_are_gathered_in_rank_order(told: list[dict[str, object]]) -> None:
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [one["rank"] for one in told] == [(0, 2, True, threads), (1, 2, False, threads)]


def test_sums_leave_the_own_value(told: list[dict[str, object]]) -> None:
    assert [(one["sum"], one["own"]) for one in told] == [(21, 10), (21, 11)]


def test_parameters_start_as_those_of_rank_0(told: list[dict[str, object]]) -> None:
    torch.manual_seed(0)
    expected = TwoBranches().state_dict()
    for one in told:
        torch.testing.assert_close(one["state"], dict(expected), rtol=0, atol=0)


def test_gradients_are_the_mean_over_ranks(told: list[dict[str, object]]) -> None:
    """One process that does both ranks' passes and halves the sum gets the same, for every parameter."""
    torch.manual_seed(0)
    model = TwoBranches()
    for rank in (0, 1):
        (model(torch.full((3, 4), 1.0 + rank), branch=rank) / 2).backward()
    expected = gradients_of(model)
    assert expected["own.1.weight"] is not None and expected["unused.weight"] is None
    for one in told:
        torch.testing.assert_close(one["gradients"], expected)


def test_a_single_rank_needs_no_group() -> None:
    ranks = distributed.init("cpu")
    assert ranks == ALONE and ranks.is_main
    model = TwoBranches()
    model(torch.ones(1, 4), branch=0).backward()
    before = {name: g if g is None else g.clone() for name, g in gradients_of(model).items()}
    distributed.reduce_gradients(model.parameters(), ranks)
    torch.testing.assert_close(gradients_of(model), before)
    assert distributed.gather_objects("a", ranks) == ["a"]
    assert distributed.sum_over_ranks(torch.tensor(3), ranks) == 3
    distributed.barrier(ranks)
    distributed.shutdown()


def test_neighbours_are_a_length_group() -> None:
    """Of six ranks at three lengths, the first three read one half of the clips and the others the other."""
    ranks = [Ranks(rank, 6, torch.device("cpu"), length_size=3) for rank in range(6)]
    assert [(one.data_rank, one.length_rank) for one in ranks] == [
        *((0, 0), (0, 1), (0, 2)),
        *((1, 0), (1, 1), (1, 2)),
    ]
    assert {one.data_size for one in ranks} == {2}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_length_group_needs_a_rank_for_each_length(world_size: int) -> None:
    ranks = Ranks(0, world_size, torch.device("cpu"))
    with pytest.raises(ValueError, match=f"start a multiple of 3 ranks, not {world_size}, or use revit_b"):
        distributed.in_length_groups(ranks, 3)
    assert distributed.in_length_groups(ranks, 1) == ranks


def test_one_rank_runs_here() -> None:
    assert launch(os.getpid, 1) == os.getpid()


def test_under_torchrun_nothing_more_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert launch(os.getpid, 2) == os.getpid()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="DEVICE cuda: torch finds no GPU here"):
        distributed.init("cuda")


class SlowToTell(FileNotFoundError):
    def __str__(self) -> str:
        time.sleep(1)  # the other rank, whose peer has gone, could end before
        return "videos/train.csv: no such list"


def fail_on_rank_1(kind: str) -> None:
    ranks = distributed.init("cpu")
    if ranks.rank == 1:
        if kind == "mistake":
            raise SlowToTell
        raise KeyError("a bug")
    distributed.barrier(ranks)  # waits for a rank that never comes


def test_a_users_mistake_on_a_rank_is_told_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as caught:
        launch(fail_on_rank_1, 2, "mistake")
    assert str(caught.value) == "videos/train.csv: no such list"
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_on_a_rank_comes_with_its_traceback() -> None:
    with pytest.raises(RankError, match=r"(?s)rank 1: KeyError: 'a bug'\nTraceback.*in fail_on_rank_1"):
        launch(fail_on_rank_1, 2, "bug")


def test_ctrl_c_ends_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, pathlib, sys, time
        from revit_video.runtime.distributed import launch

        def wait(folder):
            pathlib.Path(folder, f"{os.getpid()}.pid").touch()
            time.sleep(60)

        if __name__ == "__main__":
            try:
                launch(wait, 2, sys.argv[1])
            except KeyboardInterrupt:
                sys.exit(7)
        """)
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": tempfile.gettempdir()},
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that the signal reaches the ranks as well, as from a terminal
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(pids := list(tmp_path.glob("*.pid"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "Traceback" not in errors
    for pid in (int(file.stem) for file in pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
