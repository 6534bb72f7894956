"""How soon the guard against drift warns, on generated videos: `python tools/drift.py [MODEL]`.

Streams of new videos go through `predict_many`, as users' files do: like those that the demo's model was
calibrated on, with objects of other sizes, and with more noise.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import _environment  # noqa: F401

import revit_video
from revit_video.adaptive.drift import BLOCK
from revit_video.data.synthetic import CLASS_NAMES, ClipSpec, draw_spec, encode, render

SHIPPED = Path(revit_video.__file__).parent / "shipped" / "model.pyth"
FPS = 8


def resized(spec: ClipSpec, factor: float) -> ClipSpec:
    """The same clip with a larger or smaller object."""
    start, end = (replace(state, radius=factor * state.radius) for state in (spec.start, spec.end))
    return replace(spec, start=start, end=end)


STREAMS: dict[str, Callable[[ClipSpec], ClipSpec]] = {
    "as in training": lambda spec: spec,
    "objects of half the size": lambda spec: resized(spec, 0.5),
    "objects of twice the size": lambda spec: resized(spec, 2.0),
    "three times the noise": lambda spec: replace(spec, noise=3 * spec.noise),
    "eight times the noise": lambda spec: replace(spec, noise=8 * spec.noise),
}


def followed(model: Path, name: str, seed: int, videos: int) -> tuple[int | None, int]:
    """Videos of a stream until the guard warns, None if it does not; and how many are answered correctly."""
    predictor = revit_video.load(model, "cpu")
    warned, right = None, 0
    for first in range(0, videos, BLOCK):
        with TemporaryDirectory() as folder, warnings_of("revit_video.predict") as told:
            specs = [draw_spec(seed, "drift", n) for n in range(first, min(first + BLOCK, videos))]
            paths = [Path(folder) / f"{n}.mp4" for n in range(len(specs))]
            for path, spec in zip(paths, specs, strict=True):
                path.write_bytes(encode(render(STREAMS[name](spec)), FPS))
            answers = predictor.predict_many(paths)
            for seen, (spec, answer) in enumerate(zip(specs, answers, strict=True), first + 1):
                right += answer.classes[0][0] == CLASS_NAMES[spec.label]
                if warned is None and any("drift" in words for words in told):
                    warned = seen
    return warned, right


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """What a logger says meanwhile."""
    told: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger(name)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=SHIPPED, help="a run of the demo")
    parser.add_argument("--streams", type=int, default=5, help="of each kind")
    parser.add_argument("--videos", type=int, default=200, help="of a stream")
    arguments = parser.parse_args()
    for name in STREAMS:
        streams = [
            followed(arguments.model, name, 1000 + seed, arguments.videos)
            for seed in range(arguments.streams)
        ]
        alarms = sorted(warned for warned, _ in streams if warned is not None)
        after = f", after {alarms[0]} to {alarms[-1]} videos" if alarms else ""
        top1 = 100 * sum(right for _, right in streams) / (arguments.streams * arguments.videos)
        print(f"{name}: top-1 {top1:.1f} %; {len(alarms)} of {len(streams)} streams are warned of{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
