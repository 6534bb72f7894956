"""Classifying videos and images with a trained model: `load(path).predict("clip.mp4")`."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import torch
from huggingface_hub.hub_mixin import ModelHubMixin
from torch import Tensor

from revit_video.adaptive.engine import Engine, Prediction
from revit_video.adaptive.policies import Costs, Policy, Settings
from revit_video.data.clips import ClipSampling, VideoViews, ViewGrid, eval_views, views_of
from revit_video.data.sampling import clip_duration
from revit_video.data.transforms import Normalize
from revit_video.data.video import DecodeError, is_image
from revit_video.length import TokenLength
from revit_video.models import checkpoint
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import DataSpec
from revit_video.models.inference import for_inference, inference_dtype, probabilities
from revit_video.models.untrusted import believed
from revit_video.runtime import output_dir

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from revit_video.adaptive.drift import Watch
    from revit_video.predict.choices import Choices
    from revit_video.predict.long_videos import VideoTimeline

Path = str | os.PathLike[str]
TIMEOUT = 60.0  # seconds that decoding a file may take

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


class Predictor(ModelHubMixin, library_name="revit_video"):
    """A trained model with its policy; see `load`.

    Attributes:
        model: the `ReViT` or `DVT`, in single precision.
        engine: runs the policy `hybrid` at its calibrated operating point, or always the longest length.
        class_names: in the order of the logits.
        data: how clips are made.
        folder: that the model was loaded from.
        sampling, grid, normalize: how a video's views are made, as in the test.
    """

    def __init__(
        self,
        model: ResizableModel,
        engine: Engine,
        data: DataSpec,
        device: torch.device,
        choices: Choices,
        saved: Mapping[str, Any],
    ) -> None:
        self.model, self.engine, self.device, self.choices = model, engine, device, choices
        self._policy, self.data, self._saved = choices.shipped, data, saved
        self._watch = _watch(choices)
        names = data.class_names or []
        self.class_names = [*names, *(f"class {n}" for n in range(len(names), model.num_classes))]
        duration = clip_duration(data.num_frames, data.sampling_rate, data.target_fps)
        self.sampling = ClipSampling(
            data.num_frames,
            duration,
            data.frame_order,
            frame_spacing=data.frame_spacing,
            short_videos=data.short_videos,
            sampling=data.sampling,
        )
        self._ensemble = data.ensemble
        self.grid = ViewGrid(data.crop_size, data.num_clips, data.num_crops, data.test_scale, data.squash)
        self.normalize = Normalize(data.mean, data.std).to(device)
        self._one_at_a_time, self.timeout = threading.Lock(), TIMEOUT

    def __repr__(self) -> str:
        lengths, device = ", ".join(map(str, self.model.lengths)), str(self.device)
        classes = f"{len(self.class_names)} classes"
        kind = f"{type(self.model).__name__} of {lengths}"
        return f"Predictor({kind}; policy {self.policy}{self._point}; {classes}; {device})"

    @property
    def _point(self) -> str:
        """The operating point in words."""
        policy, names = self.engine.policy, [str(length) for length in self.model.lengths]
        if policy.thresholds is None:
            return ""
        usable = [names[i] for i in policy.usable or range(len(names))]
        if len(usable) == 1:
            return f": always {usable[0]}"
        exits = ", ".join(f"{names[i]} {policy.thresholds[i]:.3f}" for i in range(1, len(names)))
        return f": from {usable[-1]} to {usable[0]}, exit at confidence {exits}"

    @property
    def policy(self) -> str:
        """How lengths are chosen; it can be set.

        To `"longest"`, a length such as `"14x14"`, a policy of the model (`"hybrid"`, `"assigned"`,
        `"cascade"`), `"budget=0.5"` (the most accurate point within that share of the longest length's cost)
        or `"max_drop=0.2"` (the cheapest one that loses so many points of top-1). The last two are chosen
        on the validation list, whose outputs are in the run's OUTPUT_DIR.
        """
        return self._policy

    @policy.setter
    def policy(self, wish: str) -> None:
        self.engine = self.new_engine(self.engine.batch_size, self.choices.policy(wish))
        self._policy, self._watch = wish, None
        self.__dict__.pop("identity", None)

    @property
    def timeout(self) -> float:
        """Seconds that decoding a file may take, or half the next windows of a long video; it can be set."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        from revit_video.data.isolate import isolated  # imported where there is something to decode

        if not seconds > 0:
            raise ValueError(f"timeout: must be above 0 s, got {seconds:g}")
        largest = 3 * self.grid.num_views * self.sampling.num_frames * self.grid.crop_size**2
        self._timeout, self._decode = seconds, isolated(self._views, 0, largest, seconds)

    @property
    def certificate(self) -> str:
        """What is certified of the drop in top-1 against the longest length; empty if nothing is."""
        known = self.choices.settings.certificate
        if self.policy != "hybrid" or known is None or not known.holds:
            return ""
        return f"a drop of at most {known.max_drop:g} points at {100 * known.confidence:g} % confidence"

    @cached_property
    def identity(self) -> str:
        """12 hex digits that are the same where the weights, the policy and the views are."""
        views = (self.grid, self.sampling, self._ensemble)
        rest = (self.policy, self.choices.settings, views, self.engine.model.dtype)
        digest = hashlib.sha256(checkpoint.weights_digest(self.model.state_dict()).encode())
        digest.update(repr(rest).encode())
        return digest.hexdigest()[:12]

    @overload
    def predict(self, video: Path) -> VideoPrediction: ...
    @overload
    def predict(self, video: list[Path]) -> list[VideoPrediction | DecodeError]: ...
    @overload
    def predict(self, video: Any, fps: float | None = None) -> VideoPrediction: ...
    def predict(
        self, video: Any, fps: float | None = None
    ) -> VideoPrediction | list[VideoPrediction | DecodeError]:
        """Classifies a video or image file with the views and the policy of the test.

        Files are decoded in a child process, whose crash is the file's error.

        Args:
            video: a path; a list of paths, for `predict_many` with its defaults; or frames, see
                `data.frames.Frames`.
            fps: of frames, to choose among them as among those of a file; None: all of them are one clip.

        Raises:
            DecodeError: the file cannot be decoded; a `ValueError` of one line.
            ValueError: the frames are not uint8 RGB pictures.
        """
        if isinstance(video, str | os.PathLike):
            path = os.path.expanduser(os.fspath(video))
            check_kind(path, self.sampling)
            with self._one_at_a_time:
                views = self._decode(None, path)
            return self._classified(path, views)
        if isinstance(video, list) and video and isinstance(video[0], str | os.PathLike):
            return list(self.predict_many(video))
        from revit_video.data.frames import FrameArray

        if fps is None:
            frames, grid = FrameArray(video, self.sampling.duration), replace(self.grid, num_clips=1)
        else:
            frames, grid = FrameArray(video, len(video) / Fraction(fps)), self.grid
        return self._classified("", views_of(frames, self.sampling, grid))

    def predict_many(
        self, paths: Iterable[Path], batch_size: int = 32, num_workers: int | None = None
    ) -> Iterator[VideoPrediction | DecodeError]:
        """Classifies files, in their order; yields the error of one that cannot be decoded, and goes on.

        Views of all files that run at the same length share their batches.

        Args:
            batch_size: views per forward pass.
            num_workers: processes that decode; 0 decodes in this one; None for as many as pay.
        """
        from revit_video.predict.stream import answers_in_order

        files = [os.path.expanduser(os.fspath(path)) for path in paths]
        return answers_in_order(self, files, batch_size, num_workers)

    def timeline(
        self,
        path: Path,
        window: float | None = None,
        stride: float | None = None,
        batch_size: int = 32,
        background: str | None = None,
        min_probability: float = 0.0,
    ) -> VideoTimeline:
        """What happens when in a long video, which is decoded once, window by window.

        Args:
            window: seconds that an answer is given for; None for those of a clip in training. The frames of a
                clip are spread over a longer window.
            stride: seconds from window to window; None for half a window.
            batch_size: views per forward pass.
            background: class that stands for "nothing": it makes no segments.
            min_probability: what is less probable makes no segments either.

        Raises:
            DecodeError: the file cannot be decoded.
            ValueError: the stride is not within the window, or the model has no such class.
        """
        from revit_video.predict.long_videos import timeline_of

        file = os.path.expanduser(os.fspath(path))
        return timeline_of(self, file, window, stride, batch_size, background, min_probability)

    @property
    def folder(self) -> str:
        return os.path.dirname(self.choices.calibration)

    def payload(self) -> dict[str, Any]:
        """The content of its checkpoint, without the state of a training."""
        return {**self._saved, "model": dict(self._saved["model"], weights=self.model.state_dict())}

    def _save_pretrained(self, save_directory: Any) -> None:
        from revit_video.models.saved_folder import write_saved

        write_saved(str(save_directory), self.payload())

    def generate_model_card(self, license: str | None = None, **_: Any) -> ModelCard:
        """See `predict.model_card`; `license` is that of the weights, such as `apache-2.0`."""
        from revit_video.predict.model_card import model_card

        return model_card(self, license)

    @classmethod
    def from_pretrained(cls, name: Path, **options: Any) -> Predictor:  # type: ignore[override]
        """`load` of a folder, or of `<owner>/<name>[@revision]` of the hub."""
        path = os.path.expanduser(os.fspath(name))
        return load(path if path.startswith("hf:") or os.path.exists(path) else f"hf:{path}", **options)

    def new_engine(self, batch_size: int, policy: Policy | None = None) -> Engine:
        """Another engine, with the same policy if none is given, for `batch_size` views per forward pass."""
        engine = self.engine
        assigner = self.choices.assigner
        return Engine(engine.model, policy or engine.policy, engine.costs, assigner, batch_size)

    def _views(self, _: None, path: str) -> VideoViews:
        return eval_views(path, self.sampling, self.grid)

    def _classified(self, path: str, views: VideoViews) -> VideoPrediction:
        clips = self.normalize(views.clips.to(self.device))
        return self.answer(path, self.engine(clips, torch.zeros(len(clips), dtype=torch.long)))

    def probabilities(self, path: str, views: Prediction) -> Tensor:
        """Of the classes `(classes,)`, from the answers for all views of a video or a window of it."""
        multi_label = self.model.config.multi_label
        if self._ensemble == "logits":
            scores = probabilities(views.logits.mean(dim=0), multi_label)
        else:
            scores = probabilities(views.logits, multi_label).mean(dim=0)
        if not bool(scores.isfinite().all()):
            raise ValueError(f"{path or 'these frames'}: the model's answer is not finite")
        return scores

    def answer(self, path: str, views: Prediction) -> VideoPrediction:
        """The answer from those for all views of a video."""
        views = Prediction(*(column.cpu() for column in views))  # once, not for each class
        scores = self.probabilities(path, views)
        order = scores.argsort(descending=True).tolist()
        if self._watch:
            seen = float(scores.max()), int(views.lengths[0]), bool(views.agreed[0])
            if words := self._watch.see(*seen):
                logger.warning("drift: %s", words)
        return VideoPrediction(
            path,
            [(self.class_names[n], float(scores[n])) for n in order],
            self.model.lengths[int(views.lengths[0])],
            float(views.gmacs.sum()),
            self.engine.costs.gmacs[0] * len(views.gmacs),
            views.logits.mean(dim=0),
        )


def _watch(choices: Choices) -> Watch | None:
    """The guard against drift of the shipped policy, None where it is not known how that did."""
    seen = choices.settings.seen
    if seen is None or choices.shipped != "hybrid":
        return None
    from revit_video.adaptive.drift import Watch

    return Watch(seen)


def check_kind(path: str, sampling: ClipSampling) -> None:
    """DecodeError for a file that the model cannot classify, whatever is in it."""
    if "://" in path and not os.path.exists(path):
        raise DecodeError(path, "an address; nothing is fetched from a network: download it first")
    if is_image(path) and sampling.num_frames > 1:
        raise DecodeError(path, f"an image; the model takes videos, {sampling.num_frames} frames of each")
    if not is_image(path) and sampling.num_frames == 1:
        logger.warning("%s: a video; the model is of images and sees 1 frame of each clip", path)


def load(
    path: Path,
    device: str = "auto",
    dtype: str = "auto",
    clips: int | None = None,
    policy: str | None = None,
) -> Predictor:
    """Load a trained model for prediction.

    Args:
        path: a run's OUTPUT_DIR, its `model.pyth`, a folder of `Predictor.save_pretrained`, one of the hub
            (`hf:<owner>/<name>[@revision]`), or a checkpoint of the backbone alone, which then runs at its
            longest length.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` or `mps` (Apple).
        dtype: precision of prediction: `float32`, `bfloat16`, or `auto` for that of the test (`TEST.DTYPE`).
        clips: evenly spread over each video; None for those of the test (`TEST.NUM_ENSEMBLE_VIEWS`). One clip
            is the first window of the video.
        policy: see `Predictor.policy`; None for the one that was shipped.

    Raises:
        CheckpointError: the file is damaged or not a checkpoint of this project; a `ValueError`.
        ValueError: there is no such device, the dtype is unknown, or there is not even one clip.
    """
    from revit_video.predict.choices import Choices, shipped_policy
    from revit_video.predict.found import device_of, saved_in, without_backbone

    if clips is not None and clips < 1:
        raise ValueError(f"clips: must be at least 1, got {clips}")
    place = device_of(device)
    saved = saved_in(os.path.expanduser(path))
    model, assigner, data = saved.model().to(place), saved.assigner(), saved.data
    if (model.img_size, model.num_frames) != (data.crop_size, data.num_frames):
        raise checkpoint.CheckpointError(f"{saved.path}: its model takes other clips than its data are")
    with believed(saved.path, "policy"):
        settings = Settings.of(saved.settings)
        policies = settings.policies(len(model.lengths))
    if assigner is not None:
        if "assigned" not in policies or assigner.spec["num_lengths"] != len(model.lengths):
            raise checkpoint.CheckpointError(f"{saved.path}: its assigner cannot choose for its model")
        assigner = assigner.to(place).for_inference()
    shipped = shipped_policy(policies, assigner is not None, model.carries_state)
    if shipped == "hybrid" and policies["hybrid"].asks_assigner and assigner is None:
        raise checkpoint.CheckpointError(f"{saved.path}: its policy asks an assigner, which it lacks")
    if clips not in (None, data.num_clips):  # which changes how sure the answers are
        settings = replace(settings, seen=None)
    data = replace(data, num_clips=clips or data.num_clips)
    reader = for_inference(model, inference_dtype(data.dtype if dtype == "auto" else dtype, model))
    calibration = os.path.join(os.path.dirname(saved.path), output_dir.CALIBRATION)
    costs = Costs.from_table(saved.costs, model.carries_state)
    choices = Choices(model.lengths, costs, settings, shipped, assigner, calibration)
    engine = Engine(reader, choices.policy(shipped), costs, assigner, data.num_clips * data.num_crops)
    predictor = Predictor(model, engine, data, place, choices, without_backbone(saved.payload))
    if policy is not None:
        predictor.policy = policy
    return predictor
