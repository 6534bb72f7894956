from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from revit_video.data import synthetic
from revit_video.data.synthetic import CLASS_NAMES, ClipSpec, State, draw_spec, render, write_dataset

COUNTS = {"train": 12, "test": 6}


def read_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synthetic")
    write_dataset(directory, COUNTS, processes=1)
    return directory


def test_same_arguments_same_bytes_whatever_the_processes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, COUNTS, processes=2)
    assert contents(tmp_path) == contents(dataset)


def test_videos_have_the_size_rate_and_pixels_asked_for(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "train" / "00001_right.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 96, 96)
        assert (stream.average_rate, stream.frames) == (8, 16)
    error = read_frames(path).astype(float) - render(draw_spec(0, "train", 1))
    assert np.abs(error).mean() < 8  # what crf 23 takes away from noise

    write_dataset(tmp_path, {"train": 1}, size=64, num_frames=5, fps=25, processes=1)
    assert read_frames(tmp_path / "train" / "00000_left.mp4").shape == (5, 64, 64, 3)


def test_lists_name_every_video_once_with_balanced_labels(dataset: Path) -> None:
    assert (dataset / "classes.txt").read_text().split() == list(CLASS_NAMES)
    for split, count in COUNTS.items():
        rows = [line.split(" ") for line in (dataset / f"{split}.csv").read_text().splitlines()]
        assert sorted(path for path, _ in rows) == sorted(
            f"{split}/{file.name}" for file in (dataset / split).iterdir()
        )
        assert all(path.endswith(f"_{CLASS_NAMES[int(label)]}.mp4") for path, label in rows)
        assert set(Counter(label for _, label in rows).values()) == {count // len(CLASS_NAMES)}
    assert len((dataset / "specs.csv").read_text().splitlines()) == 1 + sum(COUNTS.values())


def test_splits_and_seeds_share_no_clip() -> None:
    drawn = {draw_spec(seed, split, i) for seed in (0, 1) for split in ("train", "val") for i in range(30)}
    assert len({spec.start for spec in drawn}) == len({spec.seed for spec in drawn}) == 120


def test_a_run_goes_on_where_it_stopped_and_grows(tmp_path: Path, dataset: Path) -> None:
    todo = []

    def count(steps, total):
        todo.append(total)
        return steps

    write_dataset(tmp_path, {"train": 6}, processes=1, progress=count)
    kept = tmp_path / "train" / "00000_left.mp4"
    written = kept.stat().st_mtime_ns
    (tmp_path / "train" / "00002_up.mp4").unlink()
    write_dataset(tmp_path, COUNTS, processes=1, progress=count)
    assert todo == [6, 1 + 6 + 6]
    assert kept.stat().st_mtime_ns == written
    assert contents(tmp_path) == contents(dataset)


def test_ctrl_c_leaves_only_whole_files(tmp_path: Path) -> None:
    tool = Path(synthetic.__file__).parents[2] / "tools" / "make_synthetic.py"
    command = [sys.executable, str(tool), str(tmp_path), "--train", "3000", "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(tool.parents[1])}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while run.poll() is None and not list(tmp_path.glob("train/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, messages = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in messages
    files = list((tmp_path / "train").iterdir())
    assert 0 < len(files) < 3000
    assert all(len(read_frames(file)) == 16 for file in files)


@pytest.mark.parametrize("other", [{"seed": 1}, {"size": 64}, {"num_frames": 8}, {"fps": 25}])
def test_clips_of_different_kinds_are_not_mixed(dataset: Path, other: dict[str, int]) -> None:
    before = contents(dataset)
    [(name, value)] = other.items()
    with pytest.raises(ValueError, match=rf"{name} \d+ \(asked: {value}\); delete it or choose"):
        write_dataset(dataset, COUNTS, processes=1, **other)
    assert contents(dataset) == before


def test_clips_of_another_generator_are_not_mixed(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "SMALL_SHARE", 0.9)
    with pytest.raises(ValueError, match="generator"):
        write_dataset(dataset, COUNTS, processes=1)


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("my own list 3\n")
    with pytest.raises(ValueError, match="not empty"):
        write_dataset(tmp_path, COUNTS, processes=1)
    assert contents(tmp_path) == {"train.csv": b"my own list 3\n"}


def test_sizes_that_cannot_be_encoded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be even"):
        write_dataset(tmp_path, COUNTS, size=95)
    with pytest.raises(ValueError, match="at least 1 frame"):
        write_dataset(tmp_path, COUNTS, num_frames=0)


# What is in the pictures


def plain(spec: ClipSpec, **changes) -> ClipSpec:
    """A white object on black, so that brightness says where it is."""
    white = (255.0, 255.0, 255.0)
    return replace(
        spec, texture=0.0, noise=0.0, background=(0.0, 0.0, 0.0), colours=(white, white), **changes
    )


def test_the_object_is_drawn_where_the_spec_says() -> None:
    start, end = State(0.3, 0.4, 0.1), State(0.7, 0.5, 0.05)
    frames = render(plain(draw_spec(0, "train", 0), start=start, end=end, shape=())).astype(float)[..., 0]
    place = (np.arange(96) + 0.5) / 96
    for frame, state in ((frames[0], start), (frames[-1], end)):
        area = frame.sum()
        assert (frame.sum(0) * place).sum() / area == pytest.approx(state.x, abs=0.002)
        assert (frame.sum(1) * place).sum() / area == pytest.approx(state.y, abs=0.002)
        assert (area / 255 / 96**2 / np.pi) ** 0.5 == pytest.approx(state.radius, rel=0.02)


def test_what_leaves_on_one_side_comes_back_on_the_other() -> None:
    spec = draw_spec(0, "train", 0)
    state = State(0.95, 0.5, 0.04)
    beyond = State(state.x + 0.1, 0.5, 0.04)
    frames = render(plain(spec, start=state, end=beyond, ring=1.04))
    assert frames[0, :, 48:].any() and not frames[0, :, :48].any()
    assert frames[-1, :, :48].any() and not frames[-1, :, 60:].any()


def test_a_clip_backwards_is_the_opposite_motion() -> None:
    spec = plain(draw_spec(0, "train", 0))
    backwards = replace(spec, start=spec.end, end=spec.start, turn=spec.turn[::-1])
    difference = np.abs(render(spec).astype(int) - render(backwards)[::-1])
    assert difference.max() <= 1  # rounding


@pytest.mark.parametrize("label, name", list(enumerate(CLASS_NAMES)))
def test_every_clip_shows_its_class_clearly(label: int, name: str) -> None:
    for index in range(label, 600, 6):
        spec = draw_spec(0, "train", index)
        shift = np.array([spec.end.x - spec.start.x, spec.end.y - spec.start.y])
        growth = spec.end.radius / spec.start.radius
        if name in ("grow", "shrink"):
            assert (growth if name == "grow" else 1 / growth) >= 0.999 * synthetic.GROWTH_RANGE[0]
            assert np.abs(shift).max() <= synthetic.JITTER_SHIFT
        else:
            along = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[name]
            assert shift @ along >= synthetic.DISTANCE_RANGE[0]
            assert np.abs(shift).min() <= synthetic.JITTER_SHIFT
            assert np.abs(np.log(growth)) <= 1.001 * np.log(synthetic.JITTER_GROWTH)


# What one frame alone says


def best_guess(features: np.ndarray, labels: np.ndarray) -> float:
    """Percent right of the most frequent class of each cell, counted on one half, tried on the other."""
    cells = np.unique(features, axis=0, return_inverse=True)[1].reshape(-1)
    half = len(labels) // 2
    counts = np.zeros((cells.max() + 1, len(CLASS_NAMES)))
    np.add.at(counts, (cells[:half], labels[:half]), 1)
    return 100 * float(np.mean(counts.argmax(1)[cells[half:]] == labels[half:]))


@pytest.mark.parametrize("when", ["start", "end"])
def test_one_frame_says_little_about_the_class(when: str) -> None:
    specs = [draw_spec(0, "train", i) for i in range(24000)]
    labels = np.array([spec.label for spec in specs])
    states = [(getattr(spec, when), spec.ring) for spec in specs]
    # the ring's seam lies in the middle of the part that is out of the frame
    x, y = ((np.array([getattr(s, axis) / ring for s, ring in states]) + 0.01) % 1 for axis in "xy")
    radius = np.log([state.radius for state, _ in states])
    chance = 100 / len(CLASS_NAMES)
    by_place = best_guess(np.stack([x * 8 // 1, y * 8 // 1], 1), labels)
    by_radius = best_guess((radius[:, None] * 8) // 1, labels)
    by_both = best_guess(np.stack([x * 3 // 1, y * 3 // 1, radius * 5 // 1], 1), labels)
    assert by_place < chance + 1.5
    assert by_radius < 24.5 and by_both < 24.5
