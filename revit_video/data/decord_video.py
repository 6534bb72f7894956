"""Videos decoded by decord, where it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torchvision.transforms.v2 import functional

from revit_video.data.video import VideoFile, decode_errors, local_file, scaled


class DecordVideo(VideoFile):
    """A video decoded by decord; prefer `PyAVVideo`.

    decord's random access is off by a few frames on MPEG-4 with B-frames, and it reads fewer formats.
    """

    def __init__(self, path: str) -> None:
        import decord  # has no wheel for some platforms

        self._path = path
        decord.logging.set_level(decord.logging.QUIET)
        with decode_errors(path):
            # By path: given a file object, decord can crash the process on a truncated file.
            self._reader = decord.VideoReader(local_file(path), num_threads=1)
            spans = self._reader.get_frame_timestamp(range(len(self._reader)))
        self.times = (spans[:, 0] - spans[0, 0]).tolist()
        self.duration = Fraction(float(spans[-1, 1] - spans[0, 0]))

    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """As `VideoFile.read`."""
        with decode_errors(self._path):
            pictures = self._reader.get_batch(list(frames)).asnumpy()
        clip = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        if short_side is not None:
            height, width = clip.shape[-2:]
            clip = functional.resize(clip, list(scaled(height, width, short_side)))
        return clip.transpose(0, 1)
