"""What opening every file finds."""

from __future__ import annotations

import os
from pathlib import Path

import av
import pytest

from revit_video.prepare import check
from revit_video.prepare.check import Checked, check_file, check_files
from tests.images import picture
from tests.prepare.files import data_yaml, listed, prepared
from tests.toy import table_of
from tests.videos import WriteVideo, broken_files, unusual_files, write_video_to


def test_files_that_cannot_be_read_are_told_with_the_reason(tmp_path: Path) -> None:
    for what, path in broken_files(tmp_path).items():
        assert check_file(path).problem, what
    assert check_file(str(tmp_path / "missing.mp4")).problem == "No such file or directory"
    assert check_file(str(tmp_path / "audio.mp4")).problem == "it has no video stream"
    assert check_file(str(tmp_path / "empty.mp4")).problem == "damaged, truncated, or not a video"


def test_files_that_can_are_counted(tmp_path: Path, write_video: WriteVideo) -> None:
    found = check_file(write_video(frames=48))
    assert (found.frames, found.seconds, found.problem, found.odd) == (48, 2.0, "", "")
    for what, path in unusual_files(tmp_path).items():
        assert not check_file(path).problem, what
    picture("red disc", 0).save(tmp_path / "image.png")
    assert check_file(str(tmp_path / "image.png")).frames == 1
    (tmp_path / "image.png").write_bytes(b"")
    assert check_file(str(tmp_path / "image.png")).problem


def test_oddities(tmp_path: Path, write_video: WriteVideo) -> None:
    assert check_file(write_video(frames=4, ticks=[0, 40, 80, 200])).odd == "variable-rate"
    assert check_file(write_video(frames=4, ticks=[0, 33, 67, 100])).odd == ""  # 30 a second, rounded
    assert check_file(write_wide_pixels(tmp_path / "wide.mp4")).odd == "non-square"
    assert check_file(write_rotated(tmp_path / "plain.mp4", tmp_path / "turned.mp4")).odd == "rotated"


def write_wide_pixels(path: Path) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(9):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    return str(path)


def write_rotated(plain: Path, path: Path) -> str:
    """A video whose header asks for a turn by 90 degrees: the display matrix of its track is replaced."""
    data = Path(write_video_to(plain, size=(48, 72))).read_bytes()
    one, turn = (0x10000).to_bytes(4, "big"), (-0x10000 % 2**32).to_bytes(4, "big")
    zero, last = bytes(4), (0x40000000).to_bytes(4, "big")
    upright = one + 3 * zero + one + 3 * zero + last
    turned = zero + one + zero + turn + 4 * zero + last
    at = data.rindex(upright)  # the movie's comes first, the track's is the one that counts
    path.write_bytes(data[:at] + turned + data[at + len(upright) :])
    return str(path)


def test_results_are_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_video_to(tmp_path / f"{n}.mp4", frames=n + 1) for n in range(4)]
    cache = str(tmp_path / "checked.csv")
    first = list(check_files(paths, cache, 0))
    assert [found.frames for found in first] == [1, 2, 3, 4]
    text = Path(cache).read_text()
    Path(cache).write_text(text[: text.rindex(",0.")])  # killed in the middle of a line
    log = tmp_path / "opened.txt"  # by a child process

    def logged(path: str) -> Checked:
        with log.open("a") as file:
            print(path, file=file)
        return check_file(path)

    monkeypatch.setattr(check, "check_file", logged)
    os.utime(paths[1], ns=(1, 1))
    again = sorted(check_files(paths, cache, 0), key=lambda found: found.path)
    assert log.read_text().split() == [paths[1], paths[3]] and [found.frames for found in again] == [
        1,
        2,
        3,
        4,
    ]
    assert len(list(check_files(paths, cache, 0))) == 4 and len(log.read_text().split()) == 2


def test_what_is_broken_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "videos" / "run").mkdir(parents=True)
    for n in range(6):
        write_video_to(tmp_path / "videos" / "run" / f"{n}.mp4", frames=4 + n)
    (tmp_path / "videos" / "run" / "broken.mp4").write_bytes(b"no video")
    done = prepared(tmp_path, "folder", tmp_path / "videos", check=True, min_frames=6)
    assert not done.is_complete and done.clips["train"] == 4 and "broken.mp4" not in listed(tmp_path, "train")
    assert done.broken == {"damaged, truncated, or not a video": 1} and done.odd == {"short": 2}
    (row,) = table_of(tmp_path / "out" / "missing.csv")
    assert row == {"name": "run/broken.mp4", "reason": "damaged, truncated, or not a video"}
    assert [row["odd"] for row in table_of(tmp_path / "out" / "odd.csv")] == ["short", "short"]
    assert data_yaml(tmp_path)["odd"] == {"short": 2}
