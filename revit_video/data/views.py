"""From a video or image file to views: sampled, decoded, augmented or cropped clips."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import torch

from revit_video.data.batch import Views
from revit_video.data.images import ImageFile, is_image
from revit_video.data.sampling import RandomClips, clip_frame_indices, order_frames, uniform_clips
from revit_video.data.transforms import TrainTransform, spatial_crops
from revit_video.data.video import DecordVideo, PyAVVideo, open_video


@dataclass(frozen=True)
class ClipSpec:
    """What a clip is, in training and in evaluation."""

    num_frames: int
    duration: Fraction  # seconds, see `sampling.clip_duration`
    frame_order: str = "time"  # one of sampling.FRAME_ORDERS
    backend: str = "pyav"  # one of video.DECODING_BACKENDS
    test_scale: int = 0  # px, short side that evaluation cuts its crops from; 0: the crop's own


def open_file(path: str, backend: str = "pyav") -> PyAVVideo | DecordVideo | ImageFile:
    """A video, or an image where the file's name ends like one's.

    Raises:
        DecodeError: the file cannot be read.
    """
    return ImageFile(path) if is_image(path) else open_video(path, backend)


def random_view(
    path: str, spec: ClipSpec, transform: TrainTransform, frame_jitter: bool, generator: torch.Generator
) -> Views:
    """One augmented clip from a random place of a video, or an image; every draw comes from `generator`.

    Raises:
        DecodeError: the video cannot be read.
    """
    with closing(open_file(path, spec.backend)) as video:
        window = RandomClips(spec.duration, generator)(0, video.duration, {})
        short_side = transform.draw_short_side(generator)

        def choose(available: int) -> torch.Tensor:
            indices = clip_frame_indices(available, spec.num_frames, generator if frame_jitter else None)
            return order_frames(indices, spec.frame_order, generator)

        clip = video.get_clip(window.clip_start_sec, window.clip_end_sec, choose, short_side)["video"]
    clip, box = transform.with_crop(clip, generator)
    return Views(
        clips=clip.unsqueeze(0),
        starts=torch.tensor([float(window.clip_start_sec)]),
        clip_index=torch.zeros(1, dtype=torch.long),
        crops=torch.zeros(1, dtype=torch.long),
        boxes=torch.tensor([box]),
    )


def uniform_views(
    path: str,
    spec: ClipSpec,
    crop_size: int,
    num_clips: int,
    num_crops: int,
    generator: torch.Generator | None = None,
) -> Views:
    """`num_clips` evenly spread clips x `num_crops` crops of a video, or an image.

    Its short side is scaled to `spec.test_scale`, or to the crop.

    Nothing is random but the frame order "shuffled", for which alone `generator` is used.

    Raises:
        DecodeError: the video cannot be read.
    """

    def choose(available: int) -> torch.Tensor:
        return order_frames(clip_frame_indices(available, spec.num_frames), spec.frame_order, generator)

    with closing(open_file(path, spec.backend)) as video:
        short_side = spec.test_scale or crop_size
        windows = uniform_clips(spec.duration, num_clips, video.duration)
        clips = [
            video.get_clip(window.clip_start_sec, window.clip_end_sec, choose, short_side)["video"]
            for window in windows
        ]
    return Views(
        clips=torch.cat([spatial_crops(clip, crop_size, num_crops) for clip in clips]),
        starts=torch.tensor([float(w.clip_start_sec) for w in windows]).repeat_interleave(num_crops),
        clip_index=torch.arange(num_clips).repeat_interleave(num_crops),
        crops=torch.arange(num_crops).repeat(num_clips),
    )
