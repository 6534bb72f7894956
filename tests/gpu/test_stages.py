"""Every kind of run on a pretended GPU: no operation mixes devices, and each wait of the host is counted.

A new wait fails these tests, which name its place. A number here may fall; it rises only for a reason.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.gpu.conftest import OnDevice

# How often the host waits for the device:
ITERATION = ITERATION_OF_RANKS = 0  # of a training, the assigner's too, where nothing is logged
LOGGED = 1  # at the end of an epoch
BATCH = {"train": 1, "mine": 1, "assign": 2, "test": 2}  # of a table; from assign on with the assigner
FILE = 2  # predicted on its own: its clips go up, the answer comes back
FILES_TOGETHER = 1  # a batch of them
BATCHES = 3  # of the tested videos, in tables and predictions


@pytest.mark.parametrize(
    "cases", ["plain plain:predict extras", "shared_images resized lvvit", "conv_stem dvt videomae frozen"]
)
def test_runs_of_one_rank(on_device: OnDevice, cases: str) -> None:
    for case, found in on_device(*cases.split()).items():
        if case.endswith(":predict"):
            check_predictions(found)
        elif case != "frozen":  # which has no iterations
            check(case, found, ITERATION)


def test_a_run_on_the_cpu_leaves_the_gpu_alone(on_device: OnDevice) -> None:
    """No wait, no context; but PyTorch's AdamW asks any GPU it sees for its stream: commands hide them."""
    found = on_device("on_cpu")["on_cpu"]
    contexts = found.pop("contexts")
    assert all(stack[0].endswith("_update") for stack in contexts), contexts
    assert not any(stage["places"] for stage in found.values())


def test_runs_of_two_ranks(on_device: OnDevice) -> None:
    for case, found in on_device("revit_b", "revit_e").items():
        check(case, found, ITERATION_OF_RANKS)


def check(case: str, found: dict[str, Any], most: int) -> None:
    assert len(found["train"]["steps"]) > 2, f"{case}: an epoch is too short to have steady iterations"
    for stage in ("train", "assign"):
        *steady, last = found[stage]["steps"] or [[]]
        assert max(map(len, steady), default=0) <= most and len(last) <= LOGGED, (case, stage, steady, last)
    for stage, in_batch in BATCH.items():
        waits, places = found[stage]["tabulate"], found[stage]["places"]
        assert waits <= in_batch * BATCHES * (2 if case == "dvt" else 1), (case, stage, places)


def check_predictions(found: dict[str, Any]) -> None:
    waits = {name: sum(own["places"].values()) for name, own in found.items()}
    assert waits["predict"] <= FILE * 2 * BATCHES, found["predict"]
    assert waits["predict_many"] <= FILES_TOGETHER * BATCHES, found["predict_many"]
    assert waits["timeline"] <= FILE, found["timeline"]
