"""Fixtures of a pretended GPU: its driver, built once for every version of torch, and what runs on it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson
import torch
from torch.utils.cpp_extension import TORCH_LIB_PATH, get_default_build_root, include_paths

from tests.gpu.on_device import material
from tests.toy import ROOT

SOURCE = Path(__file__).with_name("driver.cpp")
OnDevice = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def driver() -> Path:
    """The library that is loaded before libtorch, kept for later runs of the tests."""
    compiler = shutil.which("g++")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a pretended GPU needs Linux and g++")
    version = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = Path(get_default_build_root()) / f"revit_video_pretended_{version}.so"
    if not built.is_file():
        built.parent.mkdir(parents=True, exist_ok=True)
        own = built.with_suffix(f".{os.getpid()}")
        includes = [f"-I{path}" for path in include_paths()]
        libraries = [f"-L{TORCH_LIB_PATH}", "-lc10", f"-Wl,-rpath,{TORCH_LIB_PATH}"]
        command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", *includes, str(SOURCE), "-o", str(own)]
        subprocess.run([*command, *libraries], check=True)
        own.replace(built)  # whole for another process of the tests
    return built


@pytest.fixture(scope="session")
def on_device(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> OnDevice:
    """`on_device(*cases)` runs cases of tests/gpu/on_device.py; what each of them found."""
    folder = tmp_path_factory.mktemp("gpu")
    material(folder / "material")

    def run(*cases: str) -> dict[str, Any]:
        out = folder / cases[0]
        out.mkdir()
        words = [sys.executable, "-m", "tests.gpu.on_device", str(folder / "material"), str(out), *cases]
        changes = {"LD_PRELOAD": str(driver), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        changes["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(words, env=os.environ | changes, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return {case: simplejson.loads((out / f"{case}.json").read_text()) for case in cases}

    return run
