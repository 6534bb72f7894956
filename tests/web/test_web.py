"""`revit-video web`: the same answers as `predict`, limits, and nothing that others should not see or do."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

import revit_video
from revit_video.commands.main import main
from revit_video.commands.serve_page import _listening
from tests.browser import PHONE, THEMES, assert_sound, browser, opened

uvicorn = pytest.importorskip("uvicorn", reason="pip install '.[web]'")
pytest.importorskip("starlette", reason="pip install '.[web]'")
from revit_video.web import KIND, Bounds, Desk, Refused, create_app  # noqa: E402

HOSTS = ["127.0.0.1"]


@pytest.fixture(scope="module")
def address(toy_run: Path) -> Iterator[str]:
    """Of a server that takes half a megabyte, a second to arrive, and 6 seconds of video."""
    predictor = revit_video.load(toy_run, "cpu")
    app = create_app(predictor, Bounds(1 << 19, 1.0, 0.1), HOSTS)
    line = _listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [line]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{line.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def clip(videos: Path) -> Path:
    return sorted((videos / "test").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def movies(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Videos of 4 and of 8 seconds."""
    found = []
    for count in (4, 8):
        path = tmp_path_factory.mktemp("movies") / f"movie <{count}>.mp4"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", 8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for source in sorted((videos / "test").glob("*.mp4"))[:count]:
                with av.open(str(source)) as video:
                    for frame in video.decode(video=0):
                        picture = frame.to_ndarray(format="rgb24")
                        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            output.mux(stream.encode(None))
        found.append(path)
    return found[0], found[1]


def post(address: str, body: Any, kind: str = KIND, **query: str) -> tuple[int, dict[str, Any]]:
    asked = f"{address}/answer?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(asked, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def post_part(address: str, header: str, value: str, part: bytes) -> tuple[int, dict[str, Any]]:
    """An upload of which only `part` comes; the answer is there before the rest."""
    line = http.client.HTTPConnection(address.removeprefix("http://"))
    line.putrequest("POST", "/answer?name=a.mp4")
    for name, each in (("Content-Type", KIND), (header, value)):
        line.putheader(name, each)
    line.endheaders()
    line.send(part)
    response = line.getresponse()
    return response.status, json.load(response)


def test_the_answers_are_those_of_predict(address: str, clip: Path, toy_run: Path) -> None:
    predictor = revit_video.load(toy_run, "cpu")
    expected = predictor.predict(clip)
    code, answer = post(address, clip.read_bytes(), name=clip.name)
    assert code == 200 and answer["length"] == str(expected.length) and "timeline" not in answer
    assert [name for name, *_ in answer["classes"]] == [name for name, _ in expected.classes[:5]]
    assert answer["classes"][0][2] == pytest.approx(expected.classes[0][1], abs=1e-6)
    predictor.policy = "budget=1"
    code, answer = post(address, clip.read_bytes(), name=clip.name, budget="1")
    assert (answer["policy"], answer["length"]) == ("budget=1", str(predictor.predict(clip).length))
    assert post(address, clip.read_bytes(), name=clip.name)[1]["policy"] == "hybrid"


def test_a_long_video_has_a_timeline(address: str, movies: tuple[Path, Path]) -> None:
    code, answer = post(address, movies[0].read_bytes(), name=movies[0].name)
    assert code == 200 and "<h1>movie &lt;4&gt;.mp4</h1>" in answer["timeline"]
    assert "upload.mp4" not in answer["timeline"]


def test_what_is_refused_says_why_and_names_no_place(
    address: str, clip: Path, movies: tuple[Path, Path]
) -> None:
    body = clip.read_bytes()
    for code, words, answer in (
        (413, "larger than the 0 MB", post_part(address, "Content-Length", "600000", b"x")),
        (
            413,
            "larger than",
            post_part(address, "Transfer-Encoding", "chunked", b"80001\r\n" + bytes(1 << 19) + b"x\r\n"),
        ),
        (413, "minutes long", post(address, movies[1].read_bytes(), name="a.mp4")),
        (415, "the file itself", post(address, body, "text/plain", name="a.mp4")),
        (422, "is empty", post(address, b"", name="a.mp4")),
        (422, "a.mp4 cannot be read: damaged", post(address, b"x" * 999, name="/etc/a.mp4")),
        (422, "a.jpg cannot be read: an image", post(address, b"x" * 999, name="../a.jpg")),
        (422, "must be a share above 0", post(address, body, name="a.mp4", budget="7")),
        (422, "must be a share above 0", post(address, body, name="a.mp4", budget="x")),
    ):
        assert answer[0] == code and words in answer[1]["error"], answer
        assert "/tmp" not in answer[1]["error"] and "/etc" not in answer[1]["error"]


def test_a_slow_upload_is_broken_off(address: str) -> None:
    code, answer = post_part(address, "Content-Length", "1000", b"x")
    assert (code, answer["error"]) == (408, "the upload took longer than 1 s")


def test_a_model_without_its_runs_folder_has_no_budgets(toy_run: Path, clip: Path, tmp_path: Path) -> None:
    shutil.copy(toy_run / "model.pyth", tmp_path)
    desk = Desk(revit_video.load(tmp_path / "model.pyth", "cpu"), Bounds())
    assert desk.shares == [] and desk.answer(str(clip), "a.mp4", "")["policy"] == "hybrid"
    with pytest.raises(Refused, match="no budgets"):
        desk.answer(str(clip), "a.mp4", "0.5")


def test_other_sites_cannot_ask(address: str) -> None:
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    with urllib.request.urlopen(address) as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy


def test_so_many_uploads_at_once_and_no_more(address: str, clip: Path) -> None:
    lines = [socket.create_connection(address.removeprefix("http://").split(":")) for _ in range(8)]
    head = f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {KIND}\r\nContent-Length: 9\r\n\r\nx"
    for line in lines:
        line.sendall(head.encode())
    answers: list[tuple[int, dict[str, Any]]] = [(200, {})]
    while answers[-1][0] == 200 and len(answers) < 50:  # until all have arrived
        answers.append(post(address, clip.read_bytes(), name="a.mp4"))
    code, answer = answers[-1]
    assert code == 503 and "8 videos are waiting here already" in answer["error"]
    for line in lines:  # some leave; the server forgets the others after a second
        line.close()
    time.sleep(1.2)
    assert post(address, clip.read_bytes(), name="a.mp4")[0] == 200


ODD_NAMES = [
    "../../etc/passwd",
    "a\x00b.mp4",
    "a\n\x1b]52;c;eA==\x07.mp4",
    "-x.mp4",
    ".mp4",
    "%2e%2e/a.mp4",
    "a." + "b" * 99,
]
ODD_NAMES += [
    "\u202egnp.mp4",
    "<script>alert(1)</script>.mp4",
    "x" * 4000,
    "",
    "a.mp4/",
    "a.mp4@0+9/b",
    "http:x.mp4",
    "a.\u0663",
]


def test_odd_names_and_budgets_are_answered(address: str, movies: tuple[Path, Path], clip: Path) -> None:
    for name in ODD_NAMES:
        assert post(address, clip.read_bytes(), name=name)[0] == 200, name
    code, answer = post(address, movies[0].read_bytes(), name="<script>alert(1)</script>\u202egnp.mp4")
    assert code == 200 and "<script>alert" not in answer["timeline"]
    for budget in ("nan", "inf", "-1", "1e999", "0", "1" * 5000, "true", "0x1", "[1]"):
        code, answer = post(address, clip.read_bytes(), name="a.mp4", budget=budget)
        assert code == 422 and len(answer["error"]) < 6000, budget


def raw(address: str, request: bytes) -> bytes:
    """What comes back first; empty where the server closes the line."""
    with socket.create_connection(address.removeprefix("http://").split(":"), timeout=10) as line:
        line.sendall(request)
        return line.recv(1 << 16)


POST = b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
REQUESTS = {
    "a length that is none": POST + b"Content-Length: \xd9\xa3\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\nx",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "a length and parts": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a part of no length": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an endless header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * (1 << 20),
    "many headers": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "a host with a name in it": b"GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "another site's address": b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "a path outside": b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "another method": b"PUT /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
    "several forms": POST.replace(b"application/octet-stream", b"multipart/form-data; boundary=x")
    + b"Content-Length: 4\r\n\r\n--x-",
    "no HTTP": b"\x16\x03\x01" + b"\0" * 99,
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_that_are_none(address: str, case: str) -> None:
    try:
        answer = raw(address, REQUESTS[case])
    except ConnectionError:
        answer = b""
    assert not answer or answer.split(b" ", 2)[1][:1] in b"45", answer[:200]
    with urllib.request.urlopen(address) as response:
        assert response.status == 200


def test_a_port_that_is_taken_and_bounds_of_nothing(
    address: str, toy_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = address.rpartition(":")[2]
    for words, told in (
        (["--port", port], f"error: --host 127.0.0.1 --port {port}: Address already in use\n"),
        (["--max-mb", "0"], "error: --max-mb, --max-minutes and --max-seconds: must be above 0\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["revit-video", "web", str(toy_run), *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert (left.value.code, capsys.readouterr().err) == (2, told)


@pytest.mark.parametrize("theme", THEMES)
def test_in_a_browser(address: str, movies: tuple[Path, Path], clip: Path, toy_run: Path, theme: str) -> None:
    expected = revit_video.load(toy_run, "cpu").predict(clip)
    with browser() as chromium:
        page = opened(chromium, address, PHONE, theme)
        assert_sound(page)
        page.set_input_files("#file", clip)
        page.click("#ask")
        page.wait_for_selector("#answer:not([hidden])")
        assert page.inner_text("#best") == f"{expected.classes[0][0]}, {100 * expected.classes[0][1]:.1f} %"
        assert page.inner_text("#length") == str(expected.length)
        page.fill("#budget", page.get_attribute("#budget", "max"))
        assert not page.is_checked("#shipped")
        page.set_input_files("#file", movies[0])
        page.click("#ask")
        page.wait_for_selector("#policy:has-text('budget')")
        frame = page.frame_locator("iframe")
        frame.locator("h1").wait_for()
        assert frame.locator("video").get_attribute("src").startswith("blob:")
        assert_sound(page)
        large = {"name": "large.mp4", "mimeType": "video/mp4", "buffer": bytes(1 << 20)}
        page.set_input_files("#file", large)
        page.click("#ask")
        page.wait_for_selector("#error:has-text('larger than the 0 MB')")
        page.set_input_files("#file", {"name": "bad.mp4", "mimeType": "video/mp4", "buffer": b"x"})
        page.click("#ask")
        page.wait_for_selector("#error:has-text('bad.mp4 cannot be read')")
        assert_sound(page)
