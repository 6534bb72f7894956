"""Video and image files: the times of their frames, and the wanted frames at the wanted size.

Also behind pytorchvideo's `Video` interface (`get_clip`).
"""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import torch
from pytorchvideo.data.video import Video

from revit_video.data.sampling import Seconds, Window, frames_in

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

logger = logging.getLogger(__name__)


class DecodeError(ValueError):
    """A file that cannot be decoded; `path` and a one-line `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Limits:
    """What one file may ask of the machine; a file that asks for more is refused.

    Attributes:
        megapixels: of a frame.
        aspect: of a frame's longer side, in shorter ones.
        gigabytes: GiB of memory that decoding takes; where it runs in a child process, the kernel sees to it.
    """

    megapixels: float = 150.0
    aspect: float = 32.0
    gigabytes: float = 4.0

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return int(self.megapixels * 1e6)

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self.gigabytes * 2**30)

    def check_frame(self, path: str, height: int, width: int) -> None:
        """DecodeError for a frame that is too large or too long."""
        if height * width > self.pixels:
            limit = f"the {self.megapixels:g} megapixels of DATA.MAX_MEGAPIXELS"
            raise DecodeError(path, f"{width} x {height} pixels are more than {limit}")
        if max(height, width) > self.aspect * min(height, width):
            limit = f"the {self.aspect:g}:1 of DATA.MAX_ASPECT"
            raise DecodeError(path, f"{width} x {height} pixels are longer than {limit}")

    def check_clip(self, path: str, frames: int, height: int, width: int) -> None:
        """DecodeError for frames that take too much memory together."""
        if 3 * frames * height * width > self.memory:
            raise self.out_of_memory(path, f"{frames} frames of {width} x {height} pixels")

    def out_of_memory(self, path: str, what: str = "decoding it") -> DecodeError:
        """The error of a file for which memory does not suffice."""
        limit = f"the {self.gigabytes:g} GiB of DATA.MAX_DECODING_GB"
        return DecodeError(path, f"{what} takes more memory than there is, or than {limit}")


LIMITS = Limits()


class VideoFile(Video):
    """Frames by number; by time through pytorchvideo's `get_clip`.

    Attributes:
        times: seconds at which each frame appears, ascending from 0.
        duration: seconds from the first frame's start to the last one's end.
    """

    times: Sequence[Seconds] = ()
    duration = Fraction(0)

    @abstractmethod
    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """Decode the frames with the given indices into `times`; any order, repeats allowed.

        Args:
            short_side: pixels of the shorter side, aspect ratio kept; None for the file's own size.

        Returns:
            uint8 (C, T, H, W), rotated as the file's metadata says.

        Raises:
            DecodeError: the frames cannot be decoded.
        """

    def get_clip(self, start_sec: Seconds, end_sec: Seconds) -> dict[str, torch.Tensor]:
        """All frames from `start_sec` (included) to `end_sec` (excluded), as {"video": (C, T, H, W)}.

        A window in which no new frame appears holds the one on screen at its start.
        """
        return {"video": self.read(frames_in(self.times, Window(start_sec, end_sec)))}


def is_image(path: str) -> bool:
    """Whether the file has the suffix of an image."""
    return path.lower().endswith(IMAGE_SUFFIXES)


@contextmanager
def decode_errors(path: str, limits: Limits = LIMITS) -> Iterator[None]:
    """Turn any exception of a reader into the file's `DecodeError`: no file may stop the others."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise limits.out_of_memory(path) from error
        raise DecodeError(path, _reason(error)) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, which torch tells by a RuntimeError."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


@cache
def log_once(path: str, text: str) -> None:
    """Log what is wrong with a file that is used nevertheless; once per process."""
    logger.info("%s: %s", path, text)


def _reason(error: Exception) -> str:
    """An error of the decoder in one line, without the file name that `DecodeError` adds."""
    if isinstance(error, (av.InvalidDataError, av.EOFError, IndexError)):
        return "damaged, truncated, or not a video"
    text = str(getattr(error, "strerror", None) or error).strip()
    # decord starts with the time of day and a path on the machine it was built on.
    text = re.sub(r"^(\[[\d:]+\] \S+: )+", "", text.splitlines()[0]) if text else ""
    if isinstance(error, (av.FFmpegError, OSError, LookupError)):
        return text or type(error).__name__
    return f"its reader failed: {type(error).__name__} {text}".rstrip()


def scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width once the shorter of them is `short_side`."""
    short = min(height, width)
    return round(height * short_side / short), round(width * short_side / short)
