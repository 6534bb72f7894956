"""The rows of the paper's tables: which ones a table needs, and the keys that each lays over a config.

A row is a file of configs/Ablation; what its `_BASE_` says is for running it alone and is left out here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from revit_video.config import yaml_options
from revit_video.from_cfg.model import model_config
from revit_video.length import TokenLength, token_lengths

ABLATIONS = Path(__file__).parents[2] / "configs" / "Ablation"
OWN, NO_DISTILLATION, DVT = "revit", "no_distillation", "dvt"
PAPERS_TAU = (0.5, 0.9)  # Table 2
TABLE3 = (
    *("shared_both", "shared_patch", "shared_position", OWN),
    *("resized_patch", "resized_position", "shared_norm"),
)


def row_options(name: str) -> list[Any]:
    """`["KEY", value, ...]` of a row; none for `revit`, which is the config as it is."""
    if name == OWN:
        return []
    file, _, length = name.partition("_") if name.startswith("single_") else (name, "", "")
    options = yaml_options(str(ABLATIONS / f"{file}.yaml"))
    return [*options, "REVIT.TOKEN_LENGTHS", [length]] if length else options


def single(length: TokenLength | str) -> str:
    """Name of the row with one token length alone."""
    return f"single_{length}"


def tau_row(tau: float, own_tau: float, own_gate: float) -> str:
    """Name of the row distilled at `tau` as the paper does, from the first step.

    Args:
        own_tau, own_gate: REVIT.DISTILL.TAU and MIN_TEACHER_TOP1 of the config, which is this row itself
            where they are the paper's.
    """
    return OWN if (own_tau, own_gate) == (tau, 0) else f"tau_{tau:g}"


def lengths_of(cfg: CfgNode) -> tuple[TokenLength, ...]:
    """The config's token lengths, longest first."""
    return token_lengths(cfg.REVIT.TOKEN_LENGTHS)


def can_be_dvt(cfg: CfgNode) -> bool:
    """Whether DVT can be built of the config's model: not of LV-ViT, because of its dense head."""
    config = model_config(cfg)
    return config.attention != "joint_space_time" and config.pool == "cls" and not config.dense_head


# ---- Rows of each table; ValueError where the config cannot give them ------------------------------------


def needs_table1(cfg: CfgNode) -> list[str]:
    _require_adaptive(cfg, "table1")
    return [single(lengths_of(cfg)[0]), OWN]


def needs_table2(cfg: CfgNode) -> list[str]:
    _require_static(cfg, "table2")
    distill = cfg.REVIT.DISTILL
    if not distill.ENABLE:
        raise ValueError(
            "table2: its subject is self-distillation, and the config has REVIT.DISTILL.ENABLE off"
        )
    distilled = (tau_row(tau, distill.TAU, distill.MIN_TEACHER_TOP1) for tau in PAPERS_TAU)
    return [*map(single, lengths_of(cfg)), NO_DISTILLATION, *distilled, OWN]


def needs_table3(cfg: CfgNode) -> list[str]:
    _require_static(cfg, "table3")
    for key in ("PATCH_EMBED", "POS_EMBED", "NORM"):
        if cfg.REVIT[key] != "per_length":
            raise ValueError(f"table3: REVIT.{key} must be per_length in the config, got {cfg.REVIT[key]}")
    return list(TABLE3)


def needs_fig5(cfg: CfgNode) -> list[str]:
    _require_adaptive(cfg, "fig5")
    return [OWN, DVT] if can_be_dvt(cfg) else [OWN]


def needs_fig6(cfg: CfgNode) -> list[str]:
    _require_adaptive(cfg, "fig6")
    return [OWN]


def needs_fig7(cfg: CfgNode) -> list[str]:
    """None: training steps are timed on random clips."""
    _require_lengths(cfg, "fig7")
    return []


def _require_lengths(cfg: CfgNode, what: str) -> None:
    if len(cfg.REVIT.TOKEN_LENGTHS) < 2:
        (length,) = lengths_of(cfg)
        raise ValueError(f"{what}: REVIT.TOKEN_LENGTHS must have at least 2 lengths, got {length} alone")


def _require_static(cfg: CfgNode, what: str) -> None:
    _require_lengths(cfg, what)
    if not cfg.TEST.ENABLE or "static" not in cfg.TEST.POLICIES:
        raise ValueError(
            f"{what}: each length is tested; TEST.ENABLE must be True, TEST.POLICIES have static"
        )


def _require_adaptive(cfg: CfgNode, what: str) -> None:
    _require_static(cfg, what)
    if "assigned" not in cfg.TEST.POLICIES or not (cfg.MINE.ENABLE and cfg.ASSIGNER.ENABLE):
        raise ValueError(
            f"{what}: the adaptive policy is its subject; TEST.POLICIES must have assigned, "
            "MINE.ENABLE and ASSIGNER.ENABLE must be True"
        )
