"""The settings of a model: a frozen, self-validating dataclass per class, stored in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from revit_video.length import (
    TokenLength,
    halved,
    nested_frames,
    patch_geometry,
    soft_splits,
    stem_geometry,
    token_lengths,
)
from revit_video.models.untrusted import LARGEST, shown

Problem = tuple[tuple[str, ...], str]
"""The fields that contradict each other, the culprit first, and a message about it."""

NORM_EPS = 1e-6  # TimeSformer's, DeiT's and timm's ViTs'
CHOICES = {
    "attention": ("divided_space_time", "joint_space_time", "space_only"),
    "norm": ("per_length", "shared"),
    "patch_embed": ("per_length", "shared", "resized"),
    "pos_embed": ("per_length", "shared", "resized"),
    "stem": ("patch", "conv", "lvvit", "t2t"),
    "pos_init": ("normal", "sincos", "sine"),
    "positions": ("separate", "joint", "fixed"),
    "pool": ("cls", "mean", "normed_mean", "first"),
    "act": ("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
    "drop_path_per": ("clip", "sequence"),
    "init": ("normal", "timesformer"),
}
UPSAMPLING = ("bilinear", "nearest")  # of a DVT
MOST = {
    "img_size": 1 << 14,
    "num_frames": 1 << 14,
    "tubelet": 1 << 14,
    "registers": 1 << 10,
    "embed_dim": 1 << 16,
    "depth": 1 << 10,
    "num_heads": 1 << 12,
    "num_classes": 1 << 20,
    "reuse_hidden": 1 << 16,
    "reuse_dim": 1 << 16,
}
"""Far above every model that was ever trained, and small enough for a message instead of a full memory."""
MOST_LENGTHS, MOST_CELLS = 64, 1 << 16
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
TRAINING_ONLY = (
    *("drop_rate", "drop_path", "drop_path_per", "pos_init", "qk_init_gain", "init", "act_checkpoint"),
)
"""Fields that do not change what trained weights compute."""


class ModelConfigError(ValueError):
    """Settings that no model can have; `problems` lists them all."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{names[0]}: {message}" for names, message in problems))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class ReViTConfig:
    """Settings of a `ReViT`.

    Attributes:
        img_size: side of the square frames, in pixels.
        num_frames: frames per clip, T.
        lengths: token lengths, longest first; given as `14`, `"14x14"` or `TokenLength`.
        attention: over time, then space (`divided_space_time`), over all tokens (`joint_space_time`), or
            within each frame (`space_only`).
        norm: LayerNorms `per_length`, or `shared` (the paper's ablation).
        patch_embed, pos_embed: embeddings `per_length`, `shared` (the paper's ablation), or one for all
            lengths, `resized` as in FlexiViT.
        distill_token: the lengths after the first have a distillation token and head.
        token_at_longest: the longest length has them too, as in a distilled DeiT; they learn from the labels
            there.
        drop_path_per: what stochastic depth drops a branch for: a `clip`, or a `sequence` of divided
            attention: a place in the attention over time, a frame in that over space, as in TimeSformer.
        stem: from pixels to tokens. `patch`: one convolution, kernel = stride = patch. `conv`: 3x3
            convolutions with batch norms (paper section 4). `lvvit`: LV-ViT's. `t2t`: T2T-ViT's soft
            splits and performers.
        qkv_bias, residual_scale, dense_head, norm_eps: differ in LV-ViT: no bias for queries, keys and
            values; residual branches scaled by 1 / `skip_lam`; a second head classifies every patch token.
            A bias of queries and values alone (VideoMAE) needs no option: that of the keys adds the same to
            all scores of a query, which the softmax takes away.
        tubelet: frames of one patch token: its patch embedding's kernel in time.
        positions: embeddings of space and of time, added up (`separate`, TimeSformer), or of every place in
            space and time (`joint`, ViViT), or those waves untrained (`fixed`, VideoMAE).
        pool: what the class head reads: the class token (`cls`), or without one the mean of the patch tokens
            before the last norm (`mean`) or after it (`normed_mean`), or the first of them (`first`).
        registers: further special tokens, without positions, which no head reads.
        pre_norm: a LayerNorm after the embeddings (CLIP).
        act: activation of the MLPs; with `swiglu`, half of their hidden channels gate the others.
        head_norm_eps: of the LayerNorm before the heads; 0 for `norm_eps`.
        pos_init: initial position embeddings: small noise (`normal`), or waves over space and time
            (`sincos`), with which small data sets teach directions of motion from scratch, or over all places
            of the clip, numbered row by row and frame by frame (`sine`, VideoMAE).
        init: `normal` noise, whose size suits the width; or as in TimeSformer's code: noise of 0.02 at any
            width, the patch convolution as PyTorch makes it, time embeddings 0.
        qk_init_gain: factor on the initial query and key weights; above 1 attention starts less uniform,
            which shortens the plateau of training from scratch.
        multi_label: a clip may have several classes; each has a probability of its own, a sigmoid.
        act_checkpoint: recompute each block's activations in the backward pass: less memory, about a third
            more time.

    Raises:
        ModelConfigError: the settings contradict each other.
    """

    img_size: int
    num_frames: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    num_classes: int
    lengths: tuple[TokenLength, ...]
    attention: str = "divided_space_time"
    norm: str = "per_length"
    patch_embed: str = "per_length"
    pos_embed: str = "per_length"
    distill_token: bool = True
    drop_rate: float = 0.0
    drop_path: float = 0.0
    stem: str = "patch"
    qkv_bias: bool = True
    residual_scale: float = 1.0
    dense_head: bool = False
    norm_eps: float = NORM_EPS
    token_at_longest: bool = False
    tubelet: int = 1
    positions: str = "separate"
    pool: str = "cls"
    registers: int = 0
    pre_norm: bool = False
    act: str = "gelu"
    head_norm_eps: float = 0.0
    pos_init: str = "normal"
    init: str = "normal"
    drop_path_per: str = "clip"
    qk_init_gain: float = 1.0
    act_checkpoint: bool = False
    multi_label: bool = False

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        lengths: tuple[TokenLength, ...] = ()  # without lengths, the other rules still hold
        try:
            lengths = token_lengths(self.lengths)
        except ValueError as error:
            problems.append((("lengths",), str(error)))
        object.__setattr__(self, "lengths", lengths)
        problems += list(self._wrong_kinds()) or list(self._wrong_values()) or self._contradictions()
        if problems:
            raise ModelConfigError(problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint; the inverse is `ReViTConfig(**values)`."""
        return asdict(self) | {"lengths": [str(length) for length in self.lengths]}

    def differences(self, other: ReViTConfig) -> list[str]:
        """Fields in which a model with `other`'s weights differs: `depth 1 (config: 2)`."""
        names = (field.name for field in fields(self) if field.name not in TRAINING_ONLY)
        ours, theirs = self.to_dict(), other.to_dict()
        return [
            f"{name} {theirs[name]} (config: {ours[name]})" for name in names if theirs[name] != ours[name]
        ]

    @property
    def distils(self) -> bool:
        """Whether there is a distillation token at any length."""
        return self.distill_token and (len(self.lengths) > 1 or self.token_at_longest)

    def distils_at(self, i: int) -> bool:
        """Whether there is a distillation token at `lengths[i]`."""
        return self.distils and (i > 0 or self.token_at_longest)

    @property
    def num_placed(self) -> list[int]:
        """Special tokens with a position, at each length: the class token and the distillation token."""
        return [(self.pool == "cls") + self.distils_at(i) for i in range(len(self.lengths))]

    @property
    def num_special(self) -> list[int]:
        """All special tokens of each length."""
        return [placed + self.registers for placed in self.num_placed]

    @property
    def steps(self) -> int:
        """Patch tokens of a clip at each place of the grid."""
        return self.num_frames // self.tubelet

    @property
    def placed_steps(self) -> int:
        """Steps that have position embeddings of their own."""
        return 1 if self.positions == "separate" else self.steps

    def _wrong_kinds(self) -> Iterator[Problem]:
        """Values of other types, as a foreign checkpoint may hold them."""
        for field in fields(self):
            value, allowed = getattr(self, field.name), KINDS.get(str(field.type))
            endless = isinstance(value, int | float) and not -LARGEST < value < LARGEST
            if allowed and (type(value) not in allowed or endless):
                yield (field.name,), f"must be a finite {field.type}, got {shown(value)}"

    def _wrong_values(self) -> Iterator[Problem]:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                yield (name,), f"must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
        for name in [name for name in MOST if hasattr(self, name)]:
            least, value = int(name not in ("num_classes", "registers")), getattr(self, name)
            if not least <= value <= MOST[name]:
                bound = f"at least {least}" if value < least else f"at most {MOST[name]}"
                yield (name,), f"must be {bound}, got {value}"
        if len(self.lengths) > MOST_LENGTHS or any(length.count > MOST_CELLS for length in self.lengths):
            words = f"at most {MOST_LENGTHS} lengths of at most {MOST_CELLS} tokens a frame"
            yield ("lengths",), f"must be {words}"
        for name in ("mlp_ratio", "qk_init_gain", "norm_eps"):
            if getattr(self, name) <= 0:
                yield (name,), f"must be above 0, got {getattr(self, name)}"
        for name in ("drop_rate", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                yield (name,), f"must be at least 0 and below 1, got {getattr(self, name)}"

    def _contradictions(self) -> Iterator[Problem]:
        if self.lengths and self.lengths[0].frames and not isinstance(self, FrozenConfig):
            words = "lengths with a number of frames are for a frozen backbone with a closed-form head"
            yield ("lengths",), f"{words}, got {self.lengths[0]}"
        if self.multi_label and self.dense_head:
            yield ("multi_label", "dense_head"), "a dense head is for clips of one class"
        if self.embed_dim % self.num_heads:
            words = f"{self.num_heads} attention heads do not divide the width {self.embed_dim}"
            yield ("num_heads", "embed_dim"), words
        yield from self._contradicting_positions()
        if self.num_frames % self.tubelet:
            words = f"{self.num_frames} frames are no multiple of {self.tubelet}, those of a token (tubelet)"
            yield ("num_frames", "tubelet"), words
        if self.stem != "patch" and self.patch_embed != "per_length":
            words = f"must be per_length with a stem, {self.stem}; got {self.patch_embed}"
            yield ("patch_embed", "stem"), words
        for name in ("patch_embed", "pos_embed"):
            if getattr(self, name) == "shared" and self.lengths and not self._nested():
                words = f"shared needs grids that hold the shortest one, {self.lengths[-1]}, on both sides"
                yield (name, "lengths"), words
        for length in self.lengths:
            try:
                self._cut(length)
            except ValueError as error:
                culprit, message = ("lengths", f"{length} does not fit: {error}")
                if self.stem != "patch":
                    culprit, message = "stem", str(error)
                yield (culprit, "img_size", "embed_dim", "lengths"), message

    def _contradicting_positions(self) -> Iterator[Problem]:
        for name, divisor in (("sincos", 4), ("sine", 2)):
            if self.pos_init == name and self.embed_dim % divisor:
                words = f"{name} needs a width divisible by {divisor}, not {self.embed_dim}"
                yield ("pos_init", "embed_dim"), words
        if self.positions == "fixed" and self.pos_embed != "per_length":
            yield ("pos_embed", "positions"), f"must be per_length with fixed positions; got {self.pos_embed}"
        if self.positions == "fixed" and self.pos_init == "normal":
            yield ("pos_init", "positions"), "fixed positions are waves, sine or sincos; got normal"

    def _nested(self) -> bool:
        shortest = self.lengths[-1]
        return all(length.h >= shortest.h and length.w >= shortest.w for length in self.lengths)

    def _cut(self, length: TokenLength) -> None:
        """ValueError where the stem cannot cut a frame into the patches of `length`."""
        if self.stem == "conv":
            stem_geometry(self.img_size, length, self.embed_dim)
            return
        if self.stem == "t2t":
            soft_splits(self.img_size, length.h)
            soft_splits(self.img_size, length.w)
            return
        size = halved(self.img_size) if self.stem == "lvvit" else self.img_size
        for cells in (length.h, length.w):
            patch_geometry(size, cells)


@dataclass(frozen=True, kw_only=True)
class DVTConfig(ReViTConfig):
    """Settings of a `DVT`: those of its transformers, which share nothing, and what they reuse.

    Attributes:
        feature_reuse, relation_reuse: whether each transformer reuses the patch tokens, the attention scores
            of the shorter length. With neither, each is a `ReViT` of one length that stands alone.
        reuse_hidden, reuse_dim: hidden and output width of the MLPs through which features are reused.
        upsample: how they are brought to the longer grid: `bilinear` as in DVT's paper; `nearest` as in its
            code, to twice the shorter grid by repetition and from there by averages.
    """

    distill_token: bool = False
    feature_reuse: bool = True
    relation_reuse: bool = True
    reuse_hidden: int = 128
    reuse_dim: int = 48
    upsample: str = "bilinear"

    def of_length(self, i: int) -> ReViTConfig:
        """Settings of the transformer for `lengths[i]`."""
        names = {field.name for field in fields(ReViTConfig)}
        values = {name: value for name, value in vars(self).items() if name in names}
        return ReViTConfig(**values | {"lengths": (self.lengths[i],)})

    def _contradictions(self) -> Iterator[Problem]:
        yield from super()._contradictions()
        if self.upsample not in UPSAMPLING:
            yield ("upsample",), f"must be one of {', '.join(UPSAMPLING)}, got {self.upsample!r}"
        for name in ("norm", "patch_embed", "pos_embed"):
            if getattr(self, name) != "per_length":
                yield (
                    (name,),
                    f"must be per_length in a DVT, whose lengths share nothing; got {getattr(self, name)}",
                )
        if self.attention == "joint_space_time":
            words = "must be one of divided_space_time, space_only, not 'joint_space_time': a DVT reuses "
            yield ("attention",), words + "attention within a frame"
        if self.distill_token:
            yield ("distill_token",), "a DVT's lengths do not learn from each other; must be False"
        for name, needed in (("pool", "cls"), ("registers", 0)):
            if getattr(self, name) != needed:
                words = f"must be {needed} in a DVT, whose transformers hand on scores of a class token alone"
                yield (name,), f"{words}; got {getattr(self, name)}"
        if self.dense_head:
            yield ("dense_head",), "a DVT has no dense head: its transformers are DeiTs or TimeSformers"


@dataclass(frozen=True, kw_only=True)
class FrozenConfig(ReViTConfig):
    """Settings of a `FrozenReViT`: a ViT that reads frames one by one, whose lengths may have frames."""

    attention: str = "space_only"
    distill_token: bool = False

    def _contradictions(self) -> Iterator[Problem]:
        yield from super()._contradictions()
        needs = {"attention": "space_only", "pool": "cls", "tubelet": 1, "positions": "separate"}
        for name, needed in (needs | {"distill_token": False, "dense_head": False}).items():
            if getattr(self, name) != needed:
                yield (name,), f"must be {needed} in a frozen backbone, got {getattr(self, name)}"
        try:
            nested_frames(self.lengths, self.num_frames)
        except ValueError as error:
            yield ("lengths", "num_frames"), str(error)
