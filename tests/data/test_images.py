"""Images as videos of one frame."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader

from revit_video.data.clips import ClipSampling, ViewGrid, eval_views, train_view
from revit_video.data.images import ImageFile
from revit_video.data.transforms import TrainTransform
from revit_video.data.video import IMAGE_SUFFIXES, DecodeError, is_image
from revit_video.runtime.rng import seeded_generator
from tests.images import picture

SPEC = ClipSampling(num_frames=1, duration=Fraction(1))


def saved(path: Path, image: Image.Image, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def pixels(path: str) -> np.ndarray:
    """What `ImageFile` reads, `(H, W, C)`."""
    return ImageFile(path).get_clip(0, 1)["video"][:, 0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_pixels_are_those_of_torchvisions_loader(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{suffix}", picture("red disc", 0))
    assert is_image(path) and is_image(path.upper())
    assert np.array_equal(pixels(path), np.array(pil_loader(path)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_as_in_torchvisions_loader(mode: str, tmp_path: Path) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    path = saved(tmp_path / f"a{suffix}", picture("red disc", 0).convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode
    assert np.array_equal(pixels(path), np.array(pil_loader(path)))


def test_a_palette_with_transparent_colours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = picture("red disc", 0).convert("P")
    path = saved(tmp_path / "a.png", image, transparency=bytes(range(256)))
    with caplog.at_level("INFO"):
        assert np.array_equal(pixels(path), np.array(image.convert("RGB")))
    assert not caplog.messages, "Pillow warns of transparent colours"


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = saved(tmp_path / "a.png", Image.fromarray(grey * 257))
    assert np.array_equal(pixels(path), np.stack([grey.astype(np.uint8)] * 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int, tmp_path: Path) -> None:
    upright = np.array(picture("red disc", 0))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(pixels(path), upright)


def test_a_clip_is_the_picture_as_often_as_asked(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture("red disc", 0).resize((60, 40)))
    clip = ImageFile(path).read([0] * 5, short_side=20)
    assert clip.shape == (3, 5, 20, 30) and (clip == clip[:, :1]).all()
    views = eval_views(path, ClipSampling(num_frames=2, duration=Fraction(1)), ViewGrid(20, num_crops=3))
    assert views.clips.shape == (3, 3, 2, 20, 20) and torch.equal(views.clips[0], clip[:, :2, :, :20])
    assert torch.equal(views.clips[2], clip[:, :2, :, 10:])


def test_test_crops_may_be_cut_from_a_larger_scale(tmp_path: Path) -> None:
    image = picture("red disc", 0).resize((60, 48))
    path = saved(tmp_path / "a.png", image)
    views = eval_views(path, SPEC, ViewGrid(20, scale=24))
    expected = np.array(image.resize((30, 24), Image.Resampling.BICUBIC))[2:22, 5:25]
    assert np.array_equal(views.clips[0, :, 0].permute(1, 2, 0).numpy(), expected)


def test_a_training_view_is_a_function_of_its_generator(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", picture("red disc", 0))
    transform = TrainTransform((24, 30), 20, flip=True, areas=(0.1, 1))
    views = [train_view(path, SPEC, transform, False, seeded_generator(seed)).clips for seed in (1, 1, 2)]
    assert views[0].shape == (1, 3, 1, 20, 20)
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def jpeg(size: int = 300) -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data, "JPEG")
    return data.getvalue()


def png() -> bytes:
    data = io.BytesIO()
    picture("red disc", 0).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged, or not an image"),
        (b"no image", "damaged, or not an image"),
        (jpeg()[:5000], "damaged or truncated (image file is truncated"),
        (png()[:2000], "damaged or truncated ("),
        (png()[:60] + bytes(40) + png()[100:], "damaged or truncated ("),
    ],
)
def test_damage_is_one_line(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as raised:
        eval_views(str(path), SPEC, ViewGrid(20))
    assert str(raised.value).startswith(f"{path}: {reason}") and "\n" not in str(raised.value)


def test_no_file_and_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecodeError, match="nowhere.png: no such file"):
        ImageFile("nowhere.png")
    path = saved(tmp_path / "a.png", picture("red disc", 0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DecodeError, match="more pixels than Pillow deems safe"):
        ImageFile(path)


def odd_exif(orientation: int) -> bytes:
    """An orientation beside a rational of the wrong kind, which cannot be written back."""
    entries = [
        (0x0112, 3, 1, struct.pack(">HH", orientation, 0)),
        (0x011A, 2, 4, b"abc\0"),
        (0x9000, 99, 1, bytes(4)),
    ]
    body = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + bytes(4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_odd_exif_matters_only_where_it_tells_the_orientation(suffix: str, tmp_path: Path) -> None:
    image = picture("red disc", 0)
    options = {"quality": 100} | ({"lossless": True} if suffix == ".webp" else {})
    plain = pixels(saved(tmp_path / f"plain{suffix}", image, **options))
    turned = pixels(saved(tmp_path / f"odd{suffix}", image, exif=odd_exif(6), **options))
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_pillows_warnings_are_logged_once_per_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    path = saved(tmp_path / "a.jpg", picture("red disc", 0), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with caplog.at_level("INFO"):
        for _ in range(3):
            pixels(path)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"{path}: Corrupt EXIF data")
    assert "site-packages" not in caplog.text and not recwarn


def test_broken_exif_does_not_spoil_a_picture(tmp_path: Path) -> None:
    image = picture("red disc", 0)
    path = saved(tmp_path / "a.jpg", image, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert np.array_equal(pixels(path), np.array(pil_loader(path)))
