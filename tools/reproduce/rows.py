"""What is trained and tested for the tables: each row is the given config with a few keys of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from revit_video.length import TokenLength, token_lengths
from revit_video.models.presets import preset

STATIC_ONLY = ("MINE.ENABLE", False, "ASSIGNER.ENABLE", False, "TEST.POLICIES", ["static"])
PAPERS_TAU = (0.5, 0.9)  # Table 2
# What a DVT does not have, or needs otherwise than the config of a ReViT may say.
AS_DVT = (
    *(
        "DVT.ENABLE",
        True,
        "TRAIN.METHOD",
        "revit_b",
        "MODEL.COMPILE",
        False,
        "ADAPTIVE.CASCADE_THRESHOLD",
        0.0,
    ),
    *("REVIT.NORM", "per_length", "REVIT.PATCH_EMBED", "per_length", "REVIT.POS_EMBED", "per_length"),
)
OWN, NO_DISTILLATION, DVT = "revit", "no_distillation", "dvt"


@dataclass(frozen=True)
class Row:
    """One training, with every seed: `name` is its folder, `overrides` its `KEY, VALUE` pairs."""

    name: str
    title: str
    overrides: tuple[Any, ...] = ()


def rows_of(cfg: CfgNode) -> dict[str, Row]:
    """Every row that a table may ask for, by name."""
    lengths = lengths_of(cfg)
    rows = [
        Row(OWN, "ReViT, the config as it is"),
        *(
            Row(
                single(length),
                f"{length} alone",
                ("REVIT.TOKEN_LENGTHS", [str(length)], "TRAIN.METHOD", "revit_b", *STATIC_ONLY),
            )
            for length in lengths
        ),
        _ablation(NO_DISTILLATION, "ReViT, no self-distillation", "REVIT.DISTILL.ENABLE", False),
        *(
            _ablation(f"tau_{tau:g}", f"ReViT, self-distillation, τ {tau:g}", "REVIT.DISTILL.TAU", tau)
            for tau in PAPERS_TAU
        ),
        _ablation("shared_patch", "shared kernel (its centre)", "REVIT.PATCH_EMBED", "shared"),
        _ablation("shared_position", "shared positions (zero-padded)", "REVIT.POS_EMBED", "shared"),
        _ablation("shared_both", "both shared", "REVIT.PATCH_EMBED", "shared", "REVIT.POS_EMBED", "shared"),
        _ablation("resized_patch", "one kernel, resampled", "REVIT.PATCH_EMBED", "resized"),
        _ablation("resized_position", "one grid of positions, interpolated", "REVIT.POS_EMBED", "resized"),
        _ablation("shared_norm", "shared layer norms", "REVIT.NORM", "shared"),
        Row(
            DVT,
            "DVT",
            (*AS_DVT, *STATIC_ONLY[:4], "TEST.POLICIES", ["static", "cascade"]),
        ),
    ]
    return {row.name: row for row in rows}


def _ablation(name: str, title: str, *overrides: Any) -> Row:
    return Row(name, title, (*overrides, *STATIC_ONLY))


def can_be_dvt(cfg: CfgNode) -> bool:
    """Whether the config's model can be DVT's: LV-ViT's, with its dense head, cannot."""
    joint = cfg.TIMESFORMER.ATTENTION_TYPE == "joint_space_time"
    return not joint and not preset(cfg.MODEL.ARCH).get("dense_head")


def lengths_of(cfg: CfgNode) -> tuple[TokenLength, ...]:
    """The config's token lengths, longest first."""
    return token_lengths(cfg.REVIT.TOKEN_LENGTHS)


def single(length: TokenLength | str) -> str:
    """Name of the row that has this length alone."""
    return f"single_{length}"


def tau_row(cfg: CfgNode, tau: float) -> str:
    """Name of the row distilled at `tau`: the config itself, where that is its own temperature."""
    return OWN if tau == cfg.REVIT.DISTILL.TAU else f"tau_{tau:g}"
