"""Sets of small images that come as a few files of pixels: CIFAR's python batches, and MNIST's files."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from revit_video.runtime.output_dir import replacing


class LabelledPixels(NamedTuple):
    """Images of one split.

    Attributes:
        pixels: `(N, H, W)` or `(N, H, W, 3)`, of bytes.
        labels: N numbers of `classes`.
    """

    split: str
    pixels: np.ndarray[Any, Any]
    labels: Sequence[int]
    classes: Sequence[str]


def unpack(dataset: str, folder: str, out: str) -> tuple[list[Path], str]:
    """Writes the images of `dataset` as `out/<split>/<class>/00012.png`; those that are there stay.

    Args:
        dataset: a key of `PACKED`.

    Returns:
        The files that were read, and `out`.

    Raises:
        ValueError: `folder` holds no such files, or they are not what they should be.
    """
    files = {path.name: path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    used: list[Path] = []
    for part in PACKED[dataset](folder, files, used):
        for number, (image, label) in enumerate(zip(part.pixels, part.labels, strict=True)):
            path = os.path.join(out, part.split, _folder_name(part.classes[label]), f"{number:05d}.png")
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with replacing(path, "wb", sync=False) as file:
                    Image.fromarray(image).save(file, "png")
    return used, out


def _folder_name(name: str) -> str:
    return name.replace(os.sep, "_").lstrip(".") or "_"


# ---- CIFAR -----------------------------------------------------------------------------------------------

Layout = tuple[str, str, dict[str, list[str]]]
CIFAR: dict[str, Layout] = {  # by the file of names: the keys of names and of labels, the files of each split
    "batches.meta": (
        "label_names",
        "labels",
        {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]},
    ),
    "meta": ("fine_label_names", "fine_labels", {"train": ["train"], "test": ["test"]}),
}


def read_cifar(folder: str, files: dict[str, Path], used: list[Path]) -> Iterator[LabelledPixels]:
    """CIFAR-10's or CIFAR-100's python version: pickles, of which nothing is run."""
    meta = next((name for name in CIFAR if name in files), "")
    if not meta:
        raise ValueError(f"--videos: {folder!r} holds neither batches.meta (CIFAR-10) nor meta (CIFAR-100)")
    names_key, labels_key, splits = CIFAR[meta]
    classes = [_text(name) for name in _entry(files[meta], names_key)]
    for split, names in splits.items():
        if absent := [name for name in names if name not in files]:
            raise ValueError(f"--videos: {folder!r} lacks {', '.join(absent)}")
        used += [files[name] for name in names]
        pixels = np.concatenate([_entry(files[name], "data") for name in names])
        labels = [label for name in names for label in _entry(files[name], labels_key)]
        _check(files[names[0]], len(pixels), labels, len(classes))
        yield LabelledPixels(split, pixels.transpose(0, 2, 3, 1), labels, classes)


def _entry(path: Path, key: str) -> Any:
    """The value of `key` in a pickled dictionary."""
    try:
        with path.open("rb") as file:
            content: Any = Plain(file, encoding="bytes").load()
        value = {_text(name): value for name, value in content.items()}[key]
        return value.images() if isinstance(value, Pixels) else value
    except Exception as error:  # pickles of any content raise any kind
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: no batch of CIFAR's python version: {what}") from None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Pixels:
    """An array of numpy's in a pickle: its shape and bytes."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def images(self) -> np.ndarray[Any, Any]:
        """`(N, 3, 32, 32)`, each row of the array an image."""
        _, (count, size), _, by_columns, content = self.state
        rows = np.frombuffer(content, np.uint8).reshape((count, size), order="F" if by_columns else "C")
        return rows.reshape(count, 3, 32, 32)


class Plain(pickle.Unpickler):
    """Reads plain values, and arrays of numpy as `Pixels`; nothing that a pickle names is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return Pixels
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


# ---- MNIST -----------------------------------------------------------------------------------------------

LARGEST = 1 << 30  # bytes of a file; MNIST's has 47 MB


def read_mnist(folder: str, files: dict[str, Path], used: list[Path]) -> Iterator[LabelledPixels]:
    """MNIST's files, also of Fashion-MNIST, KMNIST: `train-images-idx3-ubyte`, or with `.gz`."""
    for split, start in (("train", "train"), ("test", "t10k")):
        found = [
            next((files[name + end] for end in ("", ".gz") if name + end in files), None)
            for name in (f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte")
        ]
        if None in found:
            raise ValueError(
                f"--videos: {folder!r} lacks {start}-images-idx3-ubyte or {start}-labels-idx1-ubyte"
            )
        images, labels = (path for path in found if path)
        used += [images, labels]
        numbers = _idx(labels, 1).tolist()
        pixels = _idx(images, 3)
        _check(images, len(pixels), numbers, 10)
        yield LabelledPixels(split, pixels, numbers, [str(n) for n in range(10)])


def _idx(path: Path, dimensions: int) -> np.ndarray[Any, Any]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            kind, *shape = struct.unpack(f">{1 + dimensions}I", file.read(4 + 4 * dimensions))
            count = math.prod(shape)
            content = file.read(min(count + 1, LARGEST))
    except (OSError, EOFError, struct.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    if kind != 0x800 + dimensions or len(content) != count:
        raise ValueError(f"{path}: not {dimensions} dimensions of bytes, or cut short")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _check(path: Path, count: int, labels: Sequence[int], classes: int) -> None:
    if len(labels) != count or not all(type(label) is int and 0 <= label < classes for label in labels):
        raise ValueError(f"{path}: {count} images, and {len(labels)} labels, not all of them below {classes}")


PACKED = {"cifar": read_cifar, "mnist": read_mnist}
