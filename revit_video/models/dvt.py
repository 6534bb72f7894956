"""DVT: a cascade of transformers, each reading a clip at more tokens than the one before (Wang et al., 2021).

The paper's baseline. Nothing is shared by the token lengths; instead, each model reads what the one before it
made of the same clip: its tokens (feature reuse) and its attention (relationship reuse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.length import TokenLength, find, token_lengths
from revit_video.models.base import NO_STATE, CascadeState, Output, ResizableModel, count_params
from revit_video.models.blocks import DividedBlock, JointBlock, SpaceBlock
from revit_video.models.layers import Attention, Mlp
from revit_video.models.norm import LengthNorm
from revit_video.models.revit import ReViT


class DVT(ResizableModel):
    """A cascade of ViTs (`space_only`) or TimeSformers (`divided_space_time`), one for each token length.

    Modifications:
        Grids are up-sampled bilinearly, as the paper says; its code repeats and averages cells instead.
        In videos, features are reused at each frame, and relations are those of the attention over space
        in each frame. The attention over time, of which the paper knows nothing, is not reused.

    Args:
        lengths: token lengths, longest first; they are read shortest first.
        feature_reuse, relation_reuse: whether the models after the first reuse either. With neither, each
            is a `ReViT` of one length that stands alone.
        reuse_hidden, reuse_dim: widths of the MLPs through which features are reused.
        sizes: further arguments of each model's `ReViT`.

    Raises:
        ValueError: see `ReViT`; and attention over the whole clip at once, or a dense head.
    """

    kind, carries_state = "dvt", True

    def __init__(
        self,
        *,
        num_classes: int,
        lengths: Sequence[int | str | TokenLength],
        img_size: int,
        num_frames: int,
        attention: str = "divided_space_time",
        feature_reuse: bool = True,
        relation_reuse: bool = True,
        reuse_hidden: int = 128,
        reuse_dim: int = 48,
        **sizes: Any,
    ) -> None:
        super().__init__()
        if attention not in BLOCKS:
            raise ValueError(f"DVT's attention is one of {', '.join(BLOCKS)}, not {attention!r}")
        if sizes.get("dense_head"):
            raise ValueError("DVT has no dense head: its models are DeiTs or TimeSformers")
        self.lengths = token_lengths(lengths)
        self.num_classes, self.img_size, self.num_frames = num_classes, img_size, num_frames
        self.attention, self.reuses = attention, (feature_reuse, relation_reuse)
        self.backbones = nn.ModuleList(
            Backbone(
                length,
                before,
                (reuse_hidden, reuse_dim) if feature_reuse and before else None,
                relation_reuse and before is not None,
                num_classes=num_classes,
                img_size=img_size,
                num_frames=num_frames,
                attention=attention,
                **sizes,
            )
            for length, before in zip(self.lengths, (*self.lengths[1:], None), strict=True)
        )

    def forward(self, clips: Tensor, length: int | str | TokenLength) -> Output:
        """Classify `clips` `(B, 3, T, H, W)` at one length, after all shorter ones.

        Raises:
            ValueError: a length that the cascade does not have, or clips of another shape.
        """
        i, state = find(self.lengths, length), NO_STATE
        for k in reversed(range(i + 1, len(self.lengths))):
            _, state = self.step(clips, k, state)
        output, _ = self.parts[i].read(clips, state, False, False)
        return output

    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        return self.parts[i].read(clips, state, *(reuse and i > 0 for reuse in self.reuses))

    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        i, state, passes = find(self.lengths, length), NO_STATE, []
        for k in reversed(range(i, len(self.lengths))):
            output, state = self.parts[k].read(clips, state, True, self.reuses[1] and k > i)
            assert state.features is not None
            passes.append((output.logits, state.features))
        return passes

    @property
    def parts(self) -> list[Backbone]:  # type: ignore[override]
        """The model of each length."""
        return cast(list[Backbone], list(self.backbones))

    def params_at(self, length: TokenLength) -> int:
        """Parameters of this length's model and of all shorter ones."""
        return sum(map(count_params, self.parts[find(self.lengths, length) :]))

    def no_weight_decay(self) -> set[str]:
        parts = enumerate(self.parts)
        return {f"backbones.{i}.{name}" for i, part in parts for name in part.no_weight_decay()}


class Backbone(ReViT):
    """A `ReViT` of one length that may reuse what a shorter one, `before`, left.

    Args:
        reuse_dims: widths of the MLPs that features are reused through; None: they are not.
        relation_reuse: whether relations are.
        sizes: further arguments of `ReViT`.
    """

    def __init__(
        self,
        length: TokenLength,
        before: TokenLength | None,
        reuse_dims: tuple[int, int] | None,
        relation_reuse: bool,
        **sizes: Any,
    ) -> None:
        feature = None if reuse_dims is None or before is None else (*reuse_dims, before, length)
        types = {kind: partial(block, feature_reuse=feature) for kind, block in BLOCKS.items()}
        super().__init__(lengths=[length], distill_token=False, block_types=types, **sizes)
        self.relation_reuse: RelationReuse | None = None
        if relation_reuse and before is not None:
            blocks = self._reusing_blocks()
            scores = len(blocks) * blocks[0].attn.num_heads
            self.relation_reuse = RelationReuse(scores, before, length)

    def read(
        self, clips: Tensor, state: CascadeState, leave_features: bool, leave_relations: bool
    ) -> tuple[Output, CascadeState]:
        """Classifies `clips` with the `state` that the model before left; also what this one leaves."""
        self._check(clips)
        blocks = self._reusing_blocks()
        features, relations = state
        added: Sequence[Tensor | None] = [None] * len(blocks)
        if self.relation_reuse is not None and relations is not None:
            added = self.relation_reuse(relations.flatten(0, 1)).chunk(len(blocks), dim=1)
        special, patches = self._embed(clips, 0)
        scores = []
        for n, block in enumerate(blocks):
            # What the last block makes of the patch tokens is only read by a next model.
            read_out = n == len(blocks) - 1 and not leave_features and not leave_relations
            special, patches, score = self._run(
                block.reuse, special, patches, features, added[n], leave_relations, read_out
            )
            scores.append(score)
        output = self.classify(self._pooled(special, 0))
        left = CascadeState(patches if leave_features else None)
        if leave_relations:
            left = left._replace(relations=torch.cat(scores, dim=1).unflatten(0, patches.shape[:2]))
        return output, left

    def _reusing_blocks(self) -> list[ReusingBlock]:
        return cast(list[ReusingBlock], list(self.blocks))


# ---- Reuse -----------------------------------------------------------------------------------------------


class FeatureReuse(nn.Module):
    """From patch tokens of the grid `before` to further channels of those of the grid `after`."""

    def __init__(
        self, dim: int, hidden: int, out: int, before: TokenLength, after: TokenLength, eps: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden, out_dim=out)
        self.spread = Spread(before, after)
        self.dim = out

    def forward(self, features: Tensor) -> Tensor:
        """`(B, T, N, C)` -> `(B, T, N', dim)`."""
        batch, frames = features.shape[:2]
        channels = self.mlp(self.norm(features)).flatten(0, 1).transpose(1, 2)  # (B T, dim, N)
        return self.spread(channels).transpose(1, 2).unflatten(0, (batch, frames))


class RelationReuse(nn.Module):
    """Attention scores of the grid `before`, to be added to those of the grid `after`.

    Each pair of tokens has `count` scores, of all layers and heads; a MLP turns them into as many others.
    """

    def __init__(self, count: int, before: TokenLength, after: TokenLength) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(count, 3 * count, 1)
        self.fc2 = nn.Conv2d(3 * count, count, 1)
        self.spread = Spread(before, after)

    def forward(self, relations: Tensor) -> Tensor:
        """`(F, count, 1 + N, 1 + N)` -> `(F, count, 1 + N', 1 + N')`."""
        relations = self.fc2(F.gelu(self.fc1(relations)))
        by_keys = self._along_keys(relations)
        return self._along_keys(by_keys.transpose(2, 3)).transpose(2, 3)

    def _along_keys(self, relations: Tensor) -> Tensor:
        """The class token's entry stays what it is."""
        return torch.cat([relations[..., :1], self.spread(relations[..., 1:])], dim=3)


class Spread(nn.Module):
    """Bilinear interpolation from the places of one grid to those of another.

    As products with small matrices: `interpolate` has a GPU thread for each place alone, which goes through
    all channels, of which there are thousands here, and adds up gradients in any order.
    """

    def __init__(self, before: TokenLength, after: TokenLength) -> None:
        super().__init__()
        self.before = before
        self.register_buffer("down", _interpolation(before.h, after.h), persistent=False)
        self.register_buffer("across", _interpolation(before.w, after.w), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """`(..., N)` -> `(..., N')`."""
        grid = values.unflatten(-1, (self.before.h, self.before.w))
        down, across = (self.get_buffer(name).to(values.dtype) for name in ("down", "across"))
        return ((grid @ across).transpose(-2, -1) @ down).transpose(-2, -1).flatten(-2)


def _interpolation(size: int, target: int) -> Tensor:
    """What interpolates `size` values in a row linearly to `target`, `(size, target)`."""
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear")[0]


class ReusingBlock(JointBlock):
    """A block whose MLP also reads a former model's features, and whose attention adds former relations.

    Modifications:
        With feature reuse `norm2` and `mlp` are wider at their input, by channels that are zero for the
        special tokens.

    Args:
        feature_reuse: arguments of `FeatureReuse` after the first; None: there is none.
    """

    def __init__(
        self,
        *sizes: Any,
        feature_reuse: tuple[int, int, TokenLength, TokenLength] | None,
        **options: Any,
    ) -> None:
        super().__init__(*sizes, **options)
        self.feature_reuse: FeatureReuse | None = None
        if feature_reuse is not None:
            norm, mlp = cast(nn.LayerNorm, self.norm2[0]), self.mlp
            dim = mlp.fc1.in_features
            self.feature_reuse = FeatureReuse(dim, *feature_reuse, norm.eps)
            wider = dim + self.feature_reuse.dim
            self.norm2 = LengthNorm(wider, 1, eps=norm.eps)
            self.mlp = Mlp(wider, mlp.fc1.out_features, mlp.drop.p, out_dim=dim)

    def reuse(
        self,
        special: Tensor,
        patches: Tensor,
        features: Tensor | None,
        added: Tensor | None,
        keep_scores: bool,
        read_out: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The block's special and patch tokens, and its attention's scores.

        Args:
            features: the former model's, `(B, T, N, C)`.
            added: to the scores of each frame's attention, `(B T, heads, 1 + N, 1 + N)`.
            keep_scores: whether the scores are asked for; else they may be None.
            read_out: compute the special tokens alone; the patch tokens are then what the MLP would read.
        """
        patches = self.over_time(patches, 0)
        count = special.shape[-2]
        tokens = torch.cat([self.to_frames(special, patches.shape[1]), patches], dim=2)
        x, scores = self.relate(tokens, count if read_out else None, added, keep_scores)
        special = special + self.from_frames(x[:, :, :count])
        if read_out:
            (special,) = self.mix_channels(features, special)
        else:
            special, patches = self.mix_channels(features, special, patches + x[:, :, count:])
        return special, patches, scores

    def over_time(self, patches: Tensor, i: int) -> Tensor:
        """What patch tokens `(B, T, N, C)` become before the attention over space."""
        raise NotImplementedError

    def to_frames(self, special: Tensor, frames: int) -> Tensor:
        """The special tokens for every frame, `(B, T, S, C)`."""
        raise NotImplementedError

    def from_frames(self, branch: Tensor) -> Tensor:
        """From `(B, T, S, C)`, what is added to the special tokens."""
        raise NotImplementedError

    def relate(
        self, tokens: Tensor, queries: int | None, added: Tensor | None, keep_scores: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The attention branch over each frame's `tokens` `(B, T, S + N, C)`, and the scores."""
        x, scores = related(self.attn, self.norm1(tokens, 0), queries, added, keep_scores)
        (x,) = self.drop_path(x)
        return x, scores

    def mix_channels(self, features: Tensor | None, special: Tensor, *patches: Tensor) -> tuple[Tensor, ...]:
        """The MLP branch, added; `patches` may be left out."""
        if self.feature_reuse is None or features is None:
            return self.feed_forward(0, special, *patches)
        inputs = [F.pad(special, (0, self.feature_reuse.dim))]
        inputs += [torch.cat([x, self.feature_reuse(features)], dim=3) for x in patches]
        branch = self.drop_path(*(self.mlp(self.norm2(x, 0)) for x in inputs))
        return tuple(x + more for x, more in zip((special, *patches), branch, strict=True))


class ReusingSpaceBlock(ReusingBlock, SpaceBlock):
    """`SpaceBlock` with reuse: frames have special tokens of their own, and nothing to do with each other."""

    def over_time(self, patches: Tensor, i: int) -> Tensor:
        return patches

    def to_frames(self, special: Tensor, frames: int) -> Tensor:
        return special

    def from_frames(self, branch: Tensor) -> Tensor:
        return branch


class ReusingDividedBlock(ReusingBlock, DividedBlock):
    """`DividedBlock` with reuse: special tokens are repeated for the frames, and averaged over them."""

    def over_time(self, patches: Tensor, i: int) -> Tensor:
        return DividedBlock.over_time(self, patches, i)

    def to_frames(self, special: Tensor, frames: int) -> Tensor:
        return special.unsqueeze(1).expand(-1, frames, -1, -1)

    def from_frames(self, branch: Tensor) -> Tensor:
        return branch.mean(dim=1)


BLOCKS: dict[str, type[ReusingBlock]] = {
    "divided_space_time": ReusingDividedBlock,
    "space_only": ReusingSpaceBlock,
}


def related(
    attn: Attention, x: Tensor, queries: int | None, added: Tensor | None, keep_scores: bool
) -> tuple[Tensor, Tensor | None]:
    """`attn(x, queries)` with `added` scores, and the scores that went into the softmax.

    They are computed one by one, where anybody reads or adds to them.
    """
    if added is None and not keep_scores:
        return attn(x, queries), None
    q, k, v = attn.heads(x, queries)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if added is not None:
        scores = scores + added[:, :, : q.shape[2]]
    return attn.merged(scores.softmax(dim=-1) @ v, x), scores
