"""DVT, the paper's baseline (Wang et al., 2021): a cascade of transformers with ever more tokens.

The token lengths share nothing. Instead, each transformer reuses results of the next shorter length for the
same clip: its patch tokens (feature reuse) and its attention scores (relationship reuse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.length import TokenLength, find
from revit_video.models.base import NO_STATE, CascadeState, Output, ResizableModel, count_params
from revit_video.models.blocks import DividedBlock, JointBlock, SpaceBlock
from revit_video.models.config import DVTConfig, ReViTConfig
from revit_video.models.layers import Attention, LengthNorm, Mlp
from revit_video.models.revit import ReViT


class DVT(ResizableModel):
    """A cascade of ViTs (`space_only`) or TimeSformers (`divided_space_time`), one per token length.

    Modifications:
        Grids are up-sampled bilinearly, as in the paper, or by repetition and averages, as in its code.
        For videos, features are reused per frame, and relations are those of the attention over space in each
        frame. The attention over time, which the paper does not consider, is not reused.
    """

    kind, carries_state = "dvt", True

    def __init__(self, config: DVTConfig) -> None:
        super().__init__(config)
        self.reuses = config.feature_reuse, config.relation_reuse
        self.backbones = nn.ModuleList(Backbone(config, i) for i in range(len(config.lengths)))

    def forward(self, clips: Tensor, length: int | str | TokenLength) -> Output:
        """Classify `clips` `(B, 3, T, H, W)` at one length, after all shorter ones.

        Raises:
            ValueError: the model does not have this length, or the clips have another shape.
        """
        i, state = find(self.lengths, length), NO_STATE
        for k in reversed(range(i + 1, len(self.lengths))):
            _, state = self.step(clips, k, state)
        output, _ = self.parts[i].reuse(clips, state, keep_features=False, keep_relations=False)
        return output

    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        features, relations = (reused and i > 0 for reused in self.reuses)
        return self.parts[i].reuse(clips, state, features, relations)

    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        i, state, passes = find(self.lengths, length), NO_STATE, []
        for k in reversed(range(i, len(self.lengths))):
            output, state = self.parts[k].reuse(clips, state, True, self.reuses[1] and k > i)
            assert state.features is not None
            passes.append((output.logits, state.features))
        return passes

    @property
    def parts(self) -> list[Backbone]:
        """The transformer of each length."""
        return cast(list[Backbone], list(self.backbones))

    def params_at(self, length: TokenLength) -> int:
        """Parameters of this length's transformer and of all shorter ones."""
        return sum(map(count_params, self.parts[find(self.lengths, length) :]))

    def no_weight_decay(self) -> set[str]:
        parts = enumerate(self.parts)
        return {f"backbones.{i}.{name}" for i, part in parts for name in part.no_weight_decay()}


class Backbone(ReViT):
    """The transformer for `lengths[i]`: a `ReViT` of one length that reuses the state of `lengths[i + 1]`."""

    def __init__(self, config: DVTConfig, i: int) -> None:
        length, before = (*config.lengths, None)[i : i + 2]
        assert length is not None
        super().__init__(config.of_length(i), partial(reusing_block_of, cascade=config, before=before))
        self.relation_reuse: RelationReuse | None = None
        if config.relation_reuse and before is not None:
            scores = config.depth * config.num_heads
            self.relation_reuse = RelationReuse(scores, before, length, config.upsample)

    def reuse(
        self, clips: Tensor, state: CascadeState, keep_features: bool, keep_relations: bool
    ) -> tuple[Output, CascadeState]:
        """Classify `clips`, given the shorter length's `state`; returns its own, with the parts to keep."""
        self._check(clips)
        blocks = cast(list[ReusingBlock], list(self.blocks))
        features, relations = state
        added: Sequence[Tensor | None] = [None] * len(blocks)
        if self.relation_reuse is not None and relations is not None:
            added = self.relation_reuse(relations.flatten(0, 1)).chunk(len(blocks), dim=1)
        special, patches = self._embed(clips, 0)
        scores = []
        for n, block in enumerate(blocks):
            # The last block's patch tokens are of use to the next length alone.
            only_special = n == len(blocks) - 1 and not keep_features and not keep_relations
            special, patches, score = self._run(
                block.reuse, special, patches, features, added[n], keep_relations, only_special
            )
            scores.append(score)
        output = self.classify(self._pool(special, patches, 0))
        kept = CascadeState(patches if keep_features else None)
        if keep_relations:
            kept = kept._replace(relations=torch.cat(scores, dim=1).unflatten(0, patches.shape[:2]))
        return output, kept


# ---- Reuse of the shorter length's patch tokens and attention scores -------------------------------------


class FeatureReuse(nn.Module):
    """Patch tokens of the grid `before`, as `config.reuse_dim` additional channels on the grid `after`."""

    def __init__(self, config: DVTConfig, before: TokenLength, after: TokenLength) -> None:
        super().__init__()
        self.dim = config.reuse_dim
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.reuse_hidden, out_dim=self.dim)
        self.interpolate = GridInterpolation(before, after, config.upsample)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, T, N, C)` -> `(B, T, N', dim)`."""
        batch, frames = features.shape[:2]
        channels = self.mlp(self.norm(features)).flatten(0, 1).transpose(1, 2)  # (B T, dim, N)
        return self.interpolate(channels).transpose(1, 2).unflatten(0, (batch, frames))


class RelationReuse(nn.Module):
    """Attention scores of the grid `before`, to be added to those of the grid `after`.

    Each pair of tokens has `count` scores, of all layers and heads, which a MLP maps to as many new ones.
    """

    def __init__(
        self, count: int, before: TokenLength, after: TokenLength, upsample: str = "bilinear"
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(count, 3 * count, 1)
        self.fc2 = nn.Conv2d(3 * count, count, 1)
        self.interpolate = GridInterpolation(before, after, upsample)

    def forward(self, relations: Tensor) -> Tensor:
        """`(F, count, 1 + N, 1 + N)` -> `(F, count, 1 + N', 1 + N')`."""
        relations = self.fc2(F.gelu(self.fc1(relations)))
        by_keys = self._along_keys(relations)
        return self._along_keys(by_keys.transpose(2, 3)).transpose(2, 3)

    def _along_keys(self, relations: Tensor) -> Tensor:
        """Interpolate over the grid; the class token's entry is kept."""
        return torch.cat([relations[..., :1], self.interpolate(relations[..., 1:])], dim=3)


class GridInterpolation(nn.Module):
    """From one grid to another, see `DVTConfig.upsample`.

    Computed as products with small matrices: `F.interpolate` runs one GPU thread per cell, each over all of
    the thousands of channels here, and its backward pass is not deterministic.
    """

    def __init__(self, before: TokenLength, after: TokenLength, how: str = "bilinear") -> None:
        super().__init__()
        self.before = before
        self.register_buffer("down", _along_one_side(before.h, after.h, how), persistent=False)
        self.register_buffer("across", _along_one_side(before.w, after.w, how), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """`(..., N)` -> `(..., N')`."""
        grid = values.unflatten(-1, (self.before.h, self.before.w))
        down, across = (self.get_buffer(name).to(values.dtype) for name in ("down", "across"))
        return ((grid @ across).transpose(-2, -1) @ down).transpose(-2, -1).flatten(-2)


def _along_one_side(size: int, target: int, how: str) -> Tensor:
    """Matrix `(size, target)` that brings a row of `size` values to `target`."""
    if how == "nearest":
        return F.adaptive_avg_pool1d(torch.eye(size).repeat_interleave(2, dim=1)[None], target)[0]
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear")[0]


class ReusingBlock(SpaceBlock):
    """A `SpaceBlock` that can reuse features in its MLP and attention scores in its attention.

    Modifications:
        With feature reuse, `norm2` and `mlp` have `reuse_dim` more input channels, zero for special tokens.

    Args:
        cascade: the config of the whole DVT; `config` is that of this length.
        before: the shorter length whose state is reused; None at the shortest.
    """

    def __init__(
        self, config: ReViTConfig, drop_path: float, cascade: DVTConfig, before: TokenLength | None
    ) -> None:
        super().__init__(config, drop_path)
        self.feature_reuse: FeatureReuse | None = None
        if cascade.feature_reuse and before is not None:
            self.feature_reuse = FeatureReuse(cascade, before, config.lengths[0])
            dim, mlp = config.embed_dim, self.mlp
            wider = dim + self.feature_reuse.dim
            self.norm2 = LengthNorm(wider, 1, eps=config.norm_eps)
            self.mlp = Mlp(wider, mlp.fc1.out_features, mlp.drop.p, out_dim=dim, act=config.act)

    def reuse(
        self,
        special: Tensor,
        patches: Tensor,
        features: Tensor | None,
        added: Tensor | None,
        keep_scores: bool,
        only_special: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Special tokens, patch tokens and attention scores after the block.

        Args:
            features: patch tokens of the shorter length, `(B, T, N, C)`.
            added: added to the attention scores of each frame, `(B T, heads, 1 + N, 1 + N)`.
            keep_scores: whether the scores are needed; otherwise they may be None.
            only_special: whether the patch tokens after the block are not needed; they are then not computed.
        """
        patches = self.over_time(patches, 0)
        count = special.shape[-2]
        tokens = torch.cat([self.to_frames(special, patches.shape[1]), patches], dim=2)
        queries = count if only_special else None
        x, scores = attend_with_scores(self.attn, self.norm1(tokens, 0), queries, added, keep_scores)
        (x,) = self.drop_attn(x)
        special = special + self.from_frames(x[:, :, :count])
        if only_special:
            (special,) = self.mix_channels(features, special)
        else:
            special, patches = self.mix_channels(features, special, patches + x[:, :, count:])
        return special, patches, scores

    def mix_channels(self, features: Tensor | None, special: Tensor, *patches: Tensor) -> tuple[Tensor, ...]:
        """The tokens after the MLP branch; `patches` may be left out."""
        if self.feature_reuse is None or features is None:
            return self.feed_forward(0, special, *patches)
        inputs = [F.pad(special, (0, self.feature_reuse.dim))]
        inputs += [torch.cat([x, self.feature_reuse(features)], dim=3) for x in patches]
        branch = self.drop_path(*(self.mlp(self.norm2(x, 0)) for x in inputs))
        return tuple(x + more for x, more in zip((special, *patches), branch, strict=True))


class ReusingDividedBlock(ReusingBlock, DividedBlock):
    """A `DividedBlock` that reuses the same, in its attention over space."""


def reusing_block_of(
    config: ReViTConfig, drop_path: float, cascade: DVTConfig, before: TokenLength | None
) -> JointBlock:
    """A reusing block of the kind that `config.attention` names."""
    kind = ReusingBlock if config.attention == "space_only" else ReusingDividedBlock
    return kind(config, drop_path, cascade, before)


def attend_with_scores(
    attn: Attention, x: Tensor, queries: int | None, added: Tensor | None, keep_scores: bool
) -> tuple[Tensor, Tensor | None]:
    """`attn(x, queries)` with `added` scores, and the sums, as they go into the softmax.

    Falls back to fused attention where scores are neither added nor kept.
    """
    if added is None and not keep_scores:
        return attn(x, queries), None
    q, k, v = attn.heads(x, queries)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if added is not None:
        scores = scores + added[:, :, : q.shape[2]]
    return attn.merged(scores.softmax(dim=-1) @ v, x), scores
