"""When small passes are recorded and replayed, on the CPU; tools/gpu_check.py tries real graphs."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from revit_video.models import cuda_graphs as graphs
from revit_video.models.cuda_graphs import Graphs, Recorded, padded_size
from revit_video.models.inference import for_inference, logits_at, logits_at_all
from tests.tiny import random_clips, tiny_revit


@pytest.mark.parametrize(
    ("count", "each", "size"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 4), (5, 1, 8), (8, 1 << 21, 8), (9, 1 << 21, None), (0, 1, None)],
)
def test_sizes_are_powers_of_two_up_to_where_launching_is_no_bound(
    count: int, each: int, size: int | None
) -> None:
    assert graphs.LAUNCH_BOUND == 1 << 24
    assert padded_size(count, each) == size


class Replayed:
    """Stands for a graph: makes the pass again, from the recorded input into the recorded output."""

    def __init__(self, run: Any, inputs: Tensor) -> None:
        self.run, self.inputs, self.replays = run, inputs, 0
        self.outputs = torch.zeros_like(run(inputs))

    def replay(self) -> None:
        self.replays += 1
        self.outputs.copy_(self.run(self.inputs))

    def pool(self) -> tuple[int, int]:
        return (0, 1)


def test_a_pass_is_recorded_at_its_second_use(monkeypatch: pytest.MonkeyPatch) -> None:
    model = for_inference(tiny_revit())
    memory = []

    def record(run: Any, inputs: Tensor, pool: Any) -> Recorded:
        graph = Replayed(run, inputs.clone())
        memory.append(pool)
        return Recorded(graph, graph.inputs, graph.outputs)  # type: ignore[arg-type]

    monkeypatch.setattr(graphs, "record", record)
    model.cuda_graphs = Graphs()
    own, plain = model.cuda_graphs, for_inference(tiny_revit())
    with torch.inference_mode():
        for n, count in enumerate((3, 4, 1, 3, 1, 2)):
            clips = random_clips(count, seed=n)
            torch.testing.assert_close(logits_at_all(model, clips), logits_at_all(plain, clips))
    assert {size: own.recorded[model.lengths[0], size] is not None for size in (1, 2, 4)} == {
        1: True,
        2: False,
        4: True,
    }
    replays = [pass_.graph.replays for pass_ in own.recorded.values() if pass_]  # type: ignore[attr-defined]
    assert sorted(replays) == sorted(len(model.lengths) * [1] + len(model.lengths) * [2])
    assert memory[0] is None and set(memory[1:]) == {(0, 1)}


def test_where_graphs_do_not_work_passes_are_launched_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graphs, "record", Mock(side_effect=RuntimeError("CUDA error: no\nmore of it")))
    model, clips = for_inference(tiny_revit()), random_clips(2)
    expected = logits_at(model, clips, model.lengths[0])
    model.cuda_graphs = Graphs()
    with caplog.at_level("INFO", "revit_video"):
        for _ in range(4):
            torch.testing.assert_close(logits_at(model, clips, model.lengths[0]), expected)
    (said,) = caplog.messages
    assert said.endswith("launched one by one; CUDA graphs do not work here: CUDA error: no")


def test_a_copy_has_no_graphs_of_the_original() -> None:
    model = for_inference(tiny_revit())
    assert model.cuda_graphs is None  # on the CPU
    model.cuda_graphs = Graphs()
    assert copy.deepcopy(model).cuda_graphs is None
