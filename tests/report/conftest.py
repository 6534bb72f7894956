"""A made-up OUTPUT_DIR, as a finished run of the demo leaves it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from revit_video.data.synthetic import write_dataset

LENGTHS = ("6x6", "4x4", "3x3")
GMACS = np.array([0.0505, 0.0242, 0.0151])
SPEED = np.array([410.0, 800.0, 1150.0])
CLASSES = ("left", "right", "up", "down", "grow", "shrink")
ASSIGNER_GMACS = 0.0011
HYBRID = {
    "policy": "hybrid",
    "lengths": ["6x6", "3x3"],
    "threshold": 0.93,
    "temperatures": [1.1, 1.2, 1.3],
    "averaged": True,
    "assigner_gmacs": ASSIGNER_GMACS,
    "path_counts": {"3x3": 180, "3x3 6x6": 90, "6x6": 30},
    "certificate": {"max_drop": 1.0, "confidence": 0.95, "videos": 2400, "holds": True, "needed": None},
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of 48 real videos; the made-up run has more, whose files are gone."""
    folder = tmp_path_factory.mktemp("videos")
    write_dataset(folder, {"test": 48}, processes=1)
    return [str(path) for path in sorted(folder.glob("test/*.mp4"))]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, videos: list[str]) -> Path:
    directory = tmp_path_factory.mktemp("finished")
    fake_run(directory, list(CLASSES), videos, 300)
    return directory


@pytest.fixture
def run_dir(tmp_path: Path, finished_run: Path) -> Path:
    """A copy of the made-up run, to be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def make_run(tmp_path: Path, videos: list[str]) -> Callable[[list[str], int], Path]:
    def make(classes: list[str], count: int) -> Path:
        fake_run(tmp_path, classes, videos, count)
        return tmp_path

    return make


def fake_run(directory: Path, classes: list[str], videos: list[str], count: int) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(count) % len(classes)
    hardness = rng.beta(0.4, 3, count) + 0.12 * truth / len(classes)
    errors = rng.random((count, 3)) < np.array([0.15, 0.9, 1.8]) * hardness[:, None] ** 2
    wrong = (truth[:, None] + rng.choice([1, 1, 2, 3], (count, 3))) % len(classes)
    predicted = np.where(errors, wrong, truth[:, None])
    guess = hardness + 0.05 * rng.standard_normal(count)
    chosen = 2 - (guess > 0.22) - (guess > 0.32)
    paths = [*videos, *(f"gone/{n:05d}.mp4" for n in range(len(videos), count))][:count]

    _write_results(directory, classes, truth, predicted, chosen, rng)
    names = [f"prediction_{length}" for length in LENGTHS]
    with open(directory / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "adaptive_length", "adaptive_prediction", *names])
        for n, path in enumerate(paths):
            adaptive = predicted[n, chosen[n]]
            writer.writerow([path, truth[n], LENGTHS[chosen[n]], adaptive, *predicted[n]])
    with open(directory / "labels.csv", "w", newline="") as file:
        file.write("# checkpoint 0123456789abcdef\n")
        writer = csv.writer(file)
        right = [f"correct_{length}" for length in LENGTHS]
        writer.writerow(["row", "video", "clip_start", "clip", "label", "token_length", *right])
        for n, path in enumerate(paths):
            label = next((i for i in (2, 1, 0) if not errors[n, i]), 0)
            writer.writerow([n, path, "0.0", 0, truth[n], LENGTHS[label], *(int(not e) for e in errors[n])])
    _write_stats(directory / "stats.jsonl", rng)
    (directory / "config.yaml").write_text(
        f"DATA:\n  PATH_TO_DATA_DIR: {os.path.dirname(os.path.dirname(videos[0]))}\n"
        "  PATH_PREFIX: ''\n  PATH_LABEL_SEPARATOR: ' '\nREVIT:\n  TOKEN_LENGTHS: [6x6, 4x4, 3x3]\n"
    )


def _score(top1: float, gmacs: float, speed: float, chosen: np.ndarray) -> dict[str, object]:
    counts = {length: int((chosen == i).sum()) for i, length in enumerate(LENGTHS)}
    return {
        "top1": top1,
        "top5": 100 - (100 - top1) / 10,
        "gmacs": float(gmacs),
        "length_counts": counts,
        "clips_per_sec": float(speed),
        "speedup": float(speed / SPEED[0]),
        "macs_speedup": float(GMACS[0] / gmacs),
    }


def _write_results(
    directory: Path,
    classes: list[str],
    truth: np.ndarray,
    predicted: np.ndarray,
    chosen: np.ndarray,
    rng: np.random.Generator,
) -> None:
    count = len(truth)
    top1 = [100 * float(np.mean(predicted[:, i] == truth)) for i in range(3)]
    adaptive = 100 * float(np.mean(predicted[np.arange(count), chosen] == truth))
    cost = GMACS[chosen].mean() + ASSIGNER_GMACS
    speed = 0.92 * SPEED[0] * GMACS[0] / cost
    mixed = rng.permutation(chosen)
    right = predicted == truth[:, None]
    best = np.where(right[:, 2], 2, np.where(right[:, 1], 1, 0))
    mix = np.linspace(0, 1, 21)
    gmacs = GMACS[2] + (GMACS[0] - GMACS[2]) * mix
    results = {
        "dataset": "synthetic actions",
        "split": "test",
        "clips": count,
        "videos": count,
        "skipped": 2,
        "classes": classes,
        "lengths": list(LENGTHS),
        "command": "python tools/run_net.py --cfg configs/demo/demo.yaml OUTPUT_DIR outputs/demo",
        "seed": 0,
        "views": 1,
        "environment": {"date": "2026-01-02 03:04 UTC", "device": "a processor", "commit": "0123abc"},
        "static": {n: _score(top1[i], GMACS[i], SPEED[i], np.full(count, i)) for i, n in enumerate(LENGTHS)},
        "adaptive": _score(adaptive, 0.9 * cost, 1.1 * speed, chosen) | HYBRID,
        "policies": {
            "assigned": _score(adaptive, cost, speed, chosen)
            | {"assigner_gmacs": ASSIGNER_GMACS, "threshold": 0.97},
            "random": _score(adaptive - 4, cost - ASSIGNER_GMACS, speed * 1.03, mixed),
            "cascade": _score(adaptive - 1.5, 0.031, 560.0, chosen) | {"threshold": 0.81},
            "oracle": _score(float(100 * np.mean(right.any(axis=1))), GMACS[best].mean(), 980.0, best),
        },
        "curves": {
            "hybrid": [
                {
                    "threshold": m,
                    "gmacs": 0.9 * g,
                    "top1": top1[2] + (top1[0] - top1[2]) * m**0.25,
                    "mix": [m, 0.0, 1 - m],
                }
                for m, g in zip(mix, gmacs, strict=True)
            ],
            "assigned": [
                {"threshold": m, "gmacs": g, "top1": top1[2] + (top1[0] - top1[2]) * m**0.3}
                for m, g in zip(mix, gmacs + ASSIGNER_GMACS, strict=True)
            ],
            "cascade": [
                {"threshold": m, "gmacs": g * (1 + 0.75 * m), "top1": top1[2] + (top1[0] - top1[2]) * m**0.7}
                for m, g in zip(mix, gmacs, strict=True)
            ],
            "random": [
                {"threshold": m, "gmacs": g, "top1": top1[2] + (top1[0] - top1[2]) * m}
                for m, g in zip(mix, gmacs, strict=True)
            ],
        },
    }
    (directory / "results.json").write_text(json.dumps(results))


def _write_stats(path: Path, rng: np.random.Generator) -> None:
    lines: list[dict[str, object]] = []
    for step in range(10, 1051, 10):
        line: dict[str, object] = {"stage": "train", "epoch": step // 150, "step": step}
        for i, length in enumerate(LENGTHS):
            done = 1 / (1 + np.exp(-(step - 350 - 60 * i) / 90))
            line[f"loss_{length}"] = 1.8 * (1 - done) + 0.15 + 0.05 * i + 0.1 * rng.random()
            noise = 8 * rng.standard_normal() * (1 - done / 2)
            line[f"top1_{length}"] = min(100.0, 17 + (80 - 4 * i) * done + noise)
        lines.append(line)
        if step % 150 == 0:
            tops = {f"top1_{length}": line[f"top1_{length}"] for length in LENGTHS}
            lines.append({"stage": "val", "epoch": step // 150, "step": step} | tops)
    for step in range(5, 201, 5):
        values = {"loss": 0.5 + np.exp(-step / 60) * rng.random(), "accuracy": 88 - 60 * np.exp(-step / 30)}
        lines.append({"stage": "assigner", "epoch": step // 40, "step": step} | values)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
