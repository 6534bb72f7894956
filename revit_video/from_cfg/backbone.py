"""Models, optimisers and checkpoints of a config."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from iopath.common.file_io import g_pathmgr
from torch import nn

from revit_video.from_cfg.model import assigner_spec
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.config import DVTConfig, ReViTConfig
from revit_video.models.dvt import DVT
from revit_video.models.revit import ReViT
from revit_video.runtime.ranks import Ranks
from revit_video.train.losses import Distillation
from revit_video.train.optim import LearningRate, cosine_schedule, make_optimizer, step_schedule, with_warmup

FORMAT = "revit_video 1"
CONVERT = "tools/convert.py SOURCE DESTINATION --to revit makes one of a ViT, a TimeSformer or timm:<name>"


KINDS: dict[str, Any] = {"revit": ReViT, "dvt": DVT}
CONFIGS: dict[str, type[ReViTConfig]] = {"revit": ReViTConfig, "dvt": DVTConfig}
"""What a checkpoint calls each model; those that say nothing hold a `ReViT`."""


def distillation(cfg: CfgNode) -> Distillation | None:
    """How the shorter lengths learn from the longest; None with `REVIT.DISTILL.ENABLE` off."""
    how = cfg.REVIT.DISTILL
    return Distillation(how.TAU, how.LAMBDA, how.HARD, how.MIN_TEACHER_TOP1) if how.ENABLE else None


def autocast(cfg: CfgNode, ranks: Ranks) -> torch.dtype | None:
    """dtype of mixed precision in training, None for full precision."""
    return torch.bfloat16 if cfg.TRAIN.MIXED_PRECISION and ranks.device.type == "cuda" else None


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The backbone's optimiser."""
    solver = cfg.SOLVER
    return make_optimizer(
        model,
        solver.OPTIMIZING_METHOD,
        solver.BASE_LR * lr_factor(cfg),
        solver.WEIGHT_DECAY,
        solver.MOMENTUM,
        solver.NESTEROV,
        solver.BETAS,
    )


def check_resumable(optimizer: torch.optim.Optimizer, seed: int, state: dict[str, Any]) -> None:
    """ValueError when the training `state` is another run's: of another seed, or of another optimiser."""
    if state["seed"] != seed:
        raise ValueError(
            f"RNG_SEED: the run in OUTPUT_DIR has seed {state['seed']}, not {seed}; take another OUTPUT_DIR, "
            "or train anew with TRAIN.AUTO_RESUME False"
        )
    theirs, ours = (
        groups[0].keys() for groups in (state["optimizer"]["param_groups"], optimizer.param_groups)
    )
    if theirs != ours:
        raise ValueError(
            "SOLVER.OPTIMIZING_METHOD: the run in OUTPUT_DIR was trained with another one; to go on with its "
            "weights alone, name its checkpoint with TRAIN.CHECKPOINT_FILE_PATH and take another OUTPUT_DIR"
        )


def learning_rate(cfg: CfgNode) -> LearningRate:
    """The backbone's learning rate at each fractional epoch."""
    solver, factor = cfg.SOLVER, lr_factor(cfg)
    base, end, start = (factor * lr for lr in (solver.BASE_LR, solver.COSINE_END_LR, solver.WARMUP_START_LR))
    if solver.LR_POLICY == "cosine":
        schedule = cosine_schedule(base, end, solver.MAX_EPOCH)
    else:
        schedule = step_schedule(base, solver.STEPS, solver.LRS)
    return with_warmup(schedule, solver.WARMUP_EPOCHS, start)


def lr_factor(cfg: CfgNode) -> float:
    """By how much the learning rates grow with the batch; they are given for `BASE_LR_BATCH_SIZE` clips."""
    given_for = cfg.SOLVER.BASE_LR_BATCH_SIZE
    return cfg.TRAIN.BATCH_SIZE / given_for if given_for else 1.0


def data_spec(cfg: CfgNode, class_names: list[str] | None) -> dict[str, Any]:
    """What a checkpoint tells of its clips, so that it can be used without the config."""
    data = cfg.DATA
    return {
        "class_names": class_names,
        "mean": list(data.MEAN),
        "std": list(data.STD),
        "num_frames": data.NUM_FRAMES,
        "sampling_rate": data.SAMPLING_RATE,
        "target_fps": data.TARGET_FPS,
        "frame_order": data.FRAME_ORDER,
        "frame_spacing": data.FRAME_SPACING,
        "crop_size": data.TEST_CROP_SIZE,
        "test_scale": data.TEST_SCALE,
        "num_clips": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "num_crops": cfg.TEST.NUM_SPATIAL_CROPS,
        "dtype": cfg.TEST.DTYPE,
    }


def backbone_payload(
    cfg: CfgNode, model: ResizableModel, class_names: list[str] | None, costs: dict[str, Any]
) -> dict[str, Any]:
    """What a checkpoint of the backbone holds, beside the state of its training."""
    kind = {} if model.kind == "revit" else {"kind": model.kind}
    return {
        "format": FORMAT,
        "model": kind | {"spec": model.config.to_dict(), "weights": model.state_dict()},
        "data": data_spec(cfg, class_names),
        "costs": costs,
    }


def load_backbone(path: str, model: ResizableModel) -> dict[str, Any]:
    """Loads a backbone checkpoint into `model` and returns the whole checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of a model with other settings.
    """
    payload = read_payload(path)
    if model.kind != kind_of(payload):
        raise CheckpointError(
            f"{path} is of a {KINDS[kind_of(payload)].__name__}, the config asks for a "
            f"{type(model).__name__} (DVT.ENABLE)"
        )
    if differing := model.config.differences(config_of(payload)):
        raise CheckpointError(
            f"{path} is of another model: {', '.join(differing)}; "
            "TRAIN.CHECKPOINT_FILE_PATH takes its weights to other lengths, frames, pixels and classes"
        )
    model.load_state_dict(payload["model"]["weights"])
    return payload


def kind_of(payload: dict[str, Any]) -> str:
    """A key of `KINDS`."""
    return payload["model"].get("kind", "revit")


def config_of(payload: dict[str, Any]) -> ReViTConfig:
    """The settings of a checkpoint's model."""
    return CONFIGS[kind_of(payload)].from_dict(payload["model"]["spec"])


def model_from(payload: dict[str, Any]) -> ResizableModel:
    """The model of a checkpoint, ready to use."""
    model = KINDS[kind_of(payload)](config_of(payload))
    model.load_state_dict(payload["model"]["weights"])
    return model.eval()


def read_payload(path: str, part: str = "model", device: str = "cpu") -> dict[str, Any]:
    """A checkpoint of this project that holds `part`; CheckpointError for anything else."""
    if g_pathmgr.isdir(path):
        raise CheckpointError(f"{path}: a folder; name a file in it, such as a run's model.pyth; {CONVERT}")
    return check_payload(path, checkpoint.load(path, device), part)


def check_payload(path: str, payload: dict[str, Any], part: str = "model") -> dict[str, Any]:
    """`payload`, which was read from `path`; CheckpointError unless it is this project's and holds `part`."""
    if payload.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of revit_video; {CONVERT}")
    if part not in payload:
        raise CheckpointError(f"{path} holds no {part}; a run's model.pyth does")
    return payload


def assigner_payload(cfg: CfgNode, network: TokenLengthAssigner, settings: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint of the assigner holds: its weights and the settings of the policies."""
    assigner = {"spec": assigner_spec(cfg), "weights": network.state_dict()}
    return {"format": FORMAT, "assigner": assigner, "policy": settings}


def read_assigner(path: str, cfg: CfgNode) -> dict[str, Any]:
    """A checkpoint of `assigner_payload`.

    Raises:
        CheckpointError: it cannot be read, or chooses among another number of lengths.
    """
    payload = read_payload(path, "assigner")
    theirs, ours = payload["assigner"]["spec"]["num_lengths"], len(cfg.REVIT.TOKEN_LENGTHS)
    if theirs != ours:
        raise CheckpointError(f"{path} chooses among {theirs} token lengths, the config has {ours}")
    return payload


def assigner_from(payload: dict[str, Any]) -> TokenLengthAssigner:
    """The assigner of a checkpoint, ready to use."""
    network = TokenLengthAssigner(**payload["assigner"]["spec"])
    network.load_state_dict(payload["assigner"]["weights"])
    return network.eval()
