"""Configs that were written to break their reader: a few lines about them, within a second."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from revit_video.config import ConfigError, load_cfg
from tests.toy import tool

LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 27))
CASES = {
    "aliases": (LAUGHS, "line 2: *a0: an alias"),
    "merged aliases": ("TRAIN: &t {BATCH_SIZE: 2}\nTEST: {<<: *t}\n", "line 2: *t: an alias"),
    "a value within itself": ("TRAIN: &t [*t]\n", "line 1: *t: an alias"),
    "levels": ("a: " + "[" * 5000, "line 1: more than 16 levels"),
    "levels of groups": ("".join(f"{' ' * n}a:\n" for n in range(500)), "more than 16 levels"),
    "a key twice": ("NUM_GPUS: 1\nNUM_GPUS: 2\n", "line 2: NUM_GPUS stands twice"),
    "a list for a name": ("? [1, 2]\n: 3\n", "line 1: a name must be text"),
    "size": ("# " + "x" * (1 << 20), "larger than 128 KiB"),
    "no text": (b"\n\xff\xfe\x00", "line 2: not UTF-8 text"),
    "control characters": ("TRAIN: \x1b[2J\n", "not YAML"),
    "no date": ("RNG_SEED: 2024-99-99\n", "not YAML: month must be in 1..12"),
    "a number of any length": (f"RNG_SEED: {'9' * 6000}\n", "not YAML: "),
    **{
        f"a number {how}": (f"RNG_SEED: {text}\n", "not YAML: line 1: a number of more than 1000 characters")
        for how, text in {
            "to the base 16": "0x" + "f" * 9000,
            "to the base 2": "0b" + "1" * 100_000,
            "to the base 60": "1" + ":1" * 50_000,
            "of nothing": "1" + "_" * 100_000,
        }.items()
    },
    "a number beyond floats": (f"SOLVER: {{BASE_LR: {'9' * 400}}}\n", "must be a number, got 9999"),
    "a base that is no file": ("_BASE_: /dev/zero\n", "no ordinary file"),
    "a folder": ("_BASE_: .\n", "a folder, not a file"),
    "null for a base": ("_BASE_: null\n", "_BASE_: must be a file name"),
    "a long value": (f"NUM_GPUS: {'x' * 100_000}\n", "NUM_GPUS: must be a whole number, got xxx"),
    "a long key": (f"{'x' * 1000}: 1\n", "no such key"),
    "unknown keys": ("".join(f"KEY_{n}: 1\n" for n in range(5000)), "and 4970 more"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_config_is_a_short_message(case: str, tmp_path: Path) -> None:
    text, mistake = CASES[case]
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_cfg(str(path))
    message = str(caught.value)
    assert mistake in message and len(message) < 10_000
    assert str(path) in message or "_BASE_" in str(text)
    assert time.process_time() - start < 5


def test_each_base_is_read_once(tmp_path: Path) -> None:
    """30 levels of two bases each would be read a billion times."""
    (tmp_path / "0.yaml").write_text("LOG_PERIOD: 7\n")
    for n in range(1, 30):
        (tmp_path / f"{n}a.yaml").write_text(f"_BASE_: [{n - 1}.yaml]\n")
        (tmp_path / f"{n}b.yaml").write_text(f"_BASE_: [{n - 1}.yaml]\n")
        (tmp_path / f"{n}.yaml").write_text(f"_BASE_: [{n}a.yaml, {n}b.yaml]\n")
    assert load_cfg(str(tmp_path / "29.yaml")).LOG_PERIOD == 7


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    finished = tool("train_net", "--cfg", tmp_path / "pipe.yaml")
    assert finished.code == 2 and "pipe.yaml: 1 mistake\n  no ordinary file" in finished.err


@pytest.mark.parametrize("value", ["1e9", 10**12, "[[[[" * 2000, "&a [*a]", "9" * 6000])
@pytest.mark.parametrize("key", ["NUM_GPUS", "MODEL.DEPTH", "DATA.NUM_FRAMES", "REVIT.TOKEN_LENGTHS"])
def test_a_hostile_value_is_a_short_message(key: str, value: object, tmp_path: Path) -> None:
    finished = tool("train_net", key, value, "OUTPUT_DIR", tmp_path)
    assert finished.code == 2 and key in finished.err and len(finished.err) < 1000
    assert not list(tmp_path.iterdir())
