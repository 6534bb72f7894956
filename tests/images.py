"""Small images of three classes: discs and squares, red or blue, of any size, on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["blue disc", "red disc", "red square"]
SUFFIXES = [".png", ".jpg", ".JPEG", ".webp", ".bmp"]


def picture(kind: str, seed: int) -> Image.Image:
    """An image of class `kind`, each side 36 to 60 pixels."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(36, 61, 2)
    pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
    radius = int(generator.integers(5, 14))
    row, column = (int(generator.integers(radius, side - radius)) for side in (height, width))
    down, across = np.ogrid[:height, :width]
    down, across = abs(down - row), abs(across - column)
    inside = down**2 + across**2 < radius**2 if "disc" in kind else np.maximum(down, across) < radius
    pixels[inside] = (220, 40, 40) if "red" in kind else (40, 40, 220)
    return Image.fromarray(pixels)


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    """Writes `count` images per class, one folder per class, in all file formats; returns `folder`."""
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for n in range(first, first + count):
            file = folder / kind / f"{n:03d}{SUFFIXES[n % len(SUFFIXES)]}"
            picture(kind, n).save(file)
    return folder
