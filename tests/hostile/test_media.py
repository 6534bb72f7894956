"""Files that ask for other files, other programs, or for more than a machine has: each costs itself alone."""

from __future__ import annotations

import os
import resource
import signal
import struct
import threading
import time
import zlib
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

import revit_video
from revit_video.data import clips as clips_module
from revit_video.data.clips import ClipSampling, VideoViews, ViewGrid, eval_views, open_video, train_view
from revit_video.data.isolate import Isolated, isolated
from revit_video.data.packets import MOST_PACKETS, PacketFile
from revit_video.data.transforms import TrainTransform
from revit_video.data.video import DecodeError, Limits
from tests.videos import write_video_to

MEMORY = 300 << 20  # bytes that a hostile file may take at most, beside what a process has


def refused(path: Path | str, backend: str = "pyav", limits: Limits = Limits()) -> str:  # noqa: B008
    with pytest.raises(DecodeError) as caught:
        open_video(str(path), backend, limits).read([0])
    assert caught.value.path == str(path) and len(caught.value.reason.splitlines()) == 1
    return caught.value.reason


# ---- Other files, other programs -------------------------------------------------------------------------

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) (MARK) run\nshowpage\n%%EOF\n"
TEXTS = {
    "script": "ffconcat version 1.0\nfile OTHER\n",
    "script of itself": "ffconcat version 1.0\nfile self.mp4\nfile self.mp4\n",
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nOTHER\n#EXT-X-ENDLIST\n",
    "live playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nOTHER\n",
    "remote playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nREMOTE\n#EXT-X-ENDLIST\n",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "VobSub": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"
    "timestamp: 00:00:01:000, filepos: 000000000\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet><Representation id="1" mimeType="video/mp4"><BaseURL>OTHER</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


class Asked(BaseHTTPRequestHandler):
    paths: list[str] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_a_video_leads_to_no_other_file(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("decord")
    other = write_video_to(tmp_path / "other.mp4", frames=3)
    write_video_to(tmp_path / "other.ts", frames=3)
    server = HTTPServer(("127.0.0.1", 0), Asked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    try:
        for name, text in TEXTS.items():
            for suffix in ("mp4", "ts", "avi", "m3u8", "idx"):
                path = Path(f"self.{suffix}")
                remote = f"http://127.0.0.1:{server.server_port}/x.ts"
                path.write_text(text.replace("OTHER", other).replace("REMOTE", remote))
                assert "not a video" in refused(path, backend), name
    finally:
        server.shutdown()
    assert Asked.paths == []


@pytest.mark.parametrize("pattern", ["%03d.png", "%03d.mp4", "*.png", "http:x.mp4", "concat:a.mp4|b.mp4"])
def test_a_name_is_a_name(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "001.png").write_bytes(b"")
    path = tmp_path / pattern.replace("%03d.png", "%03d.mjpeg").replace("*.png", "*.gif")
    assert refused(path) == "no such file"
    path.write_bytes(Path(write_video_to(tmp_path / "plain.mp4", frames=3)).read_bytes())
    assert len(open_video(str(path)).times) == 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_an_image_starts_no_program(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(EPS)
    assert refused(path) == "damaged, or not an image"
    for kind in ("TIFF", "GIF", "PPM", "ICO", "TGA", "PCX"):
        Image.new("RGB", (8, 8)).save(path, kind)
        assert refused(path) == "damaged, or not an image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "MPO"])
def test_images_that_are_offered_are_read_under_any_of_their_suffixes(kind: str, tmp_path: Path) -> None:
    """ImageNet has a PNG that is called .JPEG."""
    for suffix in (".png", ".jpg", ".webp", ".bmp"):
        Image.new("RGB", (12, 8)).save(tmp_path / f"x{suffix}", kind)
        assert open_video(str(tmp_path / f"x{suffix}")).read([0]).shape == (3, 1, 8, 12)


OFFERED = {
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".avi", ".ts"), "mpeg4"),
    **dict.fromkeys((".wmv", ".asf"), "wmv2"),
    **dict.fromkeys((".mpg", ".mpeg", ".vob", ".m2v", ".mxf"), "mpeg2video"),
    **dict.fromkeys((".m1v",), "mpeg1video"),
    **dict.fromkeys((".webm", ".ivf", ".ogv"), "libvpx"),
    **dict.fromkeys((".h264", ".m2ts", ".f4v"), "libx264"),
    **{
        ".flv": "flv",
        ".gif": "gif",
        ".mjpeg": "mjpeg",
        ".hevc": "libx265",
        ".rm": "rv10",
        ".y4m": "rawvideo",
    },
}


@pytest.mark.parametrize("suffix", OFFERED)
def test_every_offered_container_opens(suffix: str, tmp_path: Path) -> None:
    pix_fmt = {".gif": "rgb8", ".mjpeg": "yuvj420p"}.get(suffix, "yuv420p")
    size = (288, 352) if suffix == ".3gp" else (64, 96)
    options = {"lag-in-frames": "0"} if OFFERED[suffix] == "libvpx" else None
    try:
        path = write_video_to(
            tmp_path / f"x{suffix}", 12, size, OFFERED[suffix], 25, options, pix_fmt=pix_fmt
        )
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"cannot be written here: {error}")
    assert open_video(path).read([0, 5], 32).shape[1] == 2


# ---- Sizes -----------------------------------------------------------------------------------------------


def png(path: Path, width: int, height: int) -> Path:
    """A grey picture in a few bytes."""
    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(bytes(1 + width)) for _ in range(height)) + deflate.flush()
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def claiming(path: Path, chunks: int, samples: int) -> Path:
    """An MP4 of some kB whose tables say that it has `chunks * samples` frames of one byte."""
    data = bytearray(Path(write_video_to(path, frames=3)).read_bytes())

    def put(name: bytes, *values: int) -> None:
        struct.pack_into(f">{len(values)}I", data, data.find(name) + 8, *values)

    for name in (b"ctts", b"stss", b"edts"):
        if name in data:
            data[data.find(name) : data.find(name) + 4] = b"free"
    put(b"stsz", 1, chunks * samples)
    put(b"stts", 1, chunks * samples)
    put(b"stsc", 1, 1, samples, 1)
    at = data.find(b"stco")
    (before, offset) = struct.unpack(">II", data[at + 8 : at + 16])
    data[at + 12 : at + 12 + 4 * before] = struct.pack(">I", offset) * chunks
    put(b"stco", chunks)
    for name in (b"stco", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        at = data.find(name) - 4
        struct.pack_into(">I", data, at, struct.unpack(">I", data[at : at + 4])[0] + 4 * (chunks - before))
    path.write_bytes(data)
    return path


def in_a_child(path: Path, limits: Limits = Limits(), timeout: float = 60.0) -> str:  # noqa: B008
    """Why a file is refused. A child decodes it, whose memory is limited beside the limits."""
    sampling = ClipSampling(8, Fraction(1), limits=limits)

    def views(_: None, name: str) -> VideoViews:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
        return eval_views(name, sampling, ViewGrid(32, 1, 3))

    decode = isolated(views, 0, 3 * 8 * 3 * 32 * 32, timeout, limits)
    with pytest.raises(DecodeError) as caught:
        decode(None, str(path))
    return caught.value.reason


linux = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the kernel's figures")


@linux
def test_sizes_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    thin = png(tmp_path / "thin.png", 1, 100_000)
    assert thin.stat().st_size < 300
    long = Path(write_video_to(tmp_path / "long.mp4", 2, (8000, 4), "mpeg4"))
    many = claiming(tmp_path / "many.mp4", 1000, 1000)
    assert many.stat().st_size < 10_000
    assert in_a_child(thin) == "1 x 100000 pixels are longer than the 32:1 of DATA.MAX_ASPECT"
    assert in_a_child(long) == "4 x 8000 pixels are longer than the 32:1 of DATA.MAX_ASPECT"
    assert "claims more frames than the" in in_a_child(many)
    large = png(tmp_path / "large.png", 2000, 1000)
    few = Limits(megapixels=1)
    assert (
        in_a_child(large, few) == "2000 x 1000 pixels are more than the 1 megapixels of DATA.MAX_MEGAPIXELS"
    )
    little = "takes more memory than there is, or than the 0.0001 GiB of DATA.MAX_DECODING_GB"
    assert refused(large, limits=Limits(gigabytes=0.0001)).endswith(little)


def test_packets_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_PACKETS > 60 * 60 * 60 * 12
    path = write_video_to(tmp_path / "x.mp4")
    monkeypatch.setattr("revit_video.data.packets.MOST_PACKETS", 40)
    assert refused(path) == "it claims more than 40 frames"


def test_the_decoder_refuses_frames_larger_than_the_container_says(tmp_path: Path) -> None:
    file = PacketFile(write_video_to(tmp_path / "x.mp4", 2, (64, 96), "mpeg4"), most_pixels=64 * 64)
    with pytest.raises(av.FFmpegError):
        for _, packet in file.packets_from(0):
            file.stream.codec_context.decode(packet)


# ---- Decoding in a child -----------------------------------------------------------------------------------


def greedy(_: object, path: str) -> VideoViews:
    torch.zeros(3 << 30, dtype=torch.uint8)
    return VideoViews.none(1, 1)


def greedy_in_python(_: object, path: str) -> VideoViews:
    _ = bytearray(3 << 30)
    return VideoViews.none(1, 1)


@linux
@pytest.mark.parametrize("decode", [greedy, greedy_in_python])
def test_the_kernel_refuses_a_decoder_more_memory_than_the_limit(decode) -> None:
    isolated = Isolated(decode, 0, 1, limits=Limits(gigabytes=0.5))
    for _ in range(2):
        with pytest.raises(DecodeError, match="more memory than there is, or than the 0.5 GiB"):
            isolated(None, "x.mp4")


@linux
def test_a_decoder_takes_no_more_than_its_container_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("revit_video.data.isolate.whole_memory", lambda: float(1 << 29))
    with pytest.raises(DecodeError, match="more memory than there is"):
        Isolated(greedy, 0, 1)(None, "x.mp4")
    monkeypatch.undo()
    score = Isolated(lambda *_: Path("/proc/self/oom_score_adj").read_text(), 0, 1)
    assert int(score(None, "x.mp4")) == 1000  # the kernel ends it before anything else


# Odd shapes with their worst views: the largest of a long frame, all crops, many frames of it.
SHAPES = [(1, 65500), (65500, 1), (2, 60), (60, 2), (1, 32), (16, 512), (512, 16), (3000, 3000), (1, 1)]


@linux
@pytest.mark.parametrize("suffix", ["png", "mp4"])
def test_no_shape_takes_more_than_the_limit(suffix: str, tmp_path: Path) -> None:
    """Within 700 MB, a frame is decoded or refused, in training and in evaluation."""
    sampling = ClipSampling(32, Fraction(32, 24), limits=Limits(gigabytes=0.7))
    transform = TrainTransform((256, 320), 224, flip=True)

    def views(row: None, name: str, kind: int) -> bool:
        if kind:
            return len(eval_views(name, sampling, ViewGrid(224, 4, 3, 256))) == 12
        return len(train_view(name, sampling, transform, False, torch.Generator())) == 1

    decode = isolated(views, 0, 0, 60.0, sampling.limits)
    for height, width in SHAPES:
        path = tmp_path / f"{height}x{width}.{suffix}"
        if suffix == "png":
            png(path, height, width)
        elif max(height, width) > 10_000 or min(height, width) < 2:
            continue  # no encoder takes it
        else:
            write_video_to(path, 4, (height, width), "mpeg4")
        for kind in (0, 1):
            try:
                assert decode(None, str(path), kind)
            except DecodeError as error:
                assert "DATA.MAX" in error.reason, error


def stops(_: object, path: str) -> VideoViews:
    os.kill(os.getpid(), signal.SIGSTOP)
    return VideoViews.none(1, 1)


def test_a_child_that_is_stopped_is_late() -> None:
    isolated = Isolated(stops, 0, 1, timeout=0.2)
    start = time.monotonic()
    with pytest.raises(DecodeError, match="not decoded within 0.2 s"):
        isolated(None, "x.mp4")
    assert time.monotonic() - start < 5


def test_what_fails_after_decoding_is_the_files_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crops(*_: object) -> None:
        raise MemoryError

    path = write_video_to(tmp_path / "x.mp4")
    monkeypatch.setattr(clips_module, "spatial_crops", crops)
    with pytest.raises(DecodeError, match=r"decoding it takes more memory"):
        eval_views(path, ClipSampling(4, Fraction(1)), ViewGrid(32))


def test_predict_outlives_its_decoders(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One crashes, one hangs, one is stopped; the next file is read."""

    def misbehaving(path: str, *others: object):
        if "crash" in path:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in path:
            time.sleep(1000)
        if "stop" in path:
            os.kill(os.getpid(), signal.SIGSTOP)
        return open_video(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(clips_module, "open_video", misbehaving)
    monkeypatch.setattr("revit_video.predict.TIMEOUT", 0.5)
    predictor = revit_video.load(str(toy_run), "cpu")
    reasons = {
        "crash": "its decoder crashed (signal 11, Segmentation fault)",
        "hang": "not decoded within 0.5 s",
        "stop": "not decoded within 0.5 s",
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError) as caught:
            predictor.predict(write_video_to(tmp_path / f"{name}.mp4"))
        assert caught.value.reason == reason
    paths = [tmp_path / f"{name}.mp4" for name in (*reasons, "good")]
    good = predictor.predict(write_video_to(paths[-1]))
    *errors, answer = predictor.predict_many(paths, num_workers=0)
    assert [error.reason for error in errors] == list(reasons.values())
    assert answer.classes == good.classes
