"""Frames that are in memory already, behind the interface of video files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from revit_video.data.sampling import Seconds
from revit_video.data.video import VideoFile, scaled

Frames = np.ndarray | Tensor | Sequence[Any]
"""(T, H, W, 3) or (T, 3, H, W), uint8; or T frames of PyAV, or T arrays or tensors."""


class FrameArray(VideoFile):
    """T frames at a constant rate.

    Args:
        duration: seconds that all frames together are shown.
    """

    def __init__(self, frames: Frames, duration: Seconds) -> None:
        self._frames = _as_array(frames)
        self.duration = Fraction(duration)
        self.times = [self.duration * n / len(self._frames) for n in range(len(self._frames))]

    def read(self, frames: Sequence[int], short_side: int | None = None) -> Tensor:
        """As `VideoFile.read`; scaled by the scaler of video files."""
        pictures = {n: _picture(self._frames[n], short_side) for n in set(frames)}
        return torch.from_numpy(np.stack([pictures[n] for n in frames])).permute(3, 0, 1, 2)

    def close(self) -> None:
        """Nothing is open."""


def _picture(frame: np.ndarray, short_side: int | None) -> np.ndarray:
    height, width, _ = frame.shape
    if short_side in (None, min(height, width)):
        return frame
    high, wide = scaled(height, width, short_side)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(wide, high).to_ndarray()


def _as_array(frames: Frames) -> np.ndarray:
    """uint8 (T, H, W, 3); ValueError for anything else."""
    if isinstance(frames, Sequence):
        frames = np.stack([_one(frame) for frame in frames]) if len(frames) else np.empty(0)
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if array.ndim == 4 and array.shape[-1] != 3 and array.shape[1] == 3:
        array = array.transpose(0, 2, 3, 1)  # torchvision's TCHW
    if array.ndim != 4 or array.shape[-1] != 3 or not array.size or array.dtype != np.uint8:
        raise ValueError(
            f"frames must be uint8 (T, H, W, 3) or (T, 3, H, W), got {array.dtype} {tuple(array.shape)}"
        )
    return array


def _one(frame: Any) -> np.ndarray:
    if isinstance(frame, av.VideoFrame):
        return frame.to_ndarray(format="rgb24")
    return frame.detach().cpu().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
