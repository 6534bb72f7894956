"""Many files: the answers of one by one, in the same order, whatever decodes and whoever classifies."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import simplejson
import torch

import revit_video
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.video import DecodeError
from revit_video.predict import Predictor, VideoPrediction, stream
from tests.toy import ROOT, tool

COUNT, BROKEN = 40, (0, 7, 39)


@pytest.fixture(scope="module")
def files(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """40 files, three of them broken."""
    folder = tmp_path_factory.mktemp("many")
    paths = [folder / f"{n:02}.mp4" for n in range(COUNT)]
    for n, (path, source) in enumerate(zip(paths, sorted(videos.glob("*/*.mp4")), strict=False)):
        path.write_bytes(b"no video" if n in BROKEN else source.read_bytes())
    return paths


@pytest.fixture(scope="module")
def mixed(toy_run: Path, files: list[Path]) -> Predictor:
    """A predictor that reads two views of a video, about half of them at each length."""
    predictor = revit_video.load(toy_run, "cpu", clips=2, policy="2x2")
    answers = [each for each in one_by_one(predictor, files) if isinstance(each, VideoPrediction)]
    surest = sorted(answer.classes[0][1] for answer in answers)
    predictor.policy = "cascade"
    object.__setattr__(predictor.engine.policy, "thresholds", [0.0, surest[len(surest) // 2]])
    return predictor


def one_by_one(predictor: Predictor, files: list[Path]) -> list[VideoPrediction | DecodeError]:
    answers: list[VideoPrediction | DecodeError] = []
    for path in files:
        try:
            answers.append(predictor.predict(path))
        except DecodeError as error:
            answers.append(error)
    return answers


@pytest.mark.parametrize(("batch_size", "num_workers"), [(32, 0), (6, 2), (1, 1)])
def test_many_are_answered_as_one_by_one(
    mixed: Predictor, files: list[Path], batch_size: int, num_workers: int
) -> None:
    expected = one_by_one(mixed, files)
    answers = list(mixed.predict_many(files, batch_size, num_workers))
    assert len(answers) == COUNT
    lengths = set()
    for n, (answer, alone) in enumerate(zip(answers, expected, strict=True)):
        assert isinstance(answer, DecodeError) == (n in BROKEN)
        if isinstance(answer, DecodeError) or isinstance(alone, DecodeError):
            assert str(answer) == str(alone)
            continue
        assert (answer.path, answer.length, answer.gmacs) == (alone.path, alone.length, alone.gmacs)
        torch.testing.assert_close(answer.logits, alone.logits)
        lengths.add(answer.length)
    assert len(lengths) == 2


def test_no_answer_waits_for_long(mixed: Predictor, files: list[Path]) -> None:
    """A bucket that would never fill is run, so that answers in order keep coming."""
    good = [path for n, path in enumerate(files) if n not in BROKEN] * 3
    with patch.object(stream, "HELD", 2):
        answers, held = mixed.predict_many(good, 8, 0), 0
        engine = patch.object(stream._Answers, "ready", autospec=True, side_effect=stream._Answers.ready)
        with engine as ready:
            for _ in answers:
                held = max(held, *(call.args[0].held for call in ready.call_args_list))
    assert held <= (2 + 1) * 4


def test_the_guard_sees_videos_in_their_order(mixed: Predictor, files: list[Path]) -> None:
    """Not in that of their exits: short lengths would come first, as if the stream had drifted."""
    with patch.object(mixed, "_watch", Mock(see=Mock(return_value=""))) as watch:
        answers = [each for each in mixed.predict_many(files, 8, 0) if isinstance(each, VideoPrediction)]
        sure = [confidence for confidence, *_ in (call.args for call in watch.see.call_args_list)]
    assert sure == pytest.approx([answer.classes[0][1] for answer in answers], abs=1e-5)


def test_ranks_answer_as_one_process(toy_run: Path, files: list[Path], tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    arguments = (toy_run, files[0].parent, "--device", "cpu", "--batch-size", 4)
    assert tool("predict", *arguments, "--out", alone).code == 1
    assert tool("predict", *arguments, "--out", shared, "--num-gpus", 2).code == 1
    assert shared.read_text() == alone.read_text()
    rows = list(csv.DictReader(alone.open()))
    assert [row["path"] for row in rows] == [str(path) for path in files]
    assert [n for n, row in enumerate(rows) if row["error"]] == list(BROKEN)


def test_a_file_has_its_time(toy_run: Path, files: list[Path]) -> None:
    """Whichever way it is read."""
    predictor = revit_video.load(toy_run, "cpu")
    with patch.object(Predictor, "_views", lambda *_: time.sleep(60)):
        predictor.timeout = 0.4
        with pytest.raises(DecodeError, match="not decoded within 0.4 s"):
            predictor.predict(files[1])
    with patch.object(stream, "eval_views", lambda *_: time.sleep(60)):
        (answer,) = predictor.predict_many([files[1]], num_workers=0)
    assert isinstance(answer, DecodeError) and answer.reason == "not decoded within 0.4 s"
    late = pytest.raises(DecodeError, match="its decoder went no further for 0.8 s")
    with patch.object(PyAVVideo, "stream", lambda *_: time.sleep(60)), late:
        predictor.timeline(files[1])
    with pytest.raises(ValueError, match="timeout: must be above 0 s, got 0"):
        predictor.timeout = 0


def test_torchrun_splits_the_list(toy_run: Path, files: list[Path], tmp_path: Path) -> None:
    """Two processes as on two machines: their answers are merged in order."""
    alone, shared = tmp_path / "alone.csv", tmp_path / "shared.csv"
    arguments = (toy_run, files[0].parent, "--device", "cpu", "--workers", 0)
    assert tool("predict", *arguments, "--out", alone).code == 1
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*command, "-m", "revit_video", "predict", *map(str, arguments), "--out", str(shared)]
    subprocess.run(words, cwd=ROOT, capture_output=True, timeout=120)
    assert shared.read_text() == alone.read_text()


def test_an_interrupted_file_is_continued(toy_run: Path, files: list[Path], tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl"):
        out = tmp_path / f"answers.{suffix}"
        arguments = (toy_run, files[0].parent, "--device", "cpu", "--workers", 0, "--out", out)
        assert tool("predict", *arguments).code == 1
        whole = out.read_text()
        lines = whole.splitlines(keepends=True)
        out.write_text("".join(lines[:21]) + lines[21][:9])
        with patch.object(stream, "_Files", wraps=stream._Files) as opened:
            assert tool("predict", *arguments).code == 1
        assert out.read_text() == whole
        assert len(opened.call_args.args[0]) == COUNT - 20 - (suffix == "jsonl")
        again = tool("predict", *arguments, "--policy", "2x2")
        assert again.code == 2 and "of another model or settings" in again.err and out.read_text() == whole


def test_json_has_a_line_for_each_file(toy_run: Path, files: list[Path]) -> None:
    finished = tool("predict", toy_run, *files[:3], "http://a/b.mp4", "--json", "--top", 2, "--device", "cpu")
    broken, answer, _, address = map(simplejson.loads, finished.out.splitlines())
    assert finished.code == 1 and finished.err == ""
    assert broken["path"] == str(files[0]) and broken["error"] == "damaged, truncated, or not a video"
    assert address["error"].startswith("an address; nothing is fetched from a network")
    assert len(answer["classes"]) == 2 and answer["length"] in ("4x4", "2x2")
    predicted = revit_video.load(toy_run, "cpu").predict(files[1])
    assert answer["classes"][0]["class"] == predicted.classes[0][0]
    assert answer["classes"][0]["probability"] == pytest.approx(predicted.classes[0][1], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "--top: must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size: must be at least 1, got 0"),
        (["--workers", "-1"], "--workers: must be at least 0, got -1"),
        (["--out", "a.txt"], "--out a.txt: must end in .csv, or .jsonl with --json"),
        (["--out", "a.csv", "--json"], "--out a.csv: must end in .csv, or .jsonl with --json"),
        (["--device", "cuda:9"], "device cuda:9: not here; there are auto, cpu"),
        (["--device", "mps"], "device mps: not here; there are auto, cpu"),
    ],
)
def test_mistakes(toy_run: Path, files: list[Path], arguments: list[str], message: str) -> None:
    finished = tool("predict", toy_run, files[1], *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith(f"error: {message}") and finished.err.count("\n") == 1
