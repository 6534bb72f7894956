"""Weights of other models in ours, every one accounted for.

The names of TimeSformer are the common ones: `blocks.0.temporal_attn.qkv.weight`, `pos_embed`, `head.weight`.
A ViT of timm has the same, without the temporal ones; transformers' and LV-ViT's are renamed; a ReViT, read
at one of its token lengths, is a TimeSformer (`at_length`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from revit_video.length import TokenLength
from revit_video.models.config import ReViTConfig
from revit_video.models.embed import OnePatchEmbed, OnePositionEmbed, PatchEmbeds, ResizedPatchEmbed
from revit_video.models.norm import NORM_EPS
from revit_video.models.revit import ReViT

State = Mapping[str, Tensor]

OWN_TO_LENGTH = re.compile(r"((?:^|\.)(?:norm[12]?|temporal_norm1|patch_embed|pos_embed))\.(\d+)")
# What has no counterpart starts as a copy of something else. Temporal parts: TimeSformer's way to start
# from an image model. The distillation token and its head: as a twin of the class token, it lets the mean of
# both heads be a pretrained answer from the first step; the two losses then pull the twins apart.
TEMPORAL_TWINS = {".temporal_norm1.": ".norm1.", ".temporal_attn.": ".attn."}
DISTILLATION_TWINS = {"dist_token": "cls_token", "head_dist.": "head."}
REUSE = "_reuse."  # in the names of what only a DVT has
ZERO_IN_IMAGE_MODELS = (".temporal_fc.", "time_embed")
LVVIT_STEM = "patch_embed.conv1.weight"  # tells an LV-ViT's weights from a ViT's


@dataclass(frozen=True)
class Source:
    """Weights to start from.

    Attributes:
        name: what messages call it, such as its path.
        lengths: its token lengths, longest first; a single one, unless it is a ReViT.
        states: for each of them, the weights under TimeSformer's names.
        attention: its kind of blocks; None for an image model, which serves for every kind.
        num_heads: None where it does not tell.
        residual_scale, norm_eps: see `ReViT`.
        data: what it tells of its clips, under the names of a checkpoint: `mean`, `std`, `class_names` ...
        config: a ReViT's; None for other models.
        notes: what else is to be said of it.
    """

    name: str
    lengths: tuple[TokenLength, ...]
    states: tuple[State, ...]
    attention: str | None = None
    num_heads: int | None = None
    residual_scale: float = 1.0
    norm_eps: float = NORM_EPS
    data: dict[str, Any] = field(default_factory=dict)
    config: ReViTConfig | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """0 without a head."""
        head = self.states[0].get("head.weight")
        return 0 if head is None else len(head)

    @property
    def is_distilled(self) -> bool:
        """Whether its longest length has a distillation token."""
        return "dist_token" in self.states[0]

    @property
    def halving(self) -> int:
        """By how much LV-ViT's stem shrinks the frame before it is cut into patches; 1 if it has none."""
        return 2 if LVVIT_STEM in self.states[0] else 1

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of `ReViT` that must be the same; None for what it leaves open."""
        state = self.states[0]
        width, hidden = state["cls_token"].shape[-1], state.get("blocks.0.mlp.fc1.weight")
        blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
        return {
            "embed_dim": width,
            "depth": len(blocks),
            "num_heads": self.num_heads,
            "mlp_ratio": None if hidden is None else len(hidden) / width,
            "attention": self.attention,
            "residual_scale": self.residual_scale,
            "norm_eps": self.norm_eps,
        }


def single_length(name: str, state: State, **known: Any) -> Source:
    """The source of an image model or a TimeSformer, `state` being under TimeSformer's names.

    Raises:
        ValueError: it is neither, or its grid is not square.
    """
    absent = [key for key in ("cls_token", "pos_embed", "patch_embed.proj.weight") if key not in state]
    if absent:
        raise ValueError(
            f"{name} holds no ViT or TimeSformer: it lacks {', '.join(absent)}; it has {patterns(state)}"
        )
    special = 1 + ("dist_token" in state)
    places = state["pos_embed"].numel() // state["cls_token"].shape[-1] - special
    side = math.isqrt(max(places, 0))
    if side == 0 or side**2 != places:
        raise ValueError(
            f"{name}: pos_embed has {places + special} places, not those of special tokens and a square grid"
        )
    return Source(name, (TokenLength(side, side),), (state,), **known)


def revit_source(name: str, model: ReViT, **known: Any) -> Source:
    """The source of a ReViT, with all its lengths."""
    states = tuple(at_length(model, i) for i in range(len(model.lengths)))
    config = model.config
    return Source(
        name,
        model.lengths,
        states,
        config.attention,
        config.num_heads,
        config.residual_scale,
        config.norm_eps,
        config=config,
        **known,
    )


@torch.no_grad()
def at_length(model: ReViT, i: int) -> dict[str, Tensor]:
    """What length `i` reads, under TimeSformer's names, and `dist_token` and `head_dist` if it has them."""
    state = {}
    norm = min(i, len(model.norm) - 1)  # a single one where the lengths share it
    for name, value in model.state_dict().items():
        common, own = _common_name(name)
        if not common.startswith(("patch_embed", "pos_embed")) and own in (None, norm):
            state[common] = value
    if model.config.num_special[i] == 1:
        state = {name: value for name, value in state.items() if "dist" not in name}
    embed = {f"patch_embed.{name}": value for name, value in model.patch_embed.weights(i).items()}
    return state | embed | {"pos_embed": model.pos_embed[i].detach()}


# ---- What became of every weight -------------------------------------------------------------------------


@dataclass
class Report:
    """What became of every weight; `str()` is a few lines."""

    source: str
    notes: tuple[str, ...] = ()
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {
            verb: Counter() for verb in ("copied", "resampled", "initialised", "ignored")
        }
    )

    def add(self, verb: str, name: str, remark: str = "") -> None:
        """`verb` is `copied`, `resampled`, `initialised` or `ignored`; `remark` says from what, or why."""
        parts = name.split(".")
        group = parts[0]
        if group == "blocks":
            group = f"blocks.*.{parts[2]}"
        elif group in ("patch_embed", "pos_embed") and len(parts) > 1:
            group = ".".join(parts[:2])
        self.counts[verb][f"{group} ({remark})" if remark else group] += 1

    def __str__(self) -> str:
        lines = [f"weights of {self.source}"]
        for verb, groups in self.counts.items():
            if groups:
                lines.append(f"  {verb} {groups.total()}: {', '.join(groups)}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def patterns(names: Iterable[str], most: int = 8) -> str:
    """`blocks.*.ls1.gamma (12), norm_pre.bias`: names, those of all blocks in one."""
    counts = Counter(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names)
    shown = [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
    more = [f"{len(shown) - most} more"] if len(shown) > most else []
    return ", ".join(shown[:most] + more) or "nothing"


# ---- Loading ---------------------------------------------------------------------------------------------


@torch.no_grad()
def initialise(model: ReViT, source: Source) -> Report:
    """Starts every parameter of `model` from `source`; the model's own initial heads stay for other classes.

    Embeddings are resampled to the model's grids, kernels (as in FlexiViT) and frames (linearly). Each token
    length starts from the source's shortest one that is no shorter, or from the longest; a stem, which has
    running means as well, only from one of the same convolutions.

    Raises:
        ValueError: the source is of another model, lacks weights, or has some that mean nothing here.
    """
    _check_sizes(model, source)
    report = Report(source.name, source.notes)
    same_classes = source.num_classes == model.num_classes
    read: set[str] = set()
    lacking: list[str] = []
    for name, parameter in model.state_dict().items():
        common, own = _common_name(name)
        if common.startswith("head") and not same_classes:
            theirs = source.num_classes or "none"
            report.add("initialised", name, f"new: {model.num_classes} classes, the source has {theirs}")
            continue
        if REUSE in common:
            report.add("initialised", name, "new: what a DVT reuses passes through it")
            continue
        target = _target(model, common, own)
        state, grid = _state_for(source, common, own, target)
        if common.startswith("patch_embed") and not _has_stem(state, model, own):
            report.add("initialised", name, "new: the source has another stem")
            continue
        key, remark = _origin(common, source, state)
        if key is None and remark:
            parameter.zero_()
            report.add("initialised", name, remark)
            continue
        if key is None:
            lacking.append(common)
            continue
        read.add(key)
        value = _fitted(model, common, state[key], parameter, grid, target)
        if value.shape != parameter.shape:
            shapes = [" x ".join(map(str, tensor.shape)) for tensor in (state[key], parameter)]
            raise ValueError(f"{source.name}: {key} is {shapes[0]}, which does not fit {name}, {shapes[1]}")
        parameter.copy_(value)
        if common.startswith("pos_embed"):
            resampled = grid != target and common != "pos_embed.special"
        else:
            resampled = value.shape != state[key].shape
        report.add("initialised" if remark else "resampled" if resampled else "copied", name, remark)
    _check_accounted(model, source, read, lacking, report)
    return report


def _check_sizes(model: ReViT, source: Source) -> None:
    ours = sizes_of(model.config)
    differing = [
        f"{name} {theirs} (here: {ours[name]})"
        for name, theirs in source.sizes.items()
        if theirs is not None and theirs != ours[name]
    ]
    if differing:
        raise ValueError(f"{source.name} is of another model: {', '.join(differing)}")
    if source.is_distilled and source.config is None and not model.config.token_at_longest:
        raise ValueError(
            f"{source.name} is a distilled DeiT, whose distillation token takes part in its attention: give "
            "the longest length one too (REVIT.DISTILL.TOKEN_AT_LONGEST True), or start from the plain DeiT"
        )


def sizes_of(config: ReViTConfig) -> dict[str, Any]:
    """The settings that a source must share, whether they show in the weights' shapes or not."""
    names = ("embed_dim", "depth", "num_heads", "mlp_ratio", "attention", "residual_scale", "norm_eps")
    hidden = int(config.embed_dim * config.mlp_ratio)
    return {name: getattr(config, name) for name in names} | {"mlp_ratio": hidden / config.embed_dim}


def _check_accounted(
    model: ReViT, source: Source, read: set[str], lacking: Sequence[str], report: Report
) -> None:
    """Whatever of the source was not read is in the report, or in an error."""
    left = [name for name in dict.fromkeys(k for state in source.states for k in state) if name not in read]
    heads = [name for name in left if name.startswith("head")]
    if source.num_classes != model.num_classes:
        for name in heads:
            report.add("ignored", name)
        left = [name for name in left if name not in heads]
    if not any(name.startswith("patch_embed") for name in read):  # all of another stem
        for name in left:
            if name.startswith("patch_embed"):
                report.add("ignored", name)
        left = [name for name in left if not name.startswith("patch_embed")]
    if source.config is not None:  # ours: all its parts are known, this model may do without some
        for name in left:
            report.add("ignored", name)
        for length in set(source.lengths) - {nearest(source.lengths, length) for length in model.lengths}:
            report.add("ignored", f"token length {length}")
        left = []
    if lacking or left:
        faults = [f"lacks {patterns(dict.fromkeys(lacking))}"] if lacking else []
        faults += [f"has {patterns(left)}, which mean nothing in this model"] if left else []
        raise ValueError(f"{source.name} {' and '.join(faults)}")


def _common_name(name: str) -> tuple[str, int | None]:
    """`blocks.0.norm1.1.bias` -> `("blocks.0.norm1.bias", 1)`; None where all lengths share it."""
    match = OWN_TO_LENGTH.search(name)
    if match is None:
        return name, None
    return name[: match.end(1)] + name[match.end() :], int(match[2])


def nearest(lengths: Sequence[TokenLength], wanted: TokenLength) -> TokenLength:
    """The shortest of `lengths` (longest first) that is no shorter than `wanted`, or the longest."""
    longer = [length for length in lengths if length.count >= wanted.count]
    return longer[-1] if longer else lengths[0]


def _target(model: ReViT, common: str, own: int | None) -> TokenLength:
    """The length of an embedding: its own; of a grid for all lengths that grid's; else the shortest."""
    if own is not None:
        return model.lengths[own]
    if common == "pos_embed.grid" and isinstance(model.pos_embed, OnePositionEmbed):
        return TokenLength(*model.pos_embed.grid.shape[2:])
    return model.lengths[-1]


def _has_stem(state: State, model: ReViT, own: int | None) -> bool:
    """Whether `state` has the convolutions that come before the projection at this length, if any."""
    weights = {} if own is None else model.patch_embed.weights(own)
    ours = {f"patch_embed.{name}": w.shape for name, w in weights.items() if name.startswith("conv")}
    return ours == {name: w.shape for name, w in state.items() if name.startswith("patch_embed.conv")}


def _state_for(
    source: Source, common: str, own: int | None, target: TokenLength
) -> tuple[State, TokenLength]:
    """Where a parameter comes from; an embedding of `target`, from that of another length."""
    if own is None and not common.startswith(("patch_embed", "pos_embed")):
        return source.states[-1], source.lengths[-1]
    grid = nearest(source.lengths, target)
    return source.states[source.lengths.index(grid)], grid


def _origin(common: str, source: Source, state: State) -> tuple[str | None, str]:
    """The name of the weights to start from and, where it is another's, the remark; `(None, "")`: nothing."""
    image = source.attention is None
    key = "pos_embed" if common.startswith("pos_embed") else common
    if key in state:
        return key, ""
    if image and any(part in common for part in ZERO_IN_IMAGE_MODELS):
        return None, "zero"
    for part, twin in {**DISTILLATION_TWINS, **(TEMPORAL_TWINS if image else {})}.items():
        if part in common and (key := common.replace(part, twin)) in state:
            return key, f"as {twin.strip('.')}"
    return None, ""


def _fitted(
    model: ReViT, common: str, value: Tensor, like: Tensor, grid: TokenLength, target: TokenLength
) -> Tensor:
    """`value` in the shape of the parameter `like`; `grid` and `target` are the lengths of both."""
    value = value.to(like.dtype)
    if common.endswith(("norm2.weight", "norm2.bias", "mlp.fc1.weight")):
        return torch.cat([value, like[..., value.shape[-1] :]], dim=-1)  # a DVT's read more channels
    if common.startswith("pos_embed"):
        return _positions(common, value, like, grid, target)
    if common == "patch_embed.proj.weight" and value.shape[:2] == like.shape[:2]:
        return _kernel(model.patch_embed, value, like)
    if common == "time_embed" and value.shape[1] != like.shape[1]:
        return F.interpolate(value.transpose(1, 2), size=like.shape[1], mode="linear").transpose(1, 2)
    return value


def _kernel(embed: PatchEmbeds | OnePatchEmbed, value: Tensor, like: Tensor) -> Tensor:
    if value.shape == like.shape or not isinstance(embed, ResizedPatchEmbed):
        return resample_patch_embed(value, list(like.shape[2:]))
    # The one that gives the longest length this kernel: what resampling makes of it there is undone.
    value = resample_patch_embed(value, list(embed.kernels[0]))
    down, across = (torch.linalg.pinv(embed.get_buffer(name)) for name in ("down0", "across0"))
    return down @ value @ across.mT


def _positions(common: str, value: Tensor, like: Tensor, grid: TokenLength, target: TokenLength) -> Tensor:
    """A position embedding of `target` from one `(1, special + N, C)` of `grid`."""
    count = value.shape[1] - grid.count
    # The last special token is the distillation token, or the class token where it is to be its twin.
    special = torch.cat([value[:, :1], value[:, count - 1 : count]], dim=1)
    if common == "pos_embed.special":
        return special[:, : like.shape[1]]
    places = resample_abs_pos_embed(value[:, count:], [target.h, target.w], [grid.h, grid.w], 0)
    if common == "pos_embed.grid":
        return places.transpose(1, 2).unflatten(2, (target.h, target.w))
    return torch.cat([special[:, : like.shape[1] - target.count], places], dim=1)


# ---- LV-ViT's names --------------------------------------------------------------------------------------


def from_lvvit(state: State) -> dict[str, Tensor]:
    """From the names of LV-ViT's authors: its second head is ours for patch tokens."""
    return {re.sub(r"^aux_head\.", "head_dense.", name): value for name, value in state.items()}


# ---- transformers' names ---------------------------------------------------------------------------------

TRANSFORMERS_NAMES = {
    "cls_token": "timesformer.embeddings.cls_token",
    "pos_embed": "timesformer.embeddings.position_embeddings",
    "time_embed": "timesformer.embeddings.time_embeddings",
    "patch_embed.proj": "timesformer.embeddings.patch_embeddings.projection",
    "norm": "timesformer.layernorm",
    "head": "classifier",
    # within a block
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
}


def to_transformers(state: State) -> dict[str, Tensor]:
    """From TimeSformer's names to those of transformers' `TimesformerForVideoClassification`."""
    return _renamed(state, "blocks.", "timesformer.encoder.layer.", TRANSFORMERS_NAMES)


def from_transformers(state: State) -> dict[str, Tensor]:
    """Back; names that are not transformers' stay as they are."""
    if not any(name.startswith("timesformer.") for name in state):  # the model without its head
        state = {f"timesformer.{name}": value for name, value in state.items()}
    names = {theirs: ours for ours, theirs in TRANSFORMERS_NAMES.items()}
    return _renamed(state, "timesformer.encoder.layer.", "blocks.", names)


def _renamed(state: State, blocks: str, new_blocks: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        match = re.fullmatch(rf"({re.escape(blocks)}\d+\.)?(.+?)(\.weight|\.bias)?", name)
        assert match is not None
        block, stem, part = (group or "" for group in match.groups())
        renamed[block.replace(blocks, new_blocks) + names.get(stem, stem) + part] = value
    return renamed
