"""Two real ranks on the CPU, and one that needs no process group."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from revit_video.runtime import ranks as ranks_module
from revit_video.runtime.launch import launch
from revit_video.runtime.ranks import (
    Ranks,
    broadcast_parameters,
    decoding_workers,
    in_length_groups,
    init,
    shutdown,
)

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def on_two_ranks() -> list[dict[str, object]]:
    """Everything that ranks tell each other, in one launch, because starting ranks takes seconds."""
    ranks = init("cpu")
    torch.manual_seed(ranks.rank)
    model = nn.Linear(4, 2)
    broadcast_parameters(model, ranks)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    count = torch.tensor(10 + ranks.rank)
    ranks.barrier()
    told = {
        "state": state,
        "sum": ranks.sum(count),
        "own": count,
        "parts": ranks.gather_on_main([ranks.rank] * (1 + 2 * ranks.rank)),
        "main's": ranks.from_main(lambda: f"of rank {ranks.rank}"),
        "rank": (ranks.rank, ranks.world_size, ranks.is_main, torch.get_num_threads()),
    }
    everyone = ranks.gather(told)
    shutdown()
    return everyone


@pytest.fixture(scope="module")
def told() -> list[dict[str, object]]:
    return launch(on_two_ranks, 2)


def test_objects_are_gathered_in_rank_order(told: list[dict[str, object]]) -> None:
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [one["rank"] for one in told] == [(0, 2, True, threads), (1, 2, False, threads)]


def test_parts_reach_the_main_rank_and_its_answer_all(told: list[dict[str, object]]) -> None:
    """Ranks may have different numbers of parts."""
    assert [one["parts"] for one in told] == [[0, 1, 1, 1], []]
    assert [one["main's"] for one in told] == ["of rank 0"] * 2


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the ranks of a machine, and of each between its model and what decodes for it."""
    monkeypatch.setattr(ranks_module, "usable_cores", lambda: 16)
    assert decoding_workers("3", on_gpu=True) == 3 and decoding_workers("0", on_gpu=True) == 0
    assert decoding_workers("auto", on_gpu=True) == 15 and decoding_workers("auto", on_gpu=False) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert decoding_workers("auto", on_gpu=True) == 15, "left by another program"
    monkeypatch.setenv(ranks_module.MEETING, "somewhere")
    assert decoding_workers("auto", on_gpu=True) == 1 and decoding_workers("auto", on_gpu=False) == 1


def test_sums_leave_the_own_value(told: list[dict[str, object]]) -> None:
    assert [(one["sum"], one["own"]) for one in told] == [(21, 10), (21, 11)]


def test_parameters_start_as_those_of_rank_0(told: list[dict[str, object]]) -> None:
    torch.manual_seed(0)
    expected = nn.Linear(4, 2).state_dict()
    for one in told:
        torch.testing.assert_close(one["state"], dict(expected), rtol=0, atol=0)


def test_a_single_rank_needs_no_group() -> None:
    ranks = init("cpu")
    assert ranks == ALONE and ranks.is_main
    assert ranks.gather("a") == ranks.gather_on_main(["a"]) == ["a"] and ranks.from_main(lambda: 2) == 2
    assert ranks.sum(torch.tensor(3)) == 3
    ranks.barrier()
    shutdown()


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
        in_length_groups(ranks, 3)
    assert in_length_groups(ranks, 1) == ranks


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="DEVICE cuda: torch finds no GPU here"):
        init("cuda")
