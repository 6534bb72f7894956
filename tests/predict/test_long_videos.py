"""Windows over a long video, its segments, its page, and the copy with the answers written in."""

from __future__ import annotations

import csv
import os
import re
import signal
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import pytest
import simplejson
import torch

import revit_video
from revit_video.commands.predict_files import SHIPPED
from revit_video.data import windows
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.synthetic import write_dataset
from revit_video.data.video import DecodeError
from revit_video.data.windows import stream_windows, windows_over
from revit_video.length import TokenLength
from revit_video.predict import Predictor, VideoPrediction
from revit_video.predict.labelled_video import write_labelled_video
from revit_video.predict.long_videos import Moment, Segment, _segments
from revit_video.predict.timeline_page import write_timeline_page
from tests.browser import PHONE, THEMES, assert_sound, browser, opened
from tests.toy import tool
from tests.videos import WriteVideo, write_video_to

CLASSES = ["left", "right", "nothing"]
LONG, SHORT = TokenLength(4, 4), TokenLength(2, 2)


@pytest.fixture(scope="module")
def movie(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of 1 s, one after the other, 48 frames."""
    path = tmp_path_factory.mktemp("movie") / "a movie.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", 8, options={"crf": "10"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for source in sorted((videos / "test").glob("*.mp4"))[:6]:
            with av.open(str(source)) as clip:
                for frame in clip.decode(video=0):
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def predictor(toy_run: Path) -> Predictor:
    return revit_video.load(toy_run, "cpu", policy="2x2")


def test_windows_cover_the_whole_video() -> None:
    def spans(*arguments: object) -> list[tuple[float, float]]:
        return [(float(w.start), float(w.end)) for w in windows_over(*map(Fraction, arguments))]

    assert spans(6, 2, 1) == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
    assert spans("6.5", 2, 2) == [(0, 2), (2, 4), (4, 6), (4.5, 6.5)]
    assert spans(1, 2, 1) == [(0, 1)]


def answers_that_are_right(predictor: Predictor, folder: Path) -> list[VideoPrediction]:
    answers = predictor.predict_many(sorted(folder.glob("videos/test/*.mp4")), num_workers=0)
    return [a for a in answers if isinstance(a, VideoPrediction) and f"_{a.classes[0][0]}." in a.path]


def test_six_clips_of_the_demo_are_found_again(tmp_path: Path) -> None:
    """By the shipped model, whose clips are 2 s long: borders within a stride, every frame in the copy."""
    order, source = ["left", "down", "up", "right", "grow", "shrink"], tmp_path / "six.mp4"
    predictor = revit_video.load(SHIPPED, "cpu")
    write_dataset(tmp_path / "videos", {"test": 48})
    known = {answer.classes[0][0]: answer.path for answer in answers_that_are_right(predictor, tmp_path)}
    with av.open(str(source), "w") as output:
        stream = output.add_stream("libx264", 8, options={"crf": "10"})
        stream.width = stream.height = 96
        for name in order:
            with av.open(known[name]) as clip:
                for frame in clip.decode(video=0):
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        output.mux(stream.encode(None))
    timeline = predictor.timeline(source, window=2, stride=1)
    assert [segment.name for segment in timeline.segments] == order
    for n, segment in enumerate(timeline.segments):
        assert abs(segment.start - 2 * n) <= 1 and abs(segment.end - 2 * n - 2) <= 1
    assert sum(segment.gmacs for segment in timeline.segments) == pytest.approx(timeline.gmacs)
    write_labelled_video(timeline, str(tmp_path / "copy.mp4"))
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        assert sum(1 for _ in copy.decode(video=0)) == 96


def test_every_window_is_what_predict_sees(predictor: Predictor, movie: Path) -> None:
    timeline = predictor.timeline(movie, window=1, stride=0.5, batch_size=3)
    assert [(m.start, m.end) for m in timeline.moments] == [(n / 2, n / 2 + 1) for n in range(11)]
    with av.open(str(movie)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    for n, moment in enumerate(timeline.moments):
        alone = predictor.predict(frames[4 * n : 4 * n + 8], fps=8)
        top = int(moment.probabilities.argmax())
        assert alone.classes[0] == (
            predictor.class_names[top],
            pytest.approx(float(moment.probabilities[top])),
        )
        assert moment.gmacs == pytest.approx(alone.gmacs)
    assert timeline.gmacs == pytest.approx(sum(segment.gmacs for segment in timeline.segments))
    assert sum(segment.windows for segment in timeline.segments) == 11


def test_a_video_is_decoded_once_however_many_windows(predictor: Predictor, movie: Path) -> None:
    counted = 0
    decode = PyAVVideo._decode

    def counting(*arguments: object) -> object:
        nonlocal counted
        for frame in decode(*arguments):  # type: ignore[arg-type]
            counted += 1
            yield frame

    data = windows._Windows(str(movie), predictor.sampling, predictor.grid, 1, 0.125, 4)
    with patch.object(PyAVVideo, "_decode", counting):
        parts = [part for part in data if not isinstance(part, DecodeError)]
    assert sum(len(part.spans) for part in parts) == 41
    assert counted <= 48


def test_a_broken_video(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name, reason in (("broken.mp4", "damaged, truncated"), ("nowhere.mp4", "no such file")):
        with pytest.raises(DecodeError, match=reason):
            predictor.timeline(tmp_path / name)

    def crash(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(PyAVVideo, "stream", crash), pytest.raises(DecodeError, match="its decoder crashed"):
        list(stream_windows(str(movie), predictor.sampling, predictor.grid, 1, 1, 4))


def test_what_timeline_refuses(predictor: Predictor, movie: Path) -> None:
    with pytest.raises(ValueError, match="stride 2 s: must be above 0, and at most the window's 1"):
        predictor.timeline(movie, 1, 2)
    with pytest.raises(ValueError, match="background 'idle': no class of the model"):
        predictor.timeline(movie, background="idle")


def moments_of(*answers: tuple[float, float, float]) -> list[Moment]:
    """Windows of 2 s, one each second."""
    return [
        Moment(n, n + 2, torch.tensor(shares), LONG if shares[0] > 0.5 else SHORT, 1.0)
        for n, shares in enumerate(answers)
    ]


def segments_of(moments: list[Moment], background: str = "nothing", least: float = 0.0) -> list[Segment]:
    def nothing(share: torch.Tensor) -> bool:
        best = int(share.argmax())
        return CLASSES[best] == background or float(share[best]) < least

    return list(_segments(moments, moments[-1].end, 1.0, CLASSES, nothing))


LEFT, RIGHT, NOTHING = (0.9, 0.1, 0.0), (0.1, 0.9, 0.0), (0.0, 0.1, 0.9)


def test_segments_are_stretches_of_one_class() -> None:
    found = segments_of(moments_of(LEFT, LEFT, LEFT, NOTHING, NOTHING, NOTHING, RIGHT, RIGHT))
    assert [(s.start, s.end, s.name) for s in found] == [(0, 4, "left"), (6, 9, "right")]
    assert [s.length for s in found] == [LONG, SHORT]


def test_what_is_shorter_than_a_window_joins_its_neighbours() -> None:
    found = segments_of(moments_of(LEFT, LEFT, LEFT, RIGHT, LEFT, LEFT, LEFT))
    assert [(s.start, s.end, s.name) for s in found] == [(0, 8, "left")]
    assert found[0].windows == 7 and found[0].gmacs == 7.0


def test_what_is_improbable_is_nothing() -> None:
    assert segments_of(moments_of(LEFT, LEFT, RIGHT, RIGHT), least=0.95) == []


def test_the_page_shows_segments_and_lengths(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    timeline = predictor.timeline(movie, 1, 0.5)
    page = tmp_path / "pages" / "page.html"
    write_timeline_page(timeline, predictor.model.lengths, str(page))
    text = page.read_text()
    assert text.count("<rect ") == len(timeline.segments) == text.count("<button ")
    source = re.search(r'<video src="([^"]+)"', text)
    assert source and "a%20movie.mp4" in source[1] and not source[1].startswith("/")
    assert "2x2 for 100 % of the windows" in text and str(movie.parent) not in text
    assert "$" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("theme", THEMES)
def test_the_page_in_a_browser(predictor: Predictor, movie: Path, tmp_path: Path, theme: str) -> None:
    timeline, page = predictor.timeline(movie, 1, 0.5), tmp_path / "page.html"
    write_timeline_page(timeline, predictor.model.lengths, str(page))
    with browser() as chromium:
        shown = opened(chromium, f"file://{page}", PHONE, theme)
        assert_sound(shown)
        start = shown.locator("button").last
        start.click()
        seconds = shown.evaluate("document.querySelector('video').currentTime")
        assert seconds >= float(start.get_attribute("data-start")) - 0.01


@pytest.mark.parametrize(("size", "pixels"), [((48, 64), "yuv420p"), ((37, 51), "yuv444p")])
def test_the_copy_has_every_frame_at_its_time(
    size: tuple[int, int], pixels: str, predictor: Predictor, tmp_path: Path
) -> None:
    source = Path(write_video_to(tmp_path / "source.mp4", 20, size, fps=10, pix_fmt=pixels))
    out = tmp_path / "copy.mp4"
    write_labelled_video(predictor.timeline(source, 1, 0.5), str(out))
    with av.open(str(source)) as ours, av.open(str(out)) as theirs:
        before, after = ([f.time for f in file.decode(video=0)] for file in (ours, theirs))
        assert len(after) == 20 and after == pytest.approx(before)
        assert theirs.streams.video[0].average_rate == ours.streams.video[0].average_rate
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["copy.mp4", "source.mp4"]
    with pytest.raises(ValueError, match="is the video that is read"):
        write_labelled_video(predictor.timeline(source, 1, 0.5), str(source))


def test_the_command(toy_run: Path, movie: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "segments.csv", tmp_path / "page.html"
    asked = (toy_run, movie, "--device", "cpu", "--window", "1s", "--stride", "500ms")
    assert tool("predict", *asked, "--out", out, "--page", page).code == 0
    rows = list(csv.DictReader(out.open()))
    finished = tool("predict", *asked, "nowhere.mp4", "--json")
    objects = [simplejson.loads(line) for line in finished.out.splitlines()]
    assert finished.code == 1 and objects[-1] == {"path": "nowhere.mp4", "error": "no such file"}
    assert [row["class"] for row in rows] == [each["class"] for each in objects[:-1]]
    assert page.is_file()
    for words, message in (
        (("--window", "soon"), "'soon': must be a time"),
        (("--window", "1s", "--page", "a.html", movie), "--page and --video: of one video, got 2"),
        (("--page", "a.html"), "--stride, --page and --video: need --window"),
    ):
        refused = tool("predict", toy_run, movie, *words)
        assert refused.code == 2 and message in refused.err and refused.err.count("\n") == 1


def test_a_video_is_streamed_as_it_is_read(write_video: WriteVideo) -> None:
    path = write_video(frames=30)
    video = PyAVVideo(str(path))
    wanted = list(range(0, 30, 3))
    streamed = dict(video.stream(wanted, 16))
    read = video.read(wanted, 16).permute(1, 2, 3, 0).numpy()
    assert list(streamed) == wanted
    assert all(np.array_equal(streamed[n], picture) for n, picture in zip(wanted, read, strict=True))
