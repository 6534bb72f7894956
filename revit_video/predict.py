"""Classifying videos and images with a trained model: `load(path).predict("clip.mp4")`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from revit_video.adaptive.engine import Engine
from revit_video.adaptive.policies import Costs, Settings, static
from revit_video.data.clips import ClipSampling, ViewGrid, eval_views
from revit_video.data.sampling import clip_duration
from revit_video.data.transforms import Normalize
from revit_video.data.video import DecodeError, is_image
from revit_video.length import TokenLength
from revit_video.models import checkpoint
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import DataSpec
from revit_video.models.inference import for_inference, inference_dtype
from revit_video.models.untrusted import believed
from revit_video.runtime import output_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoPrediction:
    """The prediction for one video.

    Attributes:
        classes: name and probability of each class, most probable first.
        length: token length of the first view.
        gmacs: cost of all views, with every length that was run and the assigner.
        longest_gmacs: cost of all views at the longest length.
        logits: mean over the views `(classes,)`.
    """

    path: str
    classes: list[tuple[str, float]]
    length: TokenLength
    gmacs: float
    longest_gmacs: float
    logits: Tensor

    @property
    def saved(self) -> float:
        """Cost saved against the longest length, in percent."""
        return 100 * (1 - self.gmacs / self.longest_gmacs)


class Predictor:
    """A trained model with its policy; see `load`.

    Attributes:
        model: the `ReViT` or `DVT`, in single precision.
        engine: runs the policy `hybrid` at its calibrated operating point, or always the longest length.
        class_names: in the order of the logits.
    """

    def __init__(self, model: ResizableModel, engine: Engine, data: DataSpec, device: torch.device) -> None:
        self.model, self.engine, self.device = model, engine, device
        names = data.class_names or []
        self.class_names = [*names, *(f"class {n}" for n in range(len(names), model.num_classes))]
        duration = clip_duration(data.num_frames, data.sampling_rate, data.target_fps)
        self._sampling = ClipSampling(
            data.num_frames,
            duration,
            data.frame_order,
            frame_spacing=data.frame_spacing,
            short_videos=data.short_videos,
            sampling=data.sampling,
        )
        self._grid = ViewGrid(data.crop_size, data.num_clips, data.num_crops, data.test_scale)
        self._ensemble = data.ensemble
        self._normalize = Normalize(data.mean, data.std).to(device)

    def predict(self, path: str | os.PathLike[str]) -> VideoPrediction:
        """Classifies one video or image file with the views and the policy of the test.

        Raises:
            DecodeError: the file cannot be decoded; a `ValueError` of one line.
        """
        path = os.path.expanduser(path)
        frames = self._sampling.num_frames
        if is_image(path) and frames > 1:
            raise DecodeError(path, f"an image; the model takes videos, {frames} frames of each")
        if not is_image(path) and frames == 1:
            logger.warning("%s: a video; the model is of images and sees 1 frame of each clip", path)
        views = eval_views(path, self._sampling, self._grid)
        clips = self._normalize(views.clips.to(self.device))
        prediction = self.engine(clips, torch.zeros(len(clips), dtype=torch.long))
        probabilities = self._probabilities(prediction.logits)
        if not bool(probabilities.isfinite().all()):
            raise ValueError(f"{path}: the model's answer is not finite")
        order = probabilities.argsort(descending=True).tolist()
        return VideoPrediction(
            path,
            [(self.class_names[n], float(probabilities[n])) for n in order],
            self.model.lengths[int(prediction.lengths[0])],
            float(prediction.gmacs.sum()),
            self.engine.costs.gmacs[0] * len(clips),
            prediction.logits.mean(dim=0).cpu(),
        )

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Of the video's classes, from its views."""
        if self._ensemble == "logits":
            return logits.mean(dim=0).softmax(dim=0)
        return logits.softmax(dim=1).mean(dim=0)

    def predict_many(
        self, paths: Iterable[str | os.PathLike[str]]
    ) -> Iterator[VideoPrediction | DecodeError]:
        """Classifies files one by one; yields the error of a file that cannot be decoded, and goes on."""
        for path in paths:
            try:
                yield self.predict(path)
            except DecodeError as error:
                yield error


def load(
    path: str | os.PathLike[str], device: str = "auto", dtype: str = "auto", clips: int | None = None
) -> Predictor:
    """Load a trained model for prediction.

    Args:
        path: a run's OUTPUT_DIR, its `model.pyth`, or a checkpoint of the backbone alone, which then runs
            at its longest length.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.
        dtype: precision of prediction: `float32`, `bfloat16`, or `auto` for that of the test (`TEST.DTYPE`).
        clips: evenly spread over each video; None for those of the test (`TEST.NUM_ENSEMBLE_VIEWS`). One clip
            is the first window of the video.

    Raises:
        CheckpointError: the file is damaged or not a checkpoint of this project; a `ValueError`.
        ValueError: CUDA is not available, the dtype is unknown, or there is not even one clip.
    """
    if clips is not None and clips < 1:
        raise ValueError(f"clips: must be at least 1, got {clips}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch finds no GPU here; use auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    saved = checkpoint.read(_checkpoint_in(os.path.expanduser(path)))
    model, assigner, data = saved.model().to(place), saved.assigner(), saved.data
    if (model.img_size, model.num_frames) != (data.crop_size, data.num_frames):
        raise checkpoint.CheckpointError(f"{saved.path}: its model takes other clips than its data are")
    with believed(saved.path, "policy"):
        policies = Settings.of(saved.settings).policies(len(model.lengths))
    data = replace(data, num_clips=clips or data.num_clips)
    policy = static(0)
    if assigner is not None:
        if "assigned" not in policies or assigner.spec["num_lengths"] != len(model.lengths):
            raise checkpoint.CheckpointError(f"{saved.path}: its assigner cannot choose for its model")
        assigner = assigner.to(place)
    if "hybrid" in policies:
        policy = policies["hybrid"]
        if policy.asks_assigner and assigner is None:
            raise checkpoint.CheckpointError(f"{saved.path}: its policy asks an assigner, which it lacks")
    elif assigner is not None:  # a checkpoint older than the policy hybrid
        policy = policies["assigned"]
    elif model.carries_state and "cascade" in policies:
        policy = policies["cascade"]
    reader = for_inference(model, inference_dtype(data.dtype if dtype == "auto" else dtype, model))
    costs = Costs.from_table(saved.costs, model.carries_state)
    engine = Engine(reader, policy, costs, assigner, data.num_clips * data.num_crops)
    return Predictor(model, engine, data, place)


def _checkpoint_in(path: str) -> str:
    """The checkpoint that `path` names or, as a run's OUTPUT_DIR, holds."""
    if not os.path.isdir(path):
        return path
    whole = os.path.join(path, output_dir.MODEL)
    if os.path.isfile(whole):
        return whole
    last = checkpoint.newest(os.path.join(path, output_dir.CHECKPOINTS)) or checkpoint.newest(path)
    if last is None:
        raise checkpoint.CheckpointError(
            f"{path}: holds neither {output_dir.MODEL} nor {output_dir.CHECKPOINTS} of a run; "
            f"{checkpoint.CONVERT}"
        )
    return last
