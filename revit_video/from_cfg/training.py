"""How a config trains the backbone: distillation, precision, optimiser and learning rate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from revit_video.models.base import ResizableModel, count_params
from revit_video.runtime.ranks import Ranks
from revit_video.train.graphed import graphs_serve
from revit_video.train.losses import Distillation
from revit_video.train.optim import (
    LearningRate,
    ParameterGroups,
    cosine_schedule,
    make_optimizer,
    step_schedule,
    warmup_epochs,
    with_warmup,
)
from revit_video.train.steps import trainable

COMPILE_PAYS = 2_500  # steps, for two minutes of compiling (docs/gpu.md)
ANEW = "take another OUTPUT_DIR, or train anew with TRAIN.AUTO_RESUME False"

logger = logging.getLogger(__name__)


def distillation(cfg: CfgNode) -> Distillation | None:
    """How the shorter lengths learn from the longest; None with `REVIT.DISTILL.ENABLE` off."""
    how = cfg.REVIT.DISTILL
    return Distillation(how.TAU, how.LAMBDA, how.HARD, how.MIN_TEACHER_TOP1) if how.ENABLE else None


def autocast(cfg: CfgNode, ranks: Ranks) -> torch.dtype | None:
    """dtype of mixed precision in training, None for full precision."""
    if not cfg.TRAIN.MIXED_PRECISION or ranks.device.type != "cuda":
        return None
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    name = torch.cuda.get_device_name(ranks.device)
    logger.info("%s only emulates bfloat16, slower than float32: training in float32", name)
    return None


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
        ParameterGroups(solver.DECAY_ALL, solver.LAYER_DECAY, solver.HEAD_LR_FACTOR),
    )


def compile_model(cfg: CfgNode, model: ResizableModel, ranks: Ranks, steps: int) -> None:
    """Compiles the model where `MODEL.COMPILE` asks for it, or a training of so many steps gains by it.

    Passes that are bound by launching gain more by CUDA graphs, which compiled ones do not use.
    """
    if cfg.MODEL.COMPILE == "True":
        model.compile()
        return
    clips = cfg.TRAIN.BATCH_SIZE // ranks.data_size // cfg.TRAIN.ACCUMULATE
    pays = ranks.device.type == "cuda" and steps >= COMPILE_PAYS and not graphs_serve(model, clips)
    if cfg.MODEL.COMPILE == "auto" and pays and cfg.TRAIN.METHOD != "unfreeze":
        logger.info("the first step takes minutes, since it compiles the model (MODEL.COMPILE auto)")
        model.compile(optional=True)


def freeze(cfg: CfgNode, model: ResizableModel) -> None:
    """Stops the training of what `TRAIN.FREEZE` names."""
    what = cfg.TRAIN.FREEZE
    if what in ("", "0"):
        return
    for part in model.parts:
        part.freeze(None if what == "backbone" else int(what))
    learning = sum(parameter.numel() for parameter in trainable(model))
    logger.info(
        "%s of %s parameters learn (TRAIN.FREEZE %s)", f"{learning:,}", f"{count_params(model):,}", what
    )
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        logger.warning("TRAIN.FREEZE without TRAIN.CHECKPOINT_FILE_PATH: what is frozen is random")


def check_resumable(cfg: CfgNode, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """ValueError when the training `state` is another run's: of another seed or optimiser, or of more epochs.

    Checkpoints of earlier versions tell no more than this.
    """
    if state["seed"] != cfg.RNG_SEED:
        raise ValueError(
            f"RNG_SEED: the run in OUTPUT_DIR has seed {state['seed']}, not {cfg.RNG_SEED}; {ANEW}"
        )
    theirs, ours = state["optimizer"]["param_groups"], optimizer.param_groups
    if theirs[0].keys() - {"lr_scale"} != ours[0].keys() - {"lr_scale"}:
        raise ValueError(
            "SOLVER.OPTIMIZING_METHOD: the run in OUTPUT_DIR was trained with another one; to go on with its "
            "weights alone, name its checkpoint with TRAIN.CHECKPOINT_FILE_PATH and take another OUTPUT_DIR"
        )
    decay = max(group["weight_decay"] for group in theirs)
    if (decay > 0) != (cfg.SOLVER.WEIGHT_DECAY > 0):  # the others of its groups' settings are in the record
        raise ValueError(
            f"SOLVER.WEIGHT_DECAY: the run in OUTPUT_DIR was trained with {decay:g}, not "
            f"{cfg.SOLVER.WEIGHT_DECAY:g}; {ANEW}"
        )
    if (before := _divided(theirs)) != (now := _divided(ours)):
        raise ValueError(
            "SOLVER.LAYER_DECAY, SOLVER.HEAD_LR_FACTOR, SOLVER.DECAY_ALL, TRAIN.FREEZE: the run in "
            f"OUTPUT_DIR was trained with {_in_words(before)}, these keys ask for {_in_words(now)}; {ANEW}"
        )
    if (state["epoch"], state["batch"]) > (cfg.SOLVER.MAX_EPOCH, 0):
        more = f" and {state['batch']} steps" if state["batch"] else ""
        raise ValueError(
            f"SOLVER.MAX_EPOCH: the run in OUTPUT_DIR has trained {state['epoch']} epochs{more}, more than "
            f"{cfg.SOLVER.MAX_EPOCH}; {ANEW}"
        )


def _divided(groups: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """How many parameters each group of an optimiser has, and the factor on their learning rate."""
    return [(len(group["params"]), round(group.get("lr_scale", 1.0), 9)) for group in groups]


def _in_words(groups: Sequence[tuple[int, float]]) -> str:
    factors = sorted({factor for _, factor in groups})
    rates = f"{factors[0]:.3g}" if len(factors) == 1 else f"{factors[0]:.3g} to {factors[-1]:.3g}"
    return f"{sum(count for count, _ in groups)} parameters at {rates} times the rate in {len(groups)} groups"


def learning_rate(cfg: CfgNode, batches: int) -> LearningRate:
    """The backbone's learning rate at each fractional epoch of `batches` steps."""
    solver, factor = cfg.SOLVER, lr_factor(cfg)
    base, end, start = (factor * lr for lr in (solver.BASE_LR, solver.COSINE_END_LR, solver.WARMUP_START_LR))
    warmup = warmup_epochs(solver.WARMUP_EPOCHS, batches, solver.MAX_EPOCH)
    if solver.LR_POLICY == "cosine":
        schedule = cosine_schedule(base, end, solver.MAX_EPOCH, warmup)
    else:
        schedule = step_schedule(base, solver.STEPS, solver.LRS)
    return with_warmup(schedule, warmup, start)


def lr_factor(cfg: CfgNode) -> float:
    """By how much the learning rates grow with the batch; they are given for `BASE_LR_BATCH_SIZE` clips."""
    given_for = cfg.SOLVER.BASE_LR_BATCH_SIZE
    return cfg.TRAIN.BATCH_SIZE / given_for if given_for else 1.0
