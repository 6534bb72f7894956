"""Checkpoints whose content is not what it says: one line that names the file, and nothing else happens."""

from __future__ import annotations

import copy
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import revit_video
from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError

Change = Callable[[dict[str, Any]], Any]


def put(*place: str, value: Any) -> Change:
    def change(payload: dict[str, Any]) -> None:
        for name in place[:-1]:
            payload = payload[name]
        payload[place[-1]] = value

    return change


def nan_weight(payload: dict[str, Any]) -> None:
    next(w for w in payload["model"]["weights"].values() if w.is_floating_point()).view(-1)[0] = math.nan


SPEC, ASSIGNER = ("model", "spec"), ("assigner", "spec")
CASES: dict[str, Change] = {
    "depth": put(*SPEC, "depth", value=10**9),
    "depth of many": put(*SPEC, "depth", value=1000),
    "width": put(*SPEC, "embed_dim", value=2**40),
    "width that fits no weights": put(*SPEC, "embed_dim", value=32768),
    "classes": put(*SPEC, "num_classes", value=10**12),
    "frame size": put(*SPEC, "img_size", value=2**31),
    "lengths": put(*SPEC, "lengths", value=["100000x100000", "2x2"]),
    "lengths of another type": put(*SPEC, "lengths", value=7),
    "ratio": put(*SPEC, "mlp_ratio", value=math.nan),
    "a number that no tensor holds": put(*SPEC, "head_norm_eps", value=10**39),
    "text for a number": put(*SPEC, "depth", value="1"),
    "unknown setting": put(*SPEC, "command", value="touch /tmp/x"),
    "spec": put(*SPEC, value=[1, 2]),
    "unknown kind": put("model", "kind", value=["dvt"]),
    "another kind": put("model", "kind", value="dvt"),
    "model": put("model", value=3),
    "weights": put("model", "weights", value=None),
    "no weights": put("model", "weights", value={}),
    "stretched weight": put("model", "weights", "head.weight", value=torch.zeros(1).expand(1 << 40)),
    "sparse weight": put("model", "weights", "head.weight", value=torch.zeros(6, 16).to_sparse()),
    "text weight": put("model", "weights", "head.weight", value="x"),
    "not finite": nan_weight,
    "data": put("data", value={}),
    "names": put("data", "class_names", value=[1, 2]),
    "views": put("data", "num_clips", value=10**9),
    "no mean": put("data", "mean", value=[]),
    "std": put("data", "std", value=[0.0, 0.0, 0.0]),
    "fps": put("data", "target_fps", value=math.inf),
    "crop": put("data", "crop_size", value=64),
    "costs": put("costs", value={}),
    "costs of others": put("costs", "lengths", value={"9x9": {"gmacs": 1.0}}),
    "policy": put("policy", value={"threshold": "x", "per_view": False, "mix": [1.0, 0.0]}),
    "unknown policy": put("policy", value={"exec": 1}),
    "mix": put("policy", "mix", value=[math.nan]),
    "pretrained": put(*ASSIGNER, "pretrained", value=True),
    "assigner's network": put(*ASSIGNER, "model", value="vit_giant_patch14_224"),
    "assigner from a hub": put(*ASSIGNER, "model", value="hf-hub:someone/something"),
    "assigner's input": put(*ASSIGNER, "input_size", value=10**6),
    "assigner of others": put(*ASSIGNER, "num_lengths", value=3),
    "assigner's weights": put("assigner", "weights", value={"head.weight": 1}),
}


@pytest.fixture(scope="module")
def payload(toy_run: Path) -> dict[str, Any]:
    return checkpoint.load_payload(str(toy_run / "model.pyth"))


@pytest.mark.parametrize("case", CASES)
def test_a_payload_that_lies_is_one_line(
    case: str, payload: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a checkpoint asked the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    changed, path = copy.deepcopy(payload), tmp_path / "foreign.pyth"
    CASES[case](changed)
    torch.save(changed, path)
    with pytest.raises(CheckpointError) as caught:
        revit_video.load(path, "cpu")
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["format", "model", "data", "costs"])
def test_a_payload_without_a_part_is_one_line(name: str, payload: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "foreign.pyth"
    torch.save({key: value for key, value in payload.items() if key != name}, path)
    with pytest.raises(CheckpointError, match="foreign.pyth"):
        revit_video.load(path, "cpu")
