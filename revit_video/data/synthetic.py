"""Synthetic action videos: one object that moves or changes size over a drifting background.

The class is the motion. Small objects need a long token length and large ones do not. Every clip is a
function of `(seed, split, index)`.

A single frame does not give the class away. Positions are uniform on a ring slightly longer than the frame:
an object that leaves on one side re-enters on the other, so its position in any frame is independent of the
class. Radii cannot wrap, so a very small or very large object in the first or last frame hints at the class;
`tests/data/test_synthetic.py` measures how much. Every class played backwards is exactly its opposite.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import multiprocessing
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from revit_video.runtime.output_dir import replacing, write_csv
from revit_video.runtime.termination import deaf_children

CLASS_NAMES = ("left", "right", "up", "down", "grow", "shrink")
DEFAULT_COUNTS: Mapping[str, int] = {"train": 3600, "mine": 2400, "val": 2400, "test": 1200}

# Sizes and distances are fractions of the frame's side.
RADIUS_RANGE = (0.02, 0.30)  # log-uniform ...
SMALL_RADIUS_RANGE = (0.02, 0.032)  # ... but this share of the clips is log-uniform in here:
SMALL_SHARE = 0.3  # (movements only: with growing or shrinking, the extra small radii would reveal the class)
DISTANCE_RANGE = (0.08, 0.14)  # of a small object; a large one moves DISTANCE_PER_RADIUS radii further
DISTANCE_PER_RADIUS = 0.8
GROWTH_RANGE = (1.5, 2.0)  # last radius / first radius of `grow`
GAP_PER_RADIUS = 1.0  # the ring is this many radii longer than the frame
JITTER_SHIFT = 0.04  # every class: largest shift that is not the class's own motion
JITTER_GROWTH = 1.12  # likewise, change of radius
NOISE = 7.0  # standard deviation of the noise, grey levels
TEXTURE = 8.0  # of the background's texture

Clip = tuple[str, "ClipSpec"]  # path inside the data directory, and parameters
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_MANIFEST = "synthetic.json"


@dataclass(frozen=True)
class State:
    """Position and radius of the object: fractions of the frame's side, y pointing down, not yet wrapped."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class ClipSpec:
    """Parameters of one clip, apart from its size and number of frames."""

    label: int  # index into CLASS_NAMES
    start: State
    end: State
    ring: float  # length of the ring of positions, as a fraction of the frame's side
    pace: float  # -1..1: slow-fast-slow or fast-slow-fast; looks the same backwards
    shape: tuple[tuple[float, float], ...]  # amplitude (of the radius) and phase of harmonics 2, 3, ...
    turn: tuple[float, float]  # angle of the object in the first and last frame, radians
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]  # RGB 0..255, of the two halves
    background: tuple[float, float, float]  # mean RGB 0..255
    drift: tuple[float, float]  # x and y shift of the background over the clip
    texture: float
    noise: float
    seed: int  # of texture and noise

    @property
    def radius(self) -> float:
        """The object's radius halfway through the clip."""
        return (self.start.radius * self.end.radius) ** 0.5


def draw_spec(seed: int, split: str, index: int) -> ClipSpec:
    """Clip `index` of a split; class labels alternate, and each (seed, split) has its own random stream."""
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    label = index % len(CLASS_NAMES)
    start, end, ring = _draw_path(rng, CLASS_NAMES[label])
    angle = rng.uniform(0, 2 * np.pi)
    hue = rng.random()
    return ClipSpec(
        label=label,
        start=start,
        end=end,
        ring=ring,
        pace=rng.uniform(-0.4, 0.4),
        shape=tuple((rng.uniform(0, 0.2) / (k - 1) ** 0.5, rng.uniform(0, 2 * np.pi)) for k in range(2, 6)),
        turn=(angle, angle + rng.uniform(-0.6, 0.6)),
        colours=(_bright(rng, hue), _bright(rng, hue + rng.uniform(0.25, 0.75))),
        background=tuple(rng.uniform(20, 50, 3).tolist()),
        drift=tuple(rng.uniform(-0.15, 0.15, 2).tolist()),
        texture=TEXTURE,
        noise=NOISE,
        seed=int(rng.integers(2**32)),
    )


def _draw_path(rng: np.random.Generator, name: str) -> tuple[State, State, float]:
    """First state, last state and length of the ring, drawn symmetrically around the middle of the clip."""
    moves = name in _DIRECTIONS
    low, high = SMALL_RADIUS_RANGE if moves and rng.random() < SMALL_SHARE else RADIUS_RANGE
    radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    ring = 1 + GAP_PER_RADIUS * radius
    x, y = rng.uniform(0, ring, 2).tolist()
    shift = rng.uniform(-JITTER_SHIFT, JITTER_SHIFT, 2)
    growth = float(np.exp(rng.uniform(-1, 1) * np.log(JITTER_GROWTH)))
    if moves:
        direction = np.array(_DIRECTIONS[name])
        distance = rng.uniform(*DISTANCE_RANGE) + DISTANCE_PER_RADIUS * radius
        shift = np.where(direction == 0, shift, direction * distance)
    else:
        growth = rng.uniform(*GROWTH_RANGE)
        growth = growth if name == "grow" else 1 / growth
    (dx, dy), half = (shift / 2).tolist(), growth**0.5
    return State(x - dx, y - dy, radius / half), State(x + dx, y + dy, radius * half), ring


def _bright(rng: np.random.Generator, hue: float) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.15, 0.65), rng.uniform(0.85, 1))
    return 255 * red, 255 * green, 255 * blue


def render(spec: ClipSpec, size: int = 96, num_frames: int = 16) -> np.ndarray:
    """The clip as uint8 RGB, (T, H, W, 3) with H = W = `size`."""
    rng = np.random.default_rng(spec.seed)
    time = np.linspace(0, 1, num_frames) if num_frames > 1 else np.full(1, 0.5)
    grey = spec.texture * _texture(rng, time, spec.drift, size)
    grey += spec.noise * rng.standard_normal((num_frames, size, size), dtype=np.float32)
    noise = grey[..., None]
    frames = noise + np.asarray(spec.background, np.float32)
    along = time + spec.pace * np.sin(2 * np.pi * time) / (2 * np.pi)
    xs = spec.start.x + along * (spec.end.x - spec.start.x)
    ys = spec.start.y + along * (spec.end.y - spec.start.y)
    radii = spec.start.radius * (spec.end.radius / spec.start.radius) ** along
    angles = spec.turn[0] + time * (spec.turn[1] - spec.turn[0])
    for frame, grain, x, y, radius, angle in zip(frames, noise, xs, ys, radii, angles, strict=True):
        reach = radius * (1 + sum(amplitude for amplitude, _ in spec.shape)) + 1 / size
        for left in _seen(x, reach, spec.ring):
            for top in _seen(y, reach, spec.ring):
                _draw_object(frame, grain, spec, size * np.array([left, top, radius, reach]), angle)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, time: np.ndarray, drift: tuple[float, float], size: int) -> np.ndarray:
    """A smooth random pattern of unit variance that drifts, (T, H, W): a sum of low-frequency waves."""
    frequency = np.arange(-5, 6)
    strength = 1 / (1 + np.hypot(frequency[:, None], frequency))
    waves = strength * (rng.standard_normal((11, 11)) + 1j * rng.standard_normal((11, 11)))
    waves /= np.sqrt(np.sum(strength**2))
    place = np.arange(size) / size
    across = np.exp(2j * np.pi * frequency * (place - drift[0] * time[:, None])[..., None])  # (T, W, 11)
    down = np.exp(2j * np.pi * frequency * (place - drift[1] * time[:, None])[..., None])  # (T, H, 11)
    left = (down @ waves).astype(np.complex64)
    right = across.transpose(0, 2, 1).astype(np.complex64)
    return left.real @ right.real - left.imag @ right.imag


def _seen(place: float, reach: float, ring: float) -> list[float]:
    """Coordinates in the frame 0..1 at which an object of half-width `reach` on the ring is visible."""
    first = place % ring
    return [at for at in (first - ring, first, first + ring) if -reach < at < 1 + reach]


def _draw_object(
    frame: np.ndarray, grain: np.ndarray, spec: ClipSpec, place: np.ndarray, angle: float
) -> None:
    """Draw the object into `frame` (H, W, 3) with soft edges; modifies only its bounding box.

    Args:
        place: x, y, radius and reach (half the box), pixels.
    """
    x, y, radius, reach = place
    size = len(frame)
    rows = slice(max(0, int(y - reach)), max(0, min(size, int(y + reach) + 1)))
    columns = slice(max(0, int(x - reach)), max(0, min(size, int(x + reach) + 1)))
    down = np.arange(rows.start, rows.stop)[:, None] + 0.5 - y
    across = np.arange(columns.start, columns.stop) + 0.5 - x
    theta = np.arctan2(down, across) - angle
    outline = np.ones_like(theta)
    for harmonic, (amplitude, phase) in enumerate(spec.shape, start=2):
        outline += amplitude * np.cos(harmonic * theta + phase)
    inside = np.clip(radius * outline - np.hypot(down, across) + 0.5, 0, 1)[..., None]
    half = np.clip(down * np.cos(angle) - across * np.sin(angle) + 0.5, 0, 1)[..., None]
    one, two = np.asarray(spec.colours)
    box = frame[rows, columns]
    box += inside * (one + half * (two - one) + grain[rows, columns] - box)


def encode(frames: np.ndarray, fps: int) -> bytes:
    """uint8 RGB frames (T, H, W, 3) as an mp4 file: H.264, crf 23; the same bytes each time."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # x264's look-ahead uses uninitialised memory, so output bytes vary. This tune has no look-ahead.
        stream.options = {"preset": "veryfast", "crf": "23", "threads": "1", "tune": "zerolatency"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def write_dataset(
    directory: str | Path,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    seed: int = 0,
    size: int = 96,
    num_frames: int = 16,
    fps: int = 8,
    processes: int | None = None,
    progress: Callable[[Iterable[None], int], Iterable[None]] = lambda steps, total: steps,
) -> None:
    """Write `<split>/<index>_<class>.mp4`, the lists `<split>.csv`, `classes.txt` and `specs.csv`.

    Existing clips are kept, so an interrupted run resumes and larger counts add clips. Paths in the lists are
    relative to `directory`.

    Args:
        counts: clips of each split.
        size: side of the square frames, pixels; even, for H.264.
        processes: default one per core; 1 writes in this process.
        progress: `(iterable, total) -> iterable`, such as tqdm, around the clips still to be written.

    Raises:
        ValueError: `directory` holds clips made with other arguments, or the size is odd.
    """
    if size < 2 or size % 2:
        raise ValueError(f"frames of {size} px cannot be encoded: the side must be even")
    if min(num_frames, fps) < 1:
        raise ValueError(f"a clip has at least 1 frame at 1 frame a second, not {num_frames} at {fps}")
    root = Path(directory).expanduser()
    _claim(root, {"seed": seed, "size": size, "num_frames": num_frames, "fps": fps})
    splits: dict[str, list[Clip]] = {}
    for split, count in counts.items():
        (root / split).mkdir(exist_ok=True)
        splits[split] = [(clip_path(split, i), draw_spec(seed, split, i)) for i in range(count)]
    clips = chain.from_iterable(splits.values())
    missing = [(root / path, spec) for path, spec in clips if not (root / path).exists()]
    work = partial(_write_clip, size=size, num_frames=num_frames, fps=fps)
    if processes == 1 or len(missing) < 2:
        for _ in progress(map(work, missing), len(missing)):
            pass
    else:
        # spawn: a fork of a process that has run torch's threads can hang
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            try:
                with deaf_children():  # they finish their files
                    written = pool.map(work, missing, chunksize=16)
                for _ in progress(written, len(missing)):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    _write_lists(root, splits)


def clip_path(split: str, index: int) -> str:
    """Path of a clip inside the data directory."""
    return f"{split}/{index:05d}_{CLASS_NAMES[index % len(CLASS_NAMES)]}.mp4"


def _claim(root: Path, arguments: dict[str, int]) -> None:
    """Store the arguments in `root`; raise ValueError if its clips were made with others."""
    drawn = [[round(value, 6) for value in _numbers(draw_spec(0, "", i))] for i in range(60)]
    asked = arguments | {"generator": hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]}
    manifest = root / _MANIFEST
    root.mkdir(parents=True, exist_ok=True)
    if manifest.exists():
        there = json.loads(manifest.read_bytes())
        differ = [f"{k} {there.get(k)} (asked: {v})" for k, v in asked.items() if there.get(k) != v]
        if differ:
            made = ", ".join(differ)
            raise ValueError(f"{root} holds clips made with {made}; delete it or choose another directory")
    elif any(root.iterdir()):
        raise ValueError(f"{root} is not empty and not a directory of generated clips; choose another one")
    else:
        _write_whole(manifest, json.dumps(asked).encode())


def _numbers(nested: Any) -> Iterable[float]:
    """All numbers in a spec, in order."""
    if isinstance(nested, ClipSpec):
        nested = astuple(nested)
    return chain.from_iterable(map(_numbers, nested)) if isinstance(nested, tuple) else [nested]


def _write_clip(job: tuple[Path, ClipSpec], size: int, num_frames: int, fps: int) -> None:
    path, spec = job
    _write_whole(path, encode(render(spec, size, num_frames), fps))


def _write_whole(path: Path, content: bytes) -> None:
    with replacing(str(path), "wb", sync=False) as file:
        file.write(content)


def _write_lists(root: Path, splits: Mapping[str, Sequence[Clip]]) -> None:
    columns = [f"{when}_{what}" for when in ("start", "end") for what in ("x", "y", "radius")]
    table = []
    for split, clips in splits.items():
        listed = "".join(f"{path} {spec.label}\n" for path, spec in clips)
        _write_whole(root / f"{split}.csv", listed.encode())
        for path, spec in clips:
            states = (f"{value:.5f}" for value in (spec.radius, *astuple(spec.start), *astuple(spec.end)))
            table.append([split, path, spec.label, *states])
    write_csv(str(root / "specs.csv"), ["split", "video", "label", "radius", *columns], table)
    _write_whole(root / "classes.txt", "".join(f"{name}\n" for name in CLASS_NAMES).encode())
