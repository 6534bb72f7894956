"""Video and image files: the times of their frames, and the wanted frames at the wanted size.

Also behind pytorchvideo's `Video` interface (`get_clip`).
"""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
def decode_errors(path: str) -> Iterator[None]:
    """Turn any exception of a reader into the file's `DecodeError`: no file may stop the others."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(path, _reason(error)) from error


@cache
def log_once(path: str, text: str) -> None:
    """Log what is wrong with a file that is used nevertheless; once per process."""
    logger.info("%s: %s", path, text)


def _reason(error: Exception) -> str:
    """An error of the decoder in one line, without the file name that `DecodeError` adds."""
    if isinstance(error, (av.InvalidDataError, av.EOFError, IndexError)):
        return "damaged, truncated, or not a video"
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
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
