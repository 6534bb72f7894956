"""Which training passes are recorded, on the CPU; tools/gpu_check.py tries real graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from revit_video.runtime.ranks import Ranks
from revit_video.train import graphed
from revit_video.train.graphed import GraphedPasses
from revit_video.train.losses import Distillation
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import MixedLengthStep
from tests.tiny import random_clips, tiny_revit

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 3, 1, 4])


class Device:
    """Says that it is a GPU, and lets tensors be made on the CPU."""

    type = "cuda"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lengths that are recorded; their graphs are the passes themselves."""
    names: list[str] = []

    def make(module: Any, clips: tuple[Tensor, ...], **_: Any) -> None:
        assert torch.is_autocast_enabled("cpu") and not torch.is_autocast_cache_enabled()
        module(*clips)  # as the trial runs are
        names.append(str(module.length))

    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, *a, **k: autocast("cpu", *a, **k))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return names


def record(model: Any, batch: int = 4) -> GraphedPasses:
    passes = GraphedPasses(model, torch.bfloat16)
    passes.record(model.lengths, batch, Device())  # type: ignore[arg-type]
    return passes


def test_small_passes_are_recorded_longest_first(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tiny_revit(lengths=[8, 4, 2]))
    assert recorded == ["8x8", "4x4", "2x2"]
    recorded.clear()
    monkeypatch.setattr(graphed, "LAUNCH_BOUND", 4 * 3 * 16 * 24)  # batch x frames x cells x channels at 4x4
    record(tiny_revit(lengths=[8, 4, 2]))
    assert recorded == ["4x4", "2x2"]


@pytest.mark.parametrize("changes", [{"act_checkpoint": True}, {"stem": "conv"}])
def test_what_trial_runs_would_change_is_not_recorded(changes: dict[str, Any], recorded: list[str]) -> None:
    passes = record(tiny_revit(**changes))
    assert not recorded and passes(random_clips(4), passes.model.lengths[0]) is None


def test_another_batch_and_evaluation_are_not_replayed(recorded: list[str]) -> None:
    passes = record(tiny_revit())
    longest = passes.model.lengths[0]
    assert passes(random_clips(4), longest) is not None
    assert passes(random_clips(3), longest) is None
    passes.model.eval()
    assert passes(random_clips(4), longest) is None


def test_a_step_gives_the_same_from_recorded_passes(recorded: list[str]) -> None:
    """With heads that some lengths lack."""
    found = []
    for as_graphs in (False, True):
        model, calls = tiny_revit(lengths=[8, 4, 2]).train(), list[str]()
        step = MixedLengthStep(model, Distillation(), Ranks(0, 1, CPU))
        if as_graphs:
            step.graphed.autocast = torch.bfloat16  # which the fixture looks for
            step.graphed.record(model.lengths, 4, Device())  # type: ignore[arg-type]
        for length, pass_ in step.graphed.recorded.items():
            pass_.register_forward_hook(lambda *_, name=str(length), to=calls: to.append(name))
        metrics = step(random_clips(4), LABELS)
        found.append((metrics, [parameter.grad for parameter in model.parameters()]))
        assert step.reuses_memory == as_graphs and calls == (recorded if as_graphs else [])
    assert recorded == ["8x8", "4x4", "2x2"]
    torch.testing.assert_close(found[1], found[0])


def test_a_rank_records_its_own_length(recorded: list[str]) -> None:
    ranks = Ranks(1, 2, Device(), length_size=2)  # type: ignore[arg-type]
    step = ReplicaStep.__new__(ReplicaStep)
    step.model, step.ranks = tiny_revit(), ranks
    step.graphed = GraphedPasses(step.model, torch.bfloat16)
    step.prepare(4)
    assert recorded == ["4x4"]


def test_where_graphs_do_not_work_it_is_said_once(
    recorded: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: no\nmore of it")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fails)
    with caplog.at_level("INFO", "revit_video"):
        passes = record(tiny_revit())
    assert not passes.recorded
    assert [one.endswith("do not work here: CUDA error: no") for one in caplog.messages] == [True]


def test_a_cpu_records_nothing(recorded: list[str]) -> None:
    model = tiny_revit()
    step = MixedLengthStep(model, Distillation(), Ranks(0, 1, CPU))
    step.prepare(4)
    assert not recorded and not step.reuses_memory
