"""Initialising a ReViT from another model's weights: pure functions from their state dict to a complete one.

TimeSformer's names are the common ones: `blocks.0.temporal_attn.qkv.weight`, `pos_embed`, `head.weight`.
A ViT of timm has the same, without the temporal ones; others are renamed (`layouts`); a ReViT at one of its
token lengths is a TimeSformer (`at_length`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from revit_video.length import TokenLength
from revit_video.models.accounting import Report, patterns
from revit_video.models.base import ResizableModel
from revit_video.models.config import NORM_EPS, DVTConfig, ReViTConfig
from revit_video.models.embed import OnePositionEmbed
from revit_video.models.layouts import KERNEL, REGISTERS, Weights
from revit_video.models.resampling import resampled
from revit_video.models.revit import ReViT
from revit_video.models.untrusted import believed

PER_LENGTH = re.compile(r"((?:^|\.)(?:norm(?:[12]|_pre)?|temporal_norm1|patch_embed|pos_embed))\.(\d+)")
# Weights that the source lacks start as copies of a twin. Temporal parts: TimeSformer's initialisation from
# an image model. The distillation token and head: as twins of the class token's, the mean of both heads is
# the pretrained prediction at the first step; the two losses then move them apart.
TEMPORAL_TWINS = {".temporal_norm1.": ".norm1.", ".temporal_attn.": ".attn."}
DISTILLATION_TWINS = {"dist_token": "cls_token", "head_dist.": "head."}
REUSE = "_reuse."  # in the names of weights that only a DVT has
ZERO_IN_IMAGE_MODELS = (".temporal_fc.", "time_embed")
LVVIT_STEM = "patch_embed.conv1.weight"  # tells an LV-ViT's weights from a ViT's
SHARED_SETTINGS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "attention", "residual_scale", "norm_eps"),
    *("head_norm_eps", "positions", "pool", "act"),
)
SIZES_IN_WEIGHTS = ("embed_dim", "depth", "mlp_ratio")
UNTOLD = ("norm_eps", "head_norm_eps", "act")  # what weights alone do not show
USUAL: dict[str, Any] = dict(residual_scale=1.0, norm_eps=NORM_EPS, pool="cls", act="gelu")


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights to start from, and what is known of their model.

    Attributes:
        name: for messages, such as its path.
        lengths: its token lengths, longest first; only one, unless it is a ReViT.
        states: per length, the weights under TimeSformer's names.
        settings: what is known of its `ReViTConfig`; an image model has no `attention`, and suits every kind.
        data: what is known of its clips, under the names of a checkpoint: `mean`, `std`, `class_names` ...
        config: a ReViT's; None for other models.
        notes: remarks for the report.
        steps: steps in time with position embeddings of their own.
        cascade: its lengths are those of a DVT, each with a state of its own, what it reuses included.
    """

    name: str
    lengths: tuple[TokenLength, ...]
    states: tuple[Weights, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    config: ReViTConfig | None = None
    notes: tuple[str, ...] = ()
    steps: int = 1
    cascade: bool = False

    @property
    def attention(self) -> str | None:
        """None for an image model."""
        return self.settings.get("attention")

    @property
    def num_heads(self) -> int | None:
        """None if unknown."""
        return self.settings.get("num_heads")

    @property
    def num_classes(self) -> int:
        """0 without a head."""
        head = self.states[0].get("head.weight")
        return 0 if head is None else len(head)

    def without_head(self) -> PretrainedWeights:
        """These weights for other classes."""
        states = tuple({k: v for k, v in state.items() if not k.startswith("head")} for state in self.states)
        return replace(self, states=states)

    def of_length(self, i: int) -> PretrainedWeights:
        """One transformer of a cascade."""
        name = f"{self.name} at {self.lengths[i]}"
        return replace(
            self, name=name, lengths=self.lengths[i : i + 1], states=self.states[i : i + 1], cascade=False
        )

    def leaves_open(self, name: str) -> bool:
        """Whether nothing tells this setting of its model."""
        return name not in self.settings and (name != "head_norm_eps" or "norm_eps" not in self.settings)

    @property
    def is_distilled(self) -> bool:
        """Whether its longest length has a distillation token."""
        return "dist_token" in self.states[0]

    @property
    def halving(self) -> int:
        """Factor by which LV-ViT's stem shrinks the frame before the patches; 1 without that stem."""
        return 2 if LVVIT_STEM in self.states[0] else 1

    @property
    def sizes(self) -> dict[str, Any]:
        """Values of `SHARED_SETTINGS`; None if unknown."""
        state, known = self.states[0], USUAL | self.settings
        width, hidden = len(state[KERNEL]), state.get("blocks.0.mlp.fc1.weight")
        blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
        ratio = None if hidden is None else len(hidden) / width
        known |= {"embed_dim": width, "depth": len(blocks), "mlp_ratio": ratio}
        known.setdefault("positions", "separate" if self.attention else None)  # an image model's have no time
        known["head_norm_eps"] = known.get("head_norm_eps") or known["norm_eps"]
        return {name: known.get(name) for name in SHARED_SETTINGS}


def single_length(
    name: str,
    state: Weights,
    *,
    data: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    steps: int = 1,
    **settings: Any,
) -> PretrainedWeights:
    """A ViT's or a TimeSformer's `state`, under TimeSformer's names; see `PretrainedWeights`.

    Raises:
        ValueError: it is neither, or its grid is not square.
    """
    needed = [*(["cls_token"] if settings.get("pool", "cls") == "cls" else []), "pos_embed", KERNEL]
    if absent := [key for key in needed if key not in state]:
        raise ValueError(
            f"{name} holds no ViT or TimeSformer: it lacks {', '.join(absent)}; it has {patterns(state)}"
        )
    state = _without_layer_scale(state)
    special = ("cls_token" in state) + ("dist_token" in state)
    places = state["pos_embed"].numel() // len(state[KERNEL]) - special
    side = math.isqrt(max(places // steps, 0))
    if side == 0 or steps * side**2 != places:
        raise ValueError(
            f"{name}: pos_embed has {places + special} places, not those of special tokens and "
            + ("a square grid" if steps == 1 else f"{steps} square grids")
        )
    length, known = TokenLength(side, side), {k: v for k, v in settings.items() if v is not None}
    known |= {"registers": state[REGISTERS].shape[1] if REGISTERS in state else 0}
    known |= {"pre_norm": "norm_pre.weight" in state}
    return PretrainedWeights(name, (length,), (state,), known, data or {}, None, notes, steps)


@torch.no_grad()
def _without_layer_scale(state: Weights) -> dict[str, Tensor]:
    """`state` with LayerScale (CaiT, DINOv2) folded into the last linear map of each residual branch.

    DINOv2's mask token, which only its pretraining uses, is left out.
    """
    folded = {name: value for name, value in state.items() if name != "mask_token"}
    for name in state:
        if match := re.fullmatch(r"(blocks\.\d+\.)(ls[12])\.gamma", name):
            gamma = folded.pop(name)
            branch = match[1] + {"ls1": "attn.proj", "ls2": "mlp.fc2"}[match[2]]
            for key in (f"{branch}.weight", f"{branch}.bias"):
                if key in folded and gamma.shape == folded[key].shape[:1]:
                    folded[key] = gamma.view(-1, *[1] * (folded[key].ndim - 1)) * folded[key]
                elif key in folded:
                    raise ValueError(f"{name} has {gamma.numel()} values, {key} {len(folded[key])} rows")
    return folded


def all_lengths(name: str, model: ReViT, **known: Any) -> PretrainedWeights:
    """A ReViT's weights at all its lengths."""
    states = tuple(at_length(model, i) for i in range(len(model.lengths)))
    config, steps = model.config, model.config.placed_steps
    settings = {name: getattr(config, name) for name in SHARED_SETTINGS if name not in SIZES_IN_WEIGHTS}
    return PretrainedWeights(name, model.lengths, states, settings, config=config, steps=steps, **known)


def cascade_of(parts: Sequence[PretrainedWeights], config: DVTConfig | None = None) -> PretrainedWeights:
    """A DVT's weights, of its transformers, longest first.

    Args:
        config: a checkpoint's of this project; None for its authors' models.
    """
    first = parts[0]
    return replace(
        first,
        lengths=tuple(part.lengths[0] for part in parts),
        states=tuple(part.states[0] for part in parts),
        settings=first.settings | {"upsample": config.upsample if config else "nearest"},
        config=config,
        cascade=True,
    )


@torch.no_grad()
def at_length(model: ReViT, i: int) -> dict[str, Tensor]:
    """Weights used at length `i`, under TimeSformer's names; `dist_token` and `head_dist` only if used."""
    state = {}
    norm = min(i, len(model.norm) - 1)  # a single one where the lengths share it
    for name, value in model.state_dict().items():
        common, own = split_name(name)
        if not common.startswith(("patch_embed", "pos_embed")) and own in (None, norm):
            state[common] = value
    if not model.config.distils_at(i):
        state = {name: value for name, value in state.items() if "dist" not in name}
    embed = {f"patch_embed.{name}": value for name, value in model.patch_embed.weights(i).items()}
    return state | embed | {"pos_embed": model.pos_embed[i].detach()}


def split_name(name: str) -> tuple[str, int | None]:
    """`blocks.0.norm1.1.bias` -> `("blocks.0.norm1.bias", 1)`; None for a weight that all lengths share."""
    match = PER_LENGTH.search(name)
    if match is None:
        return name, None
    return name[: match.end(1)] + name[match.end() :], int(match[2])


# ---- Initialisation --------------------------------------------------------------------------------------


def initialise_parts(model: ResizableModel, source: PretrainedWeights) -> list[Report]:
    """`initialise` for every part of `model`: a ReViT, or a DVT's transformers, from a DVT's one by one.

    Raises:
        ValueError: see `initialise`; or one is a DVT and the other is not its like.
    """
    config = model.config
    if not source.cascade or not isinstance(config, DVTConfig) or source.lengths != model.lengths:
        return [initialise(part, source) for part in model.parts]
    if config.upsample != (theirs := source.settings["upsample"]):
        raise ValueError(f"DVT.UPSAMPLE: {source.name} was trained with {theirs}, not {config.upsample}")
    return [initialise(part, source.of_length(i)) for i, part in enumerate(model.parts)]


def initialise(model: ReViT, source: PretrainedWeights) -> Report:
    """Start every weight of `model` from `source`; heads for other classes keep their initial weights.

    Embeddings are resampled to the model's grids, kernels (as in FlexiViT) and frames (linearly). Each token
    length starts from the source's shortest one that is no shorter, or from the longest; a stem, which has
    running means as well, only from one with the same convolutions.

    Raises:
        ValueError: the source is of another model, lacks weights, or has some that this model cannot use.
    """
    with believed(source.name, "weights"):
        _check_settings(model.config, source)
        fitted = {name: _fit(name, like, model, source) for name, like in model.state_dict().items()}
        ignored = _check_accounted(fitted, model, source)
        model.load_state_dict({name: each.value for name, each in fitted.items()}, strict=True)
    ours, usual = model.config, source.sizes
    open_ones = [n for n in UNTOLD[::2] if source.leaves_open(n) and getattr(ours, n) != usual[n]]
    notes = [f"{n} {getattr(ours, n)}, as the config says: the file does not tell" for n in open_ones]
    report = Report(source.name, (*source.notes, *notes))
    for name, each in fitted.items():
        report.add(each.verb, name, each.remark)
    for name in ignored:
        report.add("ignored", name)
    return report


@dataclass(frozen=True)
class Fitted:
    """The value of one weight of the model.

    Attributes:
        key: name of the source's weight that it was made of; None if none was.
        verb, remark: see `Report.add`; the verb `lacking` says that there is no value.
    """

    value: Tensor
    verb: str
    remark: str = ""
    key: str | None = None


@torch.no_grad()
def _fit(name: str, like: Tensor, model: ReViT, source: PretrainedWeights) -> Fitted:
    """The value of the weight `name`, which is `like` in the model as it is, from `source`.

    Raises:
        ValueError: the source's weight does not fit.
    """
    common, own = split_name(name)
    if common.startswith("head") and source.num_classes != model.num_classes:
        theirs = source.num_classes or "none"
        return Fitted(like, "initialised", f"new: {model.num_classes} classes, the source has {theirs}")
    head, width = source.states[0].get("head.weight"), model.config.embed_dim
    if common.startswith("head") and head is not None and head.shape[1] != width:
        words = f"new: the source's reads {head.shape[1]} channels, not a token's {width}"
        return Fitted(like, "initialised", words)
    if REUSE in common and common not in source.states[0]:
        return Fitted(like, "initialised", "new: what a DVT reuses passes through it")
    target = _target(model, common, own)
    state, grid = source.states[-1], source.lengths[-1]
    if own is not None or common.startswith(("patch_embed", "pos_embed")):
        grid = source_length(source.lengths, target)
        state = source.states[source.lengths.index(grid)]
    if common.startswith("patch_embed") and not _has_stem(state, model, own):
        return Fitted(like, "initialised", "new: the source has another stem")
    key, remark = _origin(common, source, state)
    if key is None and common.startswith(("norm.", "dist_token")) and remark:
        return Fitted(like, "initialised", remark)
    if key is None:
        return Fitted(torch.zeros_like(like), "initialised" if remark else "lacking", remark)
    value = resampled(model, source.steps, common, state[key].to(like.dtype), like, grid, target)
    if own is not None and common.startswith("patch_embed.attention"):
        stems: Any = model.patch_embed
        value = stems[own].fitted(common.removeprefix("patch_embed."), value)
    if value.shape != like.shape:
        shapes = [" x ".join(map(str, tensor.shape)) for tensor in (state[key], like)]
        raise ValueError(f"{source.name}: {key} is {shapes[0]}, which does not fit {name}, {shapes[1]}")
    if common.startswith("pos_embed"):
        changed = (grid, source.steps) != (target, model.config.placed_steps) and like.ndim > 2
        changed &= common != "pos_embed.special"
    else:
        changed = value.shape != state[key].shape
    return Fitted(value, "initialised" if remark else "resampled" if changed else "copied", remark, key)


def source_length(lengths: Sequence[TokenLength], wanted: TokenLength) -> TokenLength:
    """The shortest of `lengths` (longest first) that is no shorter than `wanted`, or the longest."""
    longer = [length for length in lengths if length.count >= wanted.count]
    return longer[-1] if longer else lengths[0]


def _check_settings(config: ReViTConfig, source: PretrainedWeights) -> None:
    if source.cascade:
        raise ValueError(
            f"{source.name} is a DVT, whose models do not stand alone: only a DVT of its lengths can start "
            f"from it, DVT.ENABLE True REVIT.TOKEN_LENGTHS [{', '.join(map(str, source.lengths))}]"
        )
    ours = {name: getattr(config, name) for name in SHARED_SETTINGS}
    ours["mlp_ratio"] = int(config.embed_dim * config.mlp_ratio) / config.embed_dim
    ours["head_norm_eps"] = config.head_norm_eps or config.norm_eps
    differing = [
        f"{name} {theirs} (here: {ours[name]})"
        for name, theirs in source.sizes.items()
        if not (name in UNTOLD and source.leaves_open(name))
        and theirs not in (None, ours[name])
        and not {theirs, ours[name]} <= {"joint", "fixed"}
    ]
    if differing:
        raise ValueError(f"{source.name} is of another model: {', '.join(differing)}")
    if source.is_distilled and source.config is None and not config.token_at_longest:
        raise ValueError(
            f"{source.name} is a distilled DeiT, whose distillation token takes part in its attention: give "
            "the longest length one too (REVIT.DISTILL.TOKEN_AT_LONGEST True), or start from the plain DeiT"
        )


def _check_accounted(fitted: Mapping[str, Fitted], model: ReViT, source: PretrainedWeights) -> list[str]:
    """The source's weights to ignore; ValueError if others are unused, or if it lacks some."""
    used = {each.key for each in fitted.values()}
    unused = [name for name in dict.fromkeys(k for state in source.states for k in state) if name not in used]
    ignorable: tuple[str, ...] = ()
    if not any(key and key.startswith("head") for key in used):  # for other classes, or of another width
        ignorable += ("head",)
    if not any(key and key.startswith("patch_embed") for key in used):  # all of another stem
        ignorable += ("patch_embed",)
    if source.config is not None:  # ours: all its parts are known, this model may do without some
        ignorable += ("",)
    ignored = [name for name in unused if name.startswith(ignorable)]
    left = [name for name in unused if name not in ignored]
    lacking = [split_name(name)[0] for name, each in fitted.items() if each.verb == "lacking"]
    if lacking or left:
        faults = [f"lacks {patterns(dict.fromkeys(lacking))}"] if lacking else []
        faults += [f"has {patterns(left)}, which mean nothing in this model"] if left else []
        raise ValueError(f"{source.name} {' and '.join(faults)}")
    if source.config is not None:
        lengths = set(source.lengths) - {source_length(source.lengths, length) for length in model.lengths}
        ignored += [f"token length {length}" for length in lengths]
    return ignored


def _target(model: ReViT, common: str, own: int | None) -> TokenLength:
    """The length of an embedding: its own; the learned one of a shared grid; else the shortest."""
    if own is not None:
        return model.pos_embed.lengths[own]
    if common == "pos_embed.grid" and isinstance(model.pos_embed, OnePositionEmbed):
        return TokenLength(*model.pos_embed.grid.shape[2:])
    return model.lengths[-1]


def _has_stem(state: Weights, model: ReViT, own: int | None) -> bool:
    """Whether `state` has the convolutions of the model's stem at this length, or soft splits as it has."""
    weights = {} if own is None else model.patch_embed.weights(own)
    ours = {f"patch_embed.{name}": weight for name, weight in weights.items()}
    convs, splits = (
        [{name: w.shape for name, w in each.items() if name.startswith(part)} for each in (ours, state)]
        for part in ("patch_embed.conv", "patch_embed.attention")
    )
    return convs[0] == convs[1] and splits[0].keys() == splits[1].keys()


def _origin(common: str, source: PretrainedWeights, state: Weights) -> tuple[str | None, str]:
    """The source's weight to start from, with a remark if it is a twin; `(None, "")` if there is none."""
    image = source.attention is None
    key = "pos_embed" if common.startswith("pos_embed") else common
    if key in state:
        return key, ""
    if image and any(part in common for part in ZERO_IN_IMAGE_MODELS):
        return None, "zero"
    if common.startswith(tuple(DISTILLATION_TWINS)) and "cls_token" not in state:
        # No token has learned to be read: it starts as noise, and its head gives every class the same.
        return None, "new: there is no class token" if common == "dist_token" else "zero"
    for part, twin in {**DISTILLATION_TWINS, **(TEMPORAL_TWINS if image else {})}.items():
        if part in common and (key := common.replace(part, twin)) in state:
            return key, f"as {twin.strip('.')}"
    if common.startswith("norm.") and not source.num_classes:
        return None, "new: the source has none"
    return None, ""
