"""What was pickled in a later protocol is read as if it had been in protocol 2, and as safely."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from revit_video.models.checkpoint import CheckpointError, load_payload
from revit_video.models.sources import read_source
from revit_video.models.trainers_file import stand_ins
from revit_video.runtime import pickles
from tests.peers import random_vit

WAYS = pytest.mark.parametrize("archived", [True, False])
LATER = pytest.mark.parametrize("protocol", [3, 4, 5])


def save(content: Any, path: Path, protocol: int, archived: bool) -> None:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=archived)


@WAYS
@LATER
def test_every_kind_of_value(protocol: int, archived: bool, tmp_path: Path) -> None:
    """Texts that name objects and entries, shared tensors, more than 256 values, long texts."""
    shared = torch.randn(3, 4)
    content: dict[str, Any] = {f"weight.{n}": torch.full((n % 5,), n).half() for n in range(300)}
    content |= {"torch._utils": "_rebuild_tensor_v2", "a": shared, "b": shared, "view": shared[1:]}
    content |= {
        "p": torch.nn.Parameter(torch.randn(2)),
        "ö\n'": "x" * 70000,
        "n": [1, -1, 300, 1 << 40, 1 << 70],
    }
    content |= {
        "bytes": b"\x00\xff",
        "deep": {"t": (1, 2, 3, 4), "none": None, "f": 0.5, "yes": True, "e": ()},
    }
    save(content, tmp_path / "a.pth", protocol, archived)
    read = load_payload(str(tmp_path / "a.pth"))
    assert read.keys() == content.keys()
    for name, value in content.items():
        assert torch.equal(read[name], value) if isinstance(value, torch.Tensor) else read[name] == value
    assert read["a"].data_ptr() == read["b"].data_ptr()


@WAYS
@LATER
def test_a_trainers_settings_are_passed_over(protocol: int, archived: bool, tmp_path: Path) -> None:
    state = random_vit().state_dict()
    args = argparse.Namespace(
        lr=0.1, out=Path("a/b"), best=np.float64(81.5), tags={"a"}, fixed=frozenset("b")
    )
    beside = {
        "args": args,
        "history": np.ones(3),
        "cfg": CfgNode({"A": {"B": 1}}),
        "when": datetime.datetime.now(),
    }
    beside["by_class"] = collections.defaultdict(list, a=[1])
    save({"model": state, **beside}, tmp_path / "a.pth", protocol, archived)
    assert read_source(str(tmp_path / "a.pth")).states[0].keys() == state.keys()


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@WAYS
@LATER
def test_code_is_refused_and_not_run(protocol: int, archived: bool, tmp_path: Path) -> None:
    save({"a": RunsCode(tmp_path / "made")}, tmp_path / "a.pth", protocol, archived)
    with pytest.raises(CheckpointError, match="refused: it holds a Python object .posix.mkdir"), stand_ins():
        load_payload(str(tmp_path / "a.pth"))
    assert not (tmp_path / "made").exists()


def named(module: bytes, name: bytes) -> bytes:
    return b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (named(b"os\nsystem", b"x"), "names an object by what is no text"),
        (b"\x80\x04K\x01K\x01\x93.", "names an object by what is no text"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x01x\x93" + b"h\x00" * 10 + b".", None),  # a name that is used again
        (
            b"\x80\x04X\x00\x10\x00\x00" + b"a" * 4096 + b"\x94\x8c\x01x\x93" + b"h\x00" * 90000 + b".",
            "far longer",
        ),
        (b"\x80\x04.", None),
    ],
)
def test_what_is_no_honest_pickle(content: bytes, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content * pickles.LEGACY_PICKLES)
    with pytest.raises(CheckpointError, match="not a checkpoint, or damaged|refused") as refused:
        load_payload(str(path))
    assert "\n" not in str(refused.value)
    if message:
        with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match=message):
            pickles.legacy(file)
    path.write_bytes(content[:-2])
    with pytest.raises(CheckpointError, match="not a checkpoint, or damaged|refused"):
        load_payload(str(path))
