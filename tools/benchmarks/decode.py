"""Decoding one clip of a Kinetics-like file, against pytorchvideo and against bare sequential decoding."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from pytorchvideo.data.encoded_video import EncodedVideo
from torch import Tensor

from benchmarks.timing import Effort, Measurement, Target, interleaved, milliseconds, ratio
from revit_video.data.clips import DECODING_BACKENDS, ClipSampling, VideoViews, ViewGrid, eval_views
from revit_video.data.isolate import Isolated
from revit_video.data.sampling import clip_duration

NUM_FRAMES, SAMPLING_RATE, FPS = 8, 32, 30
SIZE = 256, 340  # height and width of the file; its short side is the clip's
SECONDS = 10
DURATION = clip_duration(NUM_FRAMES, SAMPLING_RATE, FPS)
FASTER_THAN_PYTORCHVIDEO = Target(at_least=3)
OF_BARE_DECODING = Target(at_least=0.8)


def decode(device: torch.device, effort: Effort, video: str = "") -> list[Measurement]:
    """Decodes the first 8 x 32 clip of a file: 8 frames of short side 256.

    One thread on one core; CPU time, but wall-clock time where two processes take part. From a path to:

    - ours: the centre crop, uint8 `(1, 3, 8, 256, 256)`, as in evaluation;
    - pytorchvideo: `EncodedVideo.get_clip` and temporal subsampling, uint8 `(3, 8, 256, 340)`, neither
      cropped nor scaled (the generated file has this size);
    - bare sequential decoding: up to the clip's last frame, nothing converted.

    Args:
        video: a file; empty generates one: 10 s, 340 x 256, 30 frames/s, H.264 with x264's defaults.
    """
    with TemporaryDirectory() as folder, one_core():
        path = video or write_moving_texture(Path(folder) / "video.mp4")
        largest = 3 * NUM_FRAMES * SIZE[0] ** 2
        isolated = Isolated(lambda row, path: ours(path, "pyav"), 1, largest)
        actions: dict[str, Callable[[], object]] = {
            **{f"ours, {backend}": partial(ours, path, backend) for backend in available_backends()},
            "pytorchvideo": partial(pytorchvideo_clip, path),
            "bare sequential decoding": partial(decode_bare, path),
        }
        cpu = interleaved(actions, effort, clock=time.process_time)
        apart: dict[str, Callable[[], object]] = {
            "here": actions["ours, pyav"],
            "apart": partial(isolated, 0, path),
        }
        wall = interleaved(apart, effort)
    best, bare = cpu["ours, pyav"], cpu["bare sequential decoding"]
    return [
        *(milliseconds(name, timing) for name, timing in cpu.items()),
        ratio("pytorchvideo's time, of ours", cpu["pytorchvideo"], best, FASTER_THAN_PYTORCHVIDEO),
        ratio("our rate, of bare sequential decoding's", bare, best, OF_BARE_DECODING),
        milliseconds("ours, wall clock", wall["here"]),
        milliseconds("ours in a process apart, as data workers decode, wall clock", wall["apart"]),
    ]


def available_backends() -> list[str]:
    """Our decoders; decord is optional, since some platforms have no wheel."""
    try:
        import decord  # noqa: F401
    except ImportError:
        return ["pyav"]
    return list(DECODING_BACKENDS)


def ours(path: str, backend: str) -> VideoViews:
    return eval_views(path, ClipSampling(NUM_FRAMES, DURATION, backend=backend), ViewGrid(SIZE[0]))


def pytorchvideo_clip(path: str) -> Tensor:
    """The clip from pytorchvideo's classes, which convert every frame of the window and then keep 8."""
    video = EncodedVideo.from_path(path, decode_audio=False)
    clip = video.get_clip(0, DURATION)["video"]
    video.close()
    # Like its `uniform_temporal_subsample`, which cannot be imported with a recent torchvision.
    kept = torch.linspace(0, clip.shape[1] - 1, NUM_FRAMES).clamp(0, clip.shape[1] - 1).long()
    return clip.index_select(1, kept).to(torch.uint8)


def decode_bare(path: str) -> int:
    """Decodes a file in order up to the clip's last frame; returns the number of frames."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stop = float(DURATION - Fraction(3, 2 * FPS))
        before = sum(1 for _ in takewhile(lambda frame: frame.time < stop, container.decode(stream)))
    return before + 1


@contextmanager
def one_core() -> Iterator[None]:
    """Limits torch to one thread and, where the platform allows it, the process to one core."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def write_moving_texture(path: Path, seconds: float = SECONDS, size: tuple[int, int] = SIZE) -> str:
    """Writes an H.264 file: a pan over a cloudy texture, a textured moving disc, noise."""
    height, width = size
    rng = np.random.default_rng(0)
    scene, disc = clouds(rng, 2 * height, 2 * width, 120, 45), clouds(rng, height, width, 140, 60)
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for n in range(round(seconds * FPS)):
            top, left = (round(side / 2 * (1 + np.sin(n / 50))) for side in size)
            picture = scene[top : top + height, left : left + width].copy()
            y, x = height / 2 * (1 + np.cos(n / 17) / 2), width / 2 * (1 + np.sin(n / 25) / 2)
            inside = (rows - y) ** 2 + (columns - x) ** 2 < (height / 5) ** 2
            picture[inside] = disc[inside]
            picture += 4 * rng.standard_normal(picture.shape)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def clouds(rng: np.random.Generator, height: int, width: int, mean: float, deviation: float) -> np.ndarray:
    """Noise with the falling spectrum of natural images: float `(height, width, 3)`."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    noise = rng.standard_normal((3, height, width))
    picture = np.fft.ifft2(np.fft.fft2(noise) / frequency**1.2).real
    picture /= picture.std(axis=(1, 2), keepdims=True)
    return mean + deviation * picture.transpose(1, 2, 0)
