"""Write generated images of objects of many sizes: `python tools/make_images.py DIRECTORY`.

An object of the action videos on their background, of one colour, or of two that meet in a vertical or in a
horizontal line. The smaller it is, the more tokens tell which: with `--radius 0.3 0.4` all objects are large
and a short token length does.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import _environment  # noqa: F401
import numpy as np
from PIL import Image

from revit_video.data.synthetic import State, draw_spec, render

CLASSES = {"one colour": 0.0, "side by side": np.pi / 2, "one on the other": 0.0}  # angle of the line
SIZE = 96  # pixels


def picture(index: int, radii: tuple[float, float], seed: int) -> np.ndarray:
    """Image `index` as uint8 RGB `(H, W, 3)`; classes alternate.

    Args:
        radii: smallest and largest radius of an object, fractions of the image's side; log-uniform.
    """
    rng = np.random.default_rng([seed, index])
    spec = draw_spec(seed, "image", index)
    name, angle = list(CLASSES.items())[index % len(CLASSES)]
    radius = float(np.exp(rng.uniform(*np.log(radii))))
    place = State(*rng.uniform(radius, 1 - radius, 2).tolist(), radius)
    colours = spec.colours if name != "one colour" else (spec.colours[0],) * 2
    return render(replace(spec, start=place, end=place, turn=(angle, angle), colours=colours), SIZE, 1)[0]


def write_images(directory: Path, count: int, radii: tuple[float, float], seed: int) -> None:
    """Writes `count` images, in a folder per class."""
    for index in range(count):
        folder = directory / list(CLASSES)[index % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index, radii, seed)).save(folder / f"{index:05d}.png")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="a new folder")
    parser.add_argument("--count", type=int, default=3000, help="images, of all classes")
    parser.add_argument("--radius", type=float, nargs=2, default=(0.05, 0.35), metavar=("LOW", "HIGH"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.directory.exists() and any(arguments.directory.iterdir()):
        print(f"make_images: {arguments.directory} is not empty; choose another one", file=sys.stderr)
        return 2
    if not 0 < arguments.radius[0] <= arguments.radius[1] < 0.5:
        print("make_images: --radius takes two numbers between 0 and 0.5, in order", file=sys.stderr)
        return 2
    write_images(arguments.directory, arguments.count, tuple(arguments.radius), arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
