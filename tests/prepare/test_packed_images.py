"""CIFAR's and MNIST's files become folders of images, pixel by pixel; nothing that a pickle names is run."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.prepare.files import data_yaml, listed, prepared

NAMES = [*("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")]
RANDOM = np.random.default_rng(0)


def save(path: Path, content: dict[str, Any], protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def python_2(content: dict[str, Any], pixels: np.ndarray[Any, Any]) -> bytes:
    """As the official files: keys, and the array's content, are byte strings."""
    written = pickle.dumps(content | {"data": b"PIXELS"}, protocol=2)
    assert b"c_codecs\nencode\n" in written
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01M"
        + struct.pack("<H", len(pixels))
        + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T"
        + struct.pack("<i", pixels.nbytes)
        + pixels.tobytes()
        + b"tb"
    )
    body = b"".join(
        b"U"
        + bytes([len(key)])
        + key.encode()
        + (array if key == "data" else pickle.dumps(content[key], 2)[2:-1])
        for key in ("data", *content)
    )
    return b"\x80\x02}(" + body + b"u."


def cifar_10(folder: Path, per_batch: int = 20) -> np.ndarray[Any, Any]:
    folder.mkdir(parents=True)
    save(folder / "batches.meta", {"label_names": NAMES})
    everything = []
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pixels = RANDOM.integers(0, 256, (per_batch, 3072), np.uint8)
        labels = [n % 10 for n in range(per_batch)]
        if name == "data_batch_1":
            (folder / name).write_bytes(python_2({"labels": labels}, pixels))
        else:
            save(
                folder / name, {"data": pixels, "labels": labels}, protocol=2 if name < "data_batch_3" else 4
            )
        everything.append(pixels)
    return np.concatenate(everything).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar_10(tmp_path: Path) -> None:
    pixels = cifar_10(tmp_path / "data" / "cifar-10-batches-py")
    done = prepared(tmp_path, "cifar", tmp_path / "data", mine=0.1, val=0.2)
    assert done.clips == {"train": 70, "mine": 10, "val": 20, "test": 20} and not done.leaks
    assert list(done.classes) == NAMES and not done.same_list
    image = Image.open(tmp_path / "out" / "images" / "train" / "bird" / "00042.png")
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), pixels[42])
    first = Image.open(tmp_path / "out" / "images" / "train" / "airplane" / "00000.png")
    assert np.array_equal(np.asarray(first), pixels[0])  # of the batch in Python 2's words
    assert len(data_yaml(tmp_path)["annotations"]) == 6
    assert set(listed(tmp_path, "test").values()) == set(NAMES)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}
    prepared(tmp_path, "cifar", tmp_path / "data", mine=0.1, val=0.2)  # again: nothing is written twice
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").rglob("*.png")}


def test_cifar_100_by_its_fine_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    save(folder / "meta", {"fine_label_names": ["apple", "pickup_truck"], "coarse_label_names": ["all"]})
    for name in ("train", "test"):
        pixels = RANDOM.integers(0, 256, (8, 3072), np.uint8)
        save(folder / name, {"data": pixels, "fine_labels": [0, 1] * 4, "coarse_labels": [0] * 8})
    done = prepared(tmp_path, "cifar", folder, val=0.25)
    assert done.clips == {"train": 6, "val": 2, "test": 8} and list(done.classes) == ["apple", "pickup_truck"]


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]},
            "2 images, and 2 labels, not all of them below",
        ),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "images, and .* labels, not all"),
        ({"data": np.zeros((2, 3000), np.uint8), "labels": [0, 1]}, "no batch of CIFAR's python version"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "no batch of CIFAR's python version"),
        ({"data": np.zeros((2, 3072), object), "labels": [0, 1]}, "no batch of CIFAR's python version"),
        ({"data": RunsCode}, "no batch of CIFAR's python version: UnpicklingError: it holds a "),
        ({"labels": [0, 1]}, "no batch of CIFAR's python version: KeyError: 'data'"),
        (None, "lacks test_batch"),
    ],
)
def test_what_is_no_batch(content: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    cifar_10(tmp_path / "data", per_batch=10)
    batch = tmp_path / "data" / "test_batch"
    if content is None:
        batch.unlink()
    elif content.get("data") is RunsCode:
        save(batch, {"data": RunsCode(tmp_path / "made")})
    else:
        save(batch, content)
    with pytest.raises(ValueError, match=message) as error:
        prepared(tmp_path, "cifar", tmp_path / "data")
    assert not (tmp_path / "made").exists() and "\n" not in str(error.value)


def test_mnist(tmp_path: Path) -> None:
    data, pixels = tmp_path / "data", RANDOM.integers(0, 256, (40, 28, 28), np.uint8)
    data.mkdir()
    for start, part in (("train", pixels[:30]), ("t10k", pixels[30:])):
        labels = bytes(n % 10 for n in range(len(part)))
        header = struct.pack(">4I", 0x803, len(part), 28, 28)
        (data / f"{start}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + part.tobytes()))
        (data / f"{start}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(part)) + labels)
    done = prepared(tmp_path, "mnist", data, val=0.3)
    assert done.clips == {"train": 20, "val": 10, "test": 10} and list(done.classes) == list("0123456789")
    image = Image.open(tmp_path / "out" / "images" / "train" / "7" / "00017.png")
    assert np.array_equal(np.asarray(image), pixels[17])
    (data / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 11) + bytes(10))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte: not 1 dimensions of bytes, or cut short"):
        prepared(tmp_path, "mnist", data)
    (data / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="lacks t10k-images-idx3-ubyte or t10k-labels"):
        prepared(tmp_path, "mnist", data)
