"""ImageNet's training folders, and its validation images in folders or with each of the usual lists."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.prepare.files import listed, prepared, touch, write

TRAIN = [f"{synset}/{synset}_{n}.JPEG" for synset in ("n01440764", "n01443537", "n02012849") for n in (1, 2)]
VAL = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]
TRUTH = {
    "LOC_val_solution__csv": "ImageId,PredictionString\n"
    "ILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8\n"
    "ILSVRC2012_val_00000001,n02012849 1 2 3 4\n",
    "imagenet_2012_validation_synset_labels__txt": "n02012849\nn01440764\n",
    "val__txt": "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n",
}
IN_ONE_FOLDER = [*(f"train/{name}" for name in TRAIN), *(f"val/{name}" for name in VAL)]
EXPECTED = {VAL[0]: "n02012849", VAL[1]: "n01440764"}


@pytest.mark.parametrize("layout", ["train/{}", "ILSVRC/Data/CLS-LOC/train/{}", "ILSVRC2012_img_train/{}"])
def test_validation_folders(layout: str, tmp_path: Path) -> None:
    val = [f"n02012849/{VAL[0]}", f"n01440764/{VAL[1]}"]
    names = [layout.format(name) for name in TRAIN] + [
        layout.replace("train", "val").format(name) for name in val
    ]
    done = prepared(tmp_path, "imagenet", touch(tmp_path / "images", names))
    assert done.clips == {"train": 6, "val": 2, "test": 2} and listed(tmp_path, "val") == EXPECTED


@pytest.mark.parametrize("name", TRUTH)
def test_validation_images_in_one_folder(name: str, tmp_path: Path) -> None:
    annotations = write(
        tmp_path / "annotations",
        **{name: TRUTH[name]},
        LOC_synset_mapping__txt="n01440764 tench, Tinca tinca\nn01443537 goldfish\nn02012849 crane\n",
    )
    images = touch(tmp_path / "images", IN_ONE_FOLDER)
    done = prepared(tmp_path, "imagenet", images, annotations)
    assert list(done.classes) == ["n01440764 tench", "n01443537 goldfish", "n02012849 crane"]
    assert {name: label[:9] for name, label in listed(tmp_path, "val").items()} == EXPECTED


# MATLAB's format 5: synsets n02012849 (1), n01443537 (2) and n01440764 (3) with words and children.
META_MAT = (
    "TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IFRodSBOb3YgMjYgMDc6MTc6NTMgMjAy"
    "NgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAA3gAAAHic42NgYFjA"
    "zMDABqQ5gJiJAQJYoXxGIGaG0uxAXFyZV5xaUgyUZ2Hgg4pbALGnT3BYkLORgaFRvKcLQ7gfkICD8vyilGI4L680Nz45IzMn"
    "pSg1jwFsBkg/zH4+LPbDMAjwIIkzQNU7IOlnwaKfE0m9AJSfZwByq4WJJZI5FgTMYUUzB8RPLkrMS8Win1h/wAC5+pmQ9JMX"
    "DoYmJsamxuYkhAMHmjkgfnp+TkpaZnHGQIUDMzXCwcDczATJHA8C5gihmQPil6TmJWfoKIRk5iUnKpSASMr8BQMAyAkonw=="
)


def test_the_devkit(tmp_path: Path) -> None:
    images = touch(tmp_path / "images", IN_ONE_FOLDER)
    devkit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    write(devkit, ILSVRC2012_validation_ground_truth__txt="1\n3\n")
    with pytest.raises(ValueError, match="as the devkit's meta.mat does, which is not there"):
        prepared(tmp_path, "imagenet", images, devkit.parent)
    (devkit / "meta.mat").write_bytes(base64.b64decode(META_MAT))
    prepared(tmp_path, "imagenet", images, devkit.parent)
    assert listed(tmp_path, "val") == EXPECTED


def test_no_ground_truth(tmp_path: Path) -> None:
    images = touch(tmp_path / "images", IN_ONE_FOLDER)
    with pytest.raises(
        ValueError, match="the validation images lie in one folder, and their classes are not"
    ):
        prepared(tmp_path, "imagenet", images)
