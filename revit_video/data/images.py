"""Image files behind the interface of video files: an image is a video of one frame."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pytorchvideo.data.video import Video

from revit_video.data.video import DecodeError, FrameChooser, local_file, scaled

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_image(path: str) -> bool:
    """Whether the file's name ends like an image's."""
    return path.lower().endswith(IMAGE_SUFFIXES)


class ImageFile(Video):
    """An image decoded by Pillow; its one frame is on screen at any time.

    The picture is turned as its EXIF data ask for. Transparency is dropped, as torchvision's loader does it;
    16 bits become 8; of an animation the first frame counts.

    Raises:
        DecodeError: the file is missing, damaged or holds no image.
    """

    duration = Fraction(0)

    def __init__(self, path: str) -> None:
        file = local_file(path)
        try:
            with Image.open(file) as image:
                self._picture = _rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # of damaged files Pillow raises whatever its parsers stumble over
            raise DecodeError(path, _reason(error)) from error

    def get_clip(
        self,
        start_sec: float | Fraction,
        end_sec: float | Fraction,
        choose: FrameChooser | None = None,
        short_side: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """As `PyAVVideo.get_clip`: the picture, as often as `choose` asks for it; scaled bicubically."""
        picture = self._picture
        if short_side is not None:
            height, width = scaled(picture.height, picture.width, short_side)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        count = 1 if choose is None else len(choose(1))
        frame = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return {"video": frame.unsqueeze(1).expand(-1, count, -1, -1)}

    def close(self) -> None:
        """Let go of the picture."""
        self._picture.close()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        high_bytes = (np.array(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8)
        image = Image.fromarray(high_bytes)
    elif image.mode == "P":
        image = image.convert("RGBA")  # in one step, Pillow warns of transparent colours
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """An error of Pillow in one line, without the file name that `DecodeError` adds."""
    if isinstance(error, Image.DecompressionBombError):
        return "it has more pixels than Pillow deems safe"
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "damaged, or not an image"
    return f"damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})"
