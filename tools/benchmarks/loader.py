"""The training loader's clips per second: originals, resized and packed videos, against bare decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from benchmarks.decode import write_moving_texture
from benchmarks.timing import Effort, Measurement, Target, Timing, interleaved, ratio
from revit_video.data.clips import ClipSampling
from revit_video.data.datasets import TrainClips
from revit_video.data.lists import read_list
from revit_video.data.loader import BatchTransform, Loading, TrainBatches
from revit_video.data.order import TrainOrder
from revit_video.data.sampling import Window, clip_duration, random_window
from revit_video.data.shards import ffmpeg_url
from revit_video.data.transforms import Normalize, TrainTransform
from revit_video.prepare.pipeline import DatasetFiles, Steps, prepare_data
from revit_video.prepare.resize import Encoding
from revit_video.runtime.rng import seeded_generator

SIZE = 720, 1280  # height and width of the originals
SECONDS, FPS = 10, 30
CLIPS, BATCH_SIZE = 8, 2  # per epoch
WORKERS = 1, 2
OF_BARE_DECODING = Target(at_least=0.8)
RESIZED_FASTER = Target(at_least=2)


@dataclass(frozen=True)
class Recipe:
    """Training clips of a Kinetics config, and the copies that suit it."""

    num_frames: int
    sampling_rate: int
    crop_size: int
    short_sides: tuple[int, int]
    resized_to: int

    @property
    def duration(self) -> Fraction:
        return clip_duration(self.num_frames, self.sampling_rate, FPS)


RECIPES = {
    "8x224": Recipe(8, 32, 224, (256, 320), resized_to=320),
    "16x448": Recipe(16, 16, 448, (448, 512), resized_to=512),
}


def loader(device: torch.device, effort: Effort) -> list[Measurement]:
    """Times epochs of augmented training clips from generated 720p videos, their copies and shards of those.

    Wall-clock time of whole epochs, with persistent workers. Bare decoding, in this process, decodes the same
    windows: from the keyframe before each to its last frame, nothing converted.
    """
    rows: list[Measurement] = []
    with TemporaryDirectory() as folder:
        originals = Path(folder) / "originals" / "class"
        originals.mkdir(parents=True)
        write_moving_texture(originals / "video.mp4", SECONDS, SIZE)
        for name, recipe in effort.parts(RECIPES):
            rows += compare(name, recipe, sources(Path(folder), recipe), device, effort)
    return rows


def sources(folder: Path, recipe: Recipe) -> dict[str, str]:
    """Paths of the original, of its resized copy and of that in a shard."""
    resized = Steps(mine=0, val=0, test=0, resize=Encoding(recipe.resized_to))
    steps = {"resized": resized, "packed": replace(resized, shard_bytes=10**9)}
    paths = {"originals": str(folder / "originals" / "class" / "video.mp4")}
    for name, step in steps.items():
        out = folder / f"{name} {recipe.resized_to}"
        prepare_data(DatasetFiles("folder", str(folder / "originals")), str(out), step)
        paths[name] = read_list(str(out / "train.csv"))[0][0]
    return paths


def compare(
    name: str, recipe: Recipe, paths: dict[str, str], device: torch.device, effort: Effort
) -> list[Measurement]:
    """Clips per second of every source and number of workers, and what they are to bare decoding."""
    actions: dict[str, Callable[[], object]] = {}
    for source, path in paths.items():
        actions[f"{source}, bare"] = partial(decode_windows, path, recipe)
        for workers in WORKERS:
            actions[f"{source}, {workers}"] = partial(epoch, train_batches(path, recipe, workers, device))
    times = interleaved(actions, effort, device)
    rows = []
    for source in paths:
        bare = times[f"{source}, bare"]
        rows.append(per_second(f"{name}, {source}: bare decoding", bare))
        for workers in WORKERS:
            ours = times[f"{source}, {workers}"]
            each = Timing(tuple(workers * seconds for seconds in ours.seconds))
            label = f"{name}, {source}: {workers} worker{'s' * (workers > 1)}"
            rows.append(per_second(label, ours))
            rows.append(ratio(f"{label}, each, of bare decoding", bare, each, OF_BARE_DECODING))
    one = {source: times[f"{source}, 1"] for source in paths}
    rows.append(ratio(f"{name}: resized, of originals", one["originals"], one["resized"], RESIZED_FASTER))
    rows.append(ratio(f"{name}: packed, of resized", one["resized"], one["packed"]))
    clip_bytes = 3 * recipe.num_frames * recipe.crop_size**2
    rows.append(Measurement(f"{name}: sent from worker to rank", clip_bytes / 1e6, "MB/clip"))
    return rows


def per_second(name: str, timing: Timing) -> Measurement:
    return Measurement.of(name, [CLIPS / seconds for seconds in timing.seconds], "clips/s")


def train_batches(path: str, recipe: Recipe, workers: int, device: torch.device) -> TrainBatches:
    """The training loader as a run builds it: decoding in processes apart, normalised on the device."""
    videos = LabeledVideoPaths([(path, 0)] * CLIPS)
    sampling = ClipSampling(recipe.num_frames, recipe.duration)
    transform = TrainTransform(recipe.short_sides, recipe.crop_size, flip=True)
    clips = TrainClips(videos, sampling, transform, timeout=0)
    on_device = BatchTransform(Normalize([0.45] * 3, [0.225] * 3).to(device))
    return TrainBatches(clips, TrainOrder(CLIPS, BATCH_SIZE), on_device, Loading(device, workers))


def epoch(batches: TrainBatches) -> int:
    """Loads an epoch; returns the number of clips."""
    return sum(len(clips) for clips, *_ in batches(0))


def decode_windows(path: str, recipe: Recipe) -> None:
    """Decodes the windows of an epoch's clips."""
    for row in range(CLIPS):
        window = random_window(Fraction(SECONDS), recipe.duration, seeded_generator(0, 0, row, 0))
        decode_window(path, window)


def decode_window(path: str, window: Window) -> int:
    """Decodes from the keyframe before a window to its end; returns the number of frames."""
    with av.open(ffmpeg_url(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(window.start / (stream.time_base or 1)), stream=stream)
        stop = float(window.end - Fraction(3, 2 * FPS))
        before = sum(1 for _ in takewhile(lambda frame: frame.time < stop, container.decode(stream)))
    return before + 1
