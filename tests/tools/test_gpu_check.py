"""The check of a GPU, run dry on a CPU; on a GPU it is run by hand (docs/gpu.md)."""

import json
from pathlib import Path

import torch
from gpu_checks.report import Report

from tests.toy import tool


def test_a_dry_run(tmp_path: Path) -> None:
    sections = ("environment", "logits_and_gradients", "demo_model", "waits", "exchange")
    finished = tool("gpu_check", tmp_path, "--device", "cpu", "--tiny", "--only", *sections)
    assert finished.code == 0, finished.out
    assert finished.out.endswith("left out: nothing\nall checks hold\n")
    found = json.loads((tmp_path / "check.json").read_text())
    assert set(found) == {*sections, "failed"}
    assert "ok  00026_up.mp4: up at 6x6" in [figure["what"] for figure in found["demo_model"]]


def test_what_does_not_hold_is_told(tmp_path: Path) -> None:
    report = Report(torch.device("cpu"), True, tmp_path, 60.0)
    report.check("sums", True)
    report.check("products", False, error=0.5)
    assert report.failed == [": products {'error': 0.5}"]


def test_an_unknown_section(tmp_path: Path) -> None:
    finished = tool("gpu_check", tmp_path, "--only", "everything")
    assert finished.code == 2
    assert finished.err.startswith("error: --only: no section 'everything'; there are environment, ")


def test_without_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        finished = tool("gpu_check", tmp_path)
        assert finished.err == "error: DEVICE cuda: torch finds no GPU here; use DEVICE auto or cpu\n"
