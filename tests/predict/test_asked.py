"""Which files a command line names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from revit_video.predict import asked
from revit_video.predict.asked import asked_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.mp4", "b 2.mp4", "sub/deep/c.avi", "other/[x].mp4", "-dash.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path / "videos")
    return tmp_path / "videos"


def test_files_folders_and_patterns(folder: Path) -> None:
    assert asked_files(["nowhere.mp4", "a.mp4", "a.mp4"]) == ["nowhere.mp4", "a.mp4", "a.mp4"]
    assert asked_files([str(folder / "sub")]) == [str(folder / "sub/deep/c.avi")]
    assert asked_files(["**/*.avi", "other/[x].mp4"]) == ["sub/deep/c.avi", "other/[x].mp4"]
    assert len(asked_files([str(folder)])) == 5
    with pytest.raises(ValueError, match=r"\*\.mkv: no file matches"):
        asked_files(["*.mkv"])


def test_lists_with_and_without_labels(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "list.txt").write_text("a.mp4 3\n\nb 2.mp4\nnowhere.mp4 0\r\nsub\n-dash.mp4\n")
    expected = ["a.mp4", "b 2.mp4", "nowhere.mp4", "sub/deep/c.avi", "-dash.mp4"]
    assert asked_files(["@list.txt"]) == expected
    monkeypatch.chdir(tmp_path)  # paths are looked for beside the list, too
    found = asked_files([f"@{folder / 'list.txt'}"])
    assert found == [str(folder / name) if name != "nowhere.mp4" else name for name in expected]
    with pytest.raises(FileNotFoundError):
        asked_files(["@none.txt"])


def test_names_from_a_pipe_may_hold_anything(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a.mp4\n\xff\xe2\x80\xa8.mp4\nsub\n")
    os.close(writing)
    monkeypatch.setattr(asked, "STDIN", reading)
    assert [os.fsencode(path) for path in asked_files(["-"])] == [
        b"a.mp4",
        b"\xff\xe2\x80\xa8.mp4",
        b"sub/deep/c.avi",
    ]
    os.close(reading)
