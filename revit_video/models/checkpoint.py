"""Checkpoints: what they hold, and their files, which are whole or absent; loading never runs code."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from revit_video.models.base import ResizableModel
from revit_video.models.config import DVTConfig, FrozenConfig, ReViTConfig
from revit_video.models.revit import ReViT
from revit_video.models.untrusted import (
    CheckpointError,
    believed,
    check_weights,
    filled,
    number,
    one_line,
    shown,
    whole,
)
from revit_video.runtime.output_dir import open_ordinary, replacing

if TYPE_CHECKING:
    from revit_video.models.assigner import TokenLengthAssigner

FORMAT = "revit_video 1"
CONVERT = (
    "tools/convert.py (revit-video convert) makes one of a ViT, a TimeSformer or timm:<name>, --to revit"
)
CONFIGS = {"revit": ReViTConfig, "dvt": DVTConfig, "frozen": FrozenConfig}  # by the model's kind
DTYPES = ["auto", "float32", "bfloat16"]


# ---- Content ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSpec:
    """How a model's clips are made, so that it can be used without a config.

    Attributes:
        class_names: in the order of the logits; None if unknown.
        mean, std: of the normalisation, per channel.
        num_frames, sampling, sampling_rate, target_fps, short_videos, frame_order, frame_spacing: of the
            frames in a clip.
        crop_size, test_scale: in pixels; `test_scale` is the frame's short side, 0 for that of the crop.
        squash: the whole frame, squashed to a square, instead of square crops.
        num_clips, num_crops: views of a video.
        dtype: precision of inference, see `inference_dtype`.
        ensemble: what is averaged over views, see `meters.averaged`.
    """

    class_names: list[str] | None
    mean: list[float]
    std: list[float]
    num_frames: int
    sampling_rate: int
    target_fps: float
    frame_order: str
    crop_size: int
    num_clips: int
    num_crops: int
    test_scale: int = 0
    dtype: str = "auto"
    frame_spacing: str = "index"
    short_videos: str = "spread"
    sampling: str = "window"
    ensemble: str = "probabilities"
    squash: bool = False

    def __post_init__(self) -> None:
        for name in ("num_frames", "sampling_rate", "crop_size"):
            whole(name, getattr(self, name), 1, 100_000)
        whole("num_clips", self.num_clips, 1, 1000)
        whole("num_crops", self.num_crops, 1, 3)
        whole("test_scale", self.test_scale, 0, 100_000)
        number("target_fps", self.target_fps, 1e-6)
        for name, low in (("mean", -1e6), ("std", 1e-6)):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must be 3 numbers")
            for value in getattr(self, name):
                number(name, value, low)
        names = self.class_names or ()
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names must be texts")
        if (dtype := self.dtype) not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {shown(dtype)}")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file `path`; what it does not hold, or holds damaged, raises CheckpointError."""

    path: str
    payload: dict[str, Any]

    @property
    def kind(self) -> str:
        """`revit`, `dvt` or `frozen`."""
        kind = self.payload["model"].get("kind", "revit")
        if kind not in CONFIGS:
            raise CheckpointError(f"{self.path}: its model is a {shown(kind)}, which is not known here")
        return kind

    @property
    def config(self) -> ReViTConfig:
        with believed(self.path, "model"):
            return CONFIGS[self.kind](**self.payload["model"]["spec"])

    @property
    def data(self) -> DataSpec:
        with believed(self.path, "data"):
            return DataSpec(**self.payload["data"])

    @property
    def costs(self) -> dict[str, Any]:
        """As `flops.cost_table` gives them."""
        with believed(self.path, "costs"):
            costs = self.payload["costs"]
            if list(costs["lengths"]) != [str(length) for length in self.config.lengths]:
                raise ValueError("they are of other token lengths")
            gmacs = [each["gmacs"] for each in costs["lengths"].values()]
            for cost in (*gmacs, costs.get("assigner_gmacs", 0)):
                number("gmacs", cost, 0)
            return costs

    def record(self, part: str = "model") -> dict[str, Any] | None:
        """What the model or the assigner was made of; None if an earlier version wrote it."""
        record = self.payload[part].get("record")
        if not isinstance(record, dict | None):
            raise CheckpointError(f"{self.path}: its record is {shown(record)}, not settings by name")
        return record

    @property
    def settings(self) -> dict[str, Any]:
        """Of the policies; empty if none were chosen."""
        return self.payload.get("policy", {})

    @property
    def training(self) -> dict[str, Any] | None:
        """State of the training, None if it is not to be resumed."""
        state = self.payload.get("training")
        if state is None:
            return None
        with believed(self.path, "training state"):
            numbers = {name: state[name] for name in ("seed", "epoch", "batch")} | state["division"]
            for name, value in numbers.items():
                whole(name, value, 0, 1 << 40)
            _ = state["optimizer"]["param_groups"][0].keys(), state["step"], state["weights"]
        return state

    def model(self) -> ResizableModel:
        """The model in evaluation mode."""
        config = self.config
        with believed(self.path, "model"):
            weights = self.payload["model"]["weights"]
            if config.depth > len(weights):  # before so many blocks are described
                raise ValueError(f"depth {config.depth}, but {len(weights)} weights")
            return filled(lambda: _class_of(self.kind)(config), weights)

    def assigner(self) -> TokenLengthAssigner | None:
        """The assigner in evaluation mode, None if there is none."""
        if "assigner" not in self.payload:
            return None
        from revit_video.models.assigner import TokenLengthAssigner  # few checkpoints hold one

        with believed(self.path, "assigner"):
            part = self.payload["assigner"]
            spec = _assigner_spec(part["spec"])
            return filled(lambda: TokenLengthAssigner(**spec), part["weights"])

    def load_into(self, model: ResizableModel) -> None:
        """Load the weights into `model`.

        Raises:
            CheckpointError: they are of a model with other settings.
        """
        if model.kind != self.kind:
            theirs, ours = _class_of(self.kind).__name__, type(model).__name__
            raise CheckpointError(
                f"{self.path} is of a {theirs}, the config asks for a {ours} (DVT.ENABLE, TRAIN.METHOD)"
            )
        if differing := model.config.differences(self.config):
            raise CheckpointError(
                f"{self.path} is of another model: {', '.join(differing)}; "
                "TRAIN.CHECKPOINT_FILE_PATH takes its weights to other lengths, frames, pixels and classes"
            )
        with believed(self.path, "model"):
            check_weights(model, self.payload["model"]["weights"])
            model.load_state_dict(self.payload["model"]["weights"])


def _assigner_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a TokenLengthAssigner, which loads no other weights than the checkpoint's."""
    known = {"num_lengths": 64, "stages": 64, "num_frames": 100_000, "input_size": 4096}
    if unknown := sorted(map(str, spec.keys() - known - {"model", "objective"})):
        raise ValueError(f"unknown settings: {', '.join(unknown)}")
    for name, most in known.items():
        whole(name, spec[name], int(name != "stages"), most)
    if not isinstance(spec["model"], str):
        raise ValueError("its model is no name of timm's")
    return dict(spec)


def _class_of(kind: str) -> Callable[..., ResizableModel]:
    if kind == "dvt":  # the paper's baseline, imported for its checkpoints alone
        from revit_video.models.dvt import DVT

        return DVT
    if kind == "frozen":
        from revit_video.models.frozen import FrozenReViT

        return FrozenReViT
    return ReViT


def read(path: str, part: str = "model", device: str = "cpu") -> Checkpoint:
    """A checkpoint of this project that holds `part`; CheckpointError for anything else."""
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: a folder; name a file in it, such as a run's model.pyth; {CONVERT}")
    return recognised(path, load_payload(path, device), part)


def recognised(path: str, payload: dict[str, Any], part: str = "model") -> Checkpoint:
    """`payload`, loaded from `path`; CheckpointError unless it is this project's and holds `part`."""
    if payload.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of revit_video; {CONVERT}")
    if part not in payload:
        raise CheckpointError(f"{path} holds no {part}; a run's model.pyth does")
    for name in {"model", "assigner", "data", "costs", "policy", "training"} & payload.keys():
        if not isinstance(payload[name], dict | None):
            raise CheckpointError(f"{path}: its {name} is {shown(payload[name])}, not settings by name")
    return Checkpoint(path, payload)


def read_assigner(path: str, num_lengths: int) -> Checkpoint:
    """A checkpoint of an assigner.

    Raises:
        CheckpointError: it cannot be read, or chooses among another number of lengths.
    """
    found = read(path, "assigner")
    with believed(path, "assigner"):
        theirs = _assigner_spec(found.payload["assigner"]["spec"])["num_lengths"]
    if theirs != num_lengths:
        raise CheckpointError(f"{path} chooses among {theirs} token lengths, the config has {num_lengths}")
    return found


def model_payload(
    model: ResizableModel, data: DataSpec, costs: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of a model's checkpoint, to which the parts of an assigner or a training may be added.

    Args:
        record: what the model was made of, under any names; see `from_cfg.identity`.
    """
    part: dict[str, Any] = {} if model.kind == "revit" else {"kind": model.kind}
    part |= {} if record is None else {"record": dict(record)}
    return {
        "format": FORMAT,
        "model": part | {"spec": model.config.to_dict(), "weights": model.state_dict()},
        "data": asdict(data),
        "costs": dict(costs),
    }


def assigner_payload(
    network: TokenLengthAssigner, settings: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of an assigner's checkpoint: its weights, and the settings of the policies.

    Args:
        record: what the assigner was made of, as in `model_payload`.
    """
    assigner = {"spec": network.spec, "weights": network.state_dict()}
    assigner |= {} if record is None else {"record": dict(record)}
    return {"format": FORMAT, "assigner": assigner, "policy": dict(settings)}


# ---- Files -----------------------------------------------------------------------------------------------


def save(path: str, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors and plain values) to the local `path`, whole or not at all.

    Raises:
        CheckpointError: it could not be written; what was at `path` before is still there, whole.
    """
    try:
        with replacing(path, "wb") as file:
            torch.save(payload, file)
    except (OSError, RuntimeError) as error:
        # torch turns a full disk into "unexpected pos 704 vs 598"; the cause is what came before.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else one_line(error)
        raise CheckpointError(f"{path}: cannot be written: {reason}") from error


def load_payload(
    path: str,
    map_location: str | torch.device = "cpu",
    reading: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
) -> dict[str, Any]:
    """The payload that `save` wrote.

    Args:
        reading: within which the file is read; see `trainers_file.stand_ins`.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds more than tensors and plain values.
            Nothing in such a file is ever executed.
    """
    # imported where a file is read
    from revit_video.runtime.archive import damage, in_protocol_2, refusal

    try:
        with open_ordinary(path) as file, reading:
            if reason := damage(path):
                raise CheckpointError(f"{path}: {reason}")
            payload = torch.load(in_protocol_2(file), map_location=map_location, weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {refusal(str(error))}") from None
    except Exception as error:  # readers of arbitrary bytes raise all kinds
        reason = f"{type(error).__name__}: {one_line(error)}"  # a KeyError's is the key alone
        raise CheckpointError(f"{path}: not a checkpoint, or damaged ({reason})") from None
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: not a checkpoint: holds a {type(payload).__name__}, not a dict")
    return payload


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of a SHA-256 of named weights: the same in every file and on every device."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]
