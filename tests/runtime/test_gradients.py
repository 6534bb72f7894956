"""Gradients of two real ranks on the CPU, and of one that is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from revit_video.runtime import gradients as gradients_module
from revit_video.runtime.gradients import Gradients
from revit_video.runtime.launch import launch
from revit_video.runtime.ranks import Ranks, init, shutdown

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
Named = dict[str, torch.Tensor | None]


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


def gradients_of(model: TwoBranches) -> Named:
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: None if grad is None else grad.clone() for name, grad in grads.items()}


def passes(model: TwoBranches, rank: int, n: int) -> None:
    """The backward passes of a rank in step `n`: its own branch twice, then branch 0 with other inputs."""
    for branch in (rank, rank, 0):
        model(torch.full((3, 4), 1.0 + rank + n), branch).backward()


def on_two_ranks(buffer_elements: int) -> list[dict[str, Any]]:
    """The gradients of three steps, and how many of the buffers were on their way before the end of each."""
    gradients_module.BUFFER_ELEMENTS = buffer_elements
    ranks = init("cpu")
    torch.manual_seed(0)
    model = TwoBranches()
    told: dict[str, Any] = {"gradients": [], "stop": []}
    with Gradients(model.parameters(), ranks, parts=2) as gradients:
        started: list[int] = []
        for n in range(3):
            gradients.clear()
            passes(model, ranks.rank, n)
            started.append(gradients._started)
            told["stop"].append(gradients.sum(stop=n == 1 and ranks.rank == 1))
            told["gradients"].append(gradients_of(model))
        told["started"] = started
        told["buffers"] = len(gradients._buffers)
        gradients.clear()
        passes(model, ranks.rank, 3)
        with pytest.raises(AssertionError, match="after its sum over the ranks had started"):
            passes(model, ranks.rank, 3)
        gradients.sum()
    for parameter in model.parameters():
        parameter.grad = None
    model(torch.ones(1, 4), branch=0).backward()  # no hook is left
    everyone = ranks.gather(told)
    shutdown()
    return everyone


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    # 5 values a buffer: some parameters fill one, others share one
    return launch(on_two_ranks, 2, 5)


def test_gradients_are_the_mean_over_ranks(told: list[dict[str, Any]]) -> None:
    """One process that does both ranks' passes gets the same, for every parameter, in every step."""
    torch.manual_seed(0)
    model = TwoBranches()
    for n in range(3):
        for parameter in model.parameters():
            parameter.grad = None
        for rank in (0, 1):
            passes(model, rank, n)
        expected = {name: None if g is None else g / 4 for name, g in gradients_of(model).items()}
        assert expected["own.1.weight"] is not None and expected["unused.weight"] is None
        for one in told:
            torch.testing.assert_close(one["gradients"][n], expected)


def test_sums_start_in_the_backward_passes_from_the_second_step_on(told: list[dict[str, Any]]) -> None:
    """All of them, though the ranks use different parameters."""
    for one in told:
        assert one["buffers"] == 4 and one["started"] == [0, 4, 4]


def test_all_ranks_hear_of_a_stop(told: list[dict[str, Any]]) -> None:
    assert [one["stop"] for one in told] == [[False, True, False]] * 2


def test_a_single_rank_keeps_its_gradients() -> None:
    model = TwoBranches()
    gradients = Gradients(model.parameters(), ALONE)
    gradients.clear()
    passes(model, 0, 0)
    before = gradients_of(model)
    assert gradients.sum(stop=True) and not gradients.sum()
    torch.testing.assert_close(gradients_of(model), before)


def test_a_single_rank_may_keep_them_in_memory_of_its_own() -> None:
    """The same for every parameter, none where none is used, in every step."""
    model, places = TwoBranches(), set()
    for own_memory in (False, True):
        found = []
        with Gradients(model.parameters(), ALONE, parts=3, own_memory=own_memory) as gradients:
            for n in range(3):
                gradients.clear()
                passes(model, 0, n)
                assert gradients.sum(stop=n == 1) == (n == 1)
                found.append(gradients_of(model))
                if own_memory and model.shared.weight.grad is not None:
                    places.add(model.shared.weight.grad.data_ptr())
        if not own_memory:
            expected = found
    assert len(places) == 1 and found[0]["unused.weight"] is None
    torch.testing.assert_close(found, expected)
