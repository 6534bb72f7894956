"""Image files behind the interface of video files: an image is a video with one frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.Image import Transpose

from revit_video.data.shards import local_file, open_bytes, shard_part
from revit_video.data.video import (
    LIMITS,
    DecodeError,
    Limits,
    VideoFile,
    decode_errors,
    is_out_of_memory,
    log_once,
    scaled,
)

# Of the suffixes in `IMAGE_SUFFIXES`. Among what else Pillow would read are formats that start programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

_UPRIGHT_BY_EXIF = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class ImageFile(VideoFile):
    """An image decoded by Pillow; its one frame is shown at any time.

    Rotated by its EXIF orientation. Transparency is dropped as in torchvision's loader, 16 bits become 8, and
    an animation gives its first frame.

    Raises:
        DecodeError: the file is missing, damaged or holds no image.
    """

    times = (Fraction(0),)
    duration = Fraction(0)

    def __init__(self, path: str, limits: Limits = LIMITS) -> None:
        self._path, self._limits = path, limits
        with decode_errors(path, limits):
            file, part = local_file(path), shard_part(path)
            source = open_bytes(part) if part else file
            try:
                with _warnings_logged(path), Image.open(source, formats=_FORMATS) as image:
                    limits.check_frame(path, image.height, image.width)
                    self._picture = _rgb(_upright(image))
            except DecodeError:
                raise
            except Exception as error:  # Pillow raises many types for damaged files
                if is_out_of_memory(error):
                    raise
                raise DecodeError(path, _reason(error)) from error

    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """As `VideoFile.read`: one copy of the image per entry of `frames`; scaled bicubically."""
        picture = self._picture
        size = picture.height, picture.width
        self._limits.check_clip(self._path, 1, *(size if short_side is None else scaled(*size, short_side)))
        if short_side is not None:
            height, width = scaled(picture.height, picture.width, short_side)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        frame = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return frame.unsqueeze(1).expand(-1, len(frames), -1, -1)

    def close(self) -> None:
        """Free the image."""
        self._picture.close()


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; no other tag is read, because any may be broken."""
    image.load()  # where its own errors are raised
    orientation = None
    with suppress(Exception):
        orientation = image.getexif().get(Base.Orientation)
    turn = _UPRIGHT_BY_EXIF.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


@contextmanager
def _warnings_logged(path: str) -> Iterator[None]:
    """Send Pillow's warnings to the log, once per file and process."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught):
        log_once(path, text)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        high_bytes = (np.array(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8)
        image = Image.fromarray(high_bytes)
    elif image.mode == "P":
        image = image.convert("RGBA")  # direct conversion warns about transparency
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """A Pillow error in one line, without the file name, which `DecodeError` adds."""
    if isinstance(error, Image.DecompressionBombError):
        return "it has more pixels than Pillow deems safe"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "damaged, or not an image"
    return f"damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})"
