"""ReViT: one video transformer that reads a clip at several token lengths (paper section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from revit_video.length import Box, TokenLength, cells_of, find, token_lengths
from revit_video.models.base import NO_STATE, CascadeState, Output, ResizableModel, count_params
from revit_video.models.blocks import BLOCKS, DividedBlock, JointBlock
from revit_video.models.embed import (
    PATCH_EMBEDS,
    POSITION_EMBEDS,
    STEMS,
    OnePatchEmbed,
    PatchEmbeds,
    PositionEmbeds,
    place_waves,
    waves,
)
from revit_video.models.layers import Attention
from revit_video.models.linear import Linear
from revit_video.models.norm import NORM_EPS, LengthNorm


def inside(box: Box, length: TokenLength, device: torch.device | None = None) -> Tensor:
    """Which tokens of the grid lie in `box`, whose sides are rounded to whole cells; booleans `(N, 1)`."""
    top, left, bottom, right = cells_of(box, length)
    rows, columns = torch.arange(length.h, device=device), torch.arange(length.w, device=device)
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[:, None] & across).view(-1, 1)


class ReViT(ResizableModel):
    """A TimeSformer that is resizable along the spatial token grid.

    Own to each token length: LayerNorms, patch embedding, spatial position embedding. Shared by all:
    attention, MLPs, heads, the temporal embedding. The lengths after the first, which learn from it,
    have a distillation token and head (`distill_token`).

    Args:
        lengths: token lengths, longest first (`14`, `"14x14"` or `TokenLength`).
        img_size: side of the square frames, in pixels.
        num_frames: frames a clip, T.
        attention: `divided_space_time`, `joint_space_time` or `space_only`.
        norm, patch_embed, pos_embed: `per_length`, or `shared` for the paper's ablations; embeddings also
            `resized`, one for all lengths as in FlexiViT.
        stem: from pixels to tokens. `patch`: one convolution, its kernel as large as the patch. `conv`:
            several of 3x3 with batch norms (paper section 4). `lvvit`: LV-ViT's.
        token_at_longest: the longest length has the distillation token and head as well, as in a distilled
            DeiT; they then learn from the labels there.
        pos_init: how position embeddings start. `normal`: as small noise, like TimeSformer's. `sincos`: as
            waves over place and over time, which a model trained from scratch on little data needs in
            order to tell directions of motion apart.
        qk_init_gain: factor on the initial query and key weights of every attention; above 1 the
            attention starts less uniform, which shortens the plateau of training from scratch.
        act_checkpoint: in training, keep only what goes into each block and compute the rest again for
            the gradients: less memory, about a third more time.
        qkv_bias, residual_scale, dense_head, norm_eps: LV-ViT's. Its queries, keys and values have no bias,
            both branches of its blocks are halved (1 / `skip_lam`), a second head classifies every patch
            token, and its LayerNorms' eps is PyTorch's.
        block_types: the blocks to build from, by `attention`.

    Raises:
        ValueError: lengths not descending, a length that the frame cannot be cut into, a head count
            that does not divide the width, an unknown choice.
    """

    kind, carries_state = "revit", False

    def __init__(
        self,
        *,
        num_classes: int,
        lengths: Sequence[int | str | TokenLength],
        img_size: int,
        num_frames: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        attention: str = "divided_space_time",
        norm: str = "per_length",
        patch_embed: str = "per_length",
        pos_embed: str = "per_length",
        stem: str = "patch",
        distill_token: bool = True,
        token_at_longest: bool = False,
        drop_rate: float = 0.0,
        drop_path: float = 0.0,
        pos_init: str = "normal",
        qk_init_gain: float = 1.0,
        act_checkpoint: bool = False,
        qkv_bias: bool = True,
        residual_scale: float = 1.0,
        dense_head: bool = False,
        norm_eps: float = NORM_EPS,
        block_types: Mapping[str, Callable[..., JointBlock]] = BLOCKS,
    ) -> None:
        super().__init__()
        if attention not in block_types:
            raise ValueError(f"unknown attention {attention!r}; there are {', '.join(block_types)}")
        if norm not in ("per_length", "shared"):
            raise ValueError(f"norm is 'per_length' or 'shared', not {norm!r}")
        for name, choice in (("patch_embed", patch_embed), ("pos_embed", pos_embed)):
            if choice not in POSITION_EMBEDS:
                raise ValueError(f"{name} is one of {', '.join(POSITION_EMBEDS)}, not {choice!r}")
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}; there are {', '.join(STEMS)}")
        if stem != "patch" and patch_embed != "per_length":
            raise ValueError(f"patch_embed {patch_embed!r} needs the stem 'patch', not {stem!r}")
        if pos_init not in ("normal", "sincos"):
            raise ValueError(f"pos_init is 'normal' or 'sincos', not {pos_init!r}")
        if pos_init == "sincos" and embed_dim % 4:
            raise ValueError(f"sincos position embeddings need a width divisible by 4, not {embed_dim}")
        self.lengths = token_lengths(lengths)
        self.num_classes, self.img_size, self.num_frames = num_classes, img_size, num_frames
        self.attention, self.act_checkpoint = attention, act_checkpoint
        self._graphs: Callable[[Tensor, int, Tensor | None], Output] | None = None

        distils = distill_token and (len(self.lengths) > 1 or token_at_longest)
        self.token_at_longest = distils and token_at_longest
        num_special = [1 + self.token_at_longest] + [1 + distils] * (len(self.lengths) - 1)
        self.patch_embed: PatchEmbeds | OnePatchEmbed
        if patch_embed == "per_length":
            self.patch_embed = PatchEmbeds(self.lengths, img_size, embed_dim, stem)
        else:
            self.patch_embed = PATCH_EMBEDS[patch_embed](self.lengths, img_size, embed_dim)
        positions = POSITION_EMBEDS[pos_embed]
        self.pos_embed = positions(self.lengths, num_special, embed_dim)
        has_time = attention != "space_only"
        self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim)) if has_time else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if distils else None
        self.pos_drop = nn.Dropout(drop_rate)

        shared_norm = norm == "shared"
        rates = [drop_path * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(
            block_types[attention](
                *(embed_dim, num_heads, mlp_ratio, len(self.lengths), shared_norm, drop_rate, rates[layer]),
                *(qkv_bias, residual_scale, norm_eps),
            )
            for layer in range(depth)
        )
        self.norm = LengthNorm(embed_dim, len(self.lengths), shared_norm, norm_eps)
        self.head = nn.Linear(embed_dim, num_classes)
        self.head_dist = nn.Linear(embed_dim, num_classes) if distils else None
        self.head_dense = Linear(embed_dim, num_classes) if dense_head else None
        self._init_weights(pos_init, qk_init_gain)

    def forward(self, clips: Tensor, length: int | str | TokenLength, mix: Box | None = None) -> Output:
        """Classify normalised `clips` `(B, 3, T, H, W)` at one token length.

        Args:
            mix: LV-ViT's MixToken, for training. Within this box the patch tokens are those of the batch in
                reverse order, `clips.flip(0)`; what the dense head says of them is handed back, so that
                `dense[b]` are the tokens of clip b. The box is rounded to the length's grid.

        Raises:
            ValueError: a length the model does not have, or clips of another shape.
        """
        i = find(self.lengths, length)
        self._check(clips)
        mixed = None if mix is None else inside(mix, self.lengths[i], clips.device)
        if self._graphs is None:
            return self._read(clips, i, mixed)
        if not torch.is_grad_enabled():
            torch._dynamo.maybe_mark_dynamic(clips, 0)
        return self._graphs(clips, i, mixed)

    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        return self(clips, self.lengths[i]), state

    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        special, patches = self.features(clips, length)
        return [(self.classify(special, patches).logits, patches)]

    def features(self, clips: Tensor, length: int | str | TokenLength) -> tuple[Tensor, Tensor]:
        """The special tokens, normalised, `(B, S, C)`, and the last block's patch tokens `(B, T, N, C)`.

        With a dense head the patch tokens are normalised as well.
        """
        i = find(self.lengths, length)
        self._check(clips)
        special, patches = self._blocks(*self._embed(clips, i), i)
        return self._pooled(special, i), patches if self.head_dense is None else self._normed(patches, i)

    def _read(self, clips: Tensor, i: int, mixed: Tensor | None = None) -> Output:
        special, patches = self._embed(clips, i, mixed)
        if self.head_dense is None:
            special = self._read_out(special, patches, i)
            return self.classify(self._pooled(special, i))
        special, patches = self._blocks(special, patches, i)
        output = self.classify(self._pooled(special, i), self._normed(patches, i))
        if mixed is None:
            return output
        assert output.dense is not None
        return output._replace(dense=torch.where(mixed, output.dense.flip(0), output.dense))

    def _blocks(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            special, patches = self._run(block, special, patches, i)
        return special, patches

    def _read_out(self, special: Tensor, patches: Tensor, i: int) -> Tensor:
        *blocks, last = cast(list[JointBlock], list(self.blocks))
        for block in blocks:
            special, patches = self._run(block, special, patches, i)
        return self._run(last.read_out, special, patches, i)

    def _embed(self, clips: Tensor, i: int, mixed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, frames = clips.shape[0], clips.shape[2]
        patches = self.patch_embed(clips.transpose(1, 2).flatten(0, 1), i)  # (B T, N, C)
        patches = patches.unflatten(0, (batch, frames))
        if mixed is not None:
            patches = torch.where(mixed, patches.flip(0), patches)
        special = self._special_tokens(i)  # (1, S, C)
        position = self.pos_embed[i]  # (1, S + N, C)
        special = (special + position[:, : special.shape[1]]).expand(batch, -1, -1)
        patches = patches + position[:, special.shape[1] :].unsqueeze(1)
        special, patches = self.pos_drop(special), self.pos_drop(patches)
        if self.time_embed is None:
            special = special.unsqueeze(1).expand(-1, frames, -1, -1)
        else:
            patches = patches + self.time_embed.unsqueeze(2)
        return special, patches

    def _run(self, block: Callable[..., Any], *tokens: Any) -> Any:
        if self.act_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *tokens, use_reentrant=False)
        return block(*tokens)

    def _pooled(self, special: Tensor, i: int) -> Tensor:
        if self.time_embed is None:
            special = special.mean(dim=1)  # the frames of a space-only model vote
        return self._normed(special, i)

    def _normed(self, tokens: Tensor, i: int) -> Tensor:
        return self.norm(tokens.to(self.head.weight.dtype), i)  # heads may be more precise than the blocks

    def classify(self, special: Tensor, patches: Tensor | None = None) -> Output:
        """Logits from what `features` gives: of all heads, or without `patches` of the special tokens' alone.

        The distillation head reads the second special token, if there is one. The dense head's logits are
        means over the frames, and so are those of mean tokens.
        """
        cls = self.head(special[:, 0])
        dist = dense = None
        if self.head_dist is not None and special.shape[1] > 1:
            dist = self.head_dist(special[:, 1])
        if self.head_dense is not None and patches is not None:
            dense = self.head_dense(patches.mean(dim=1))
        return Output(cls, dist, dense)

    def compile(self, **options: Any) -> None:
        """Have each token length read by a graph of its own; `options` are those of `torch.compile`.

        Modifications:
            Shapes are fixed, but for the number of clips where no gradients are taken: evaluation meets
            batches of any size, and each would be compiled anew. A call that cannot be one graph is an
            error, as is one beyond dynamo's limit of graphs, which otherwise would be read slowly.
        """
        limits = torch._dynamo.config  # of the graphs of one function, here those of all lengths
        limits.cache_size_limit = max(limits.cache_size_limit, 8 * len(self.lengths))
        self._graphs = torch.compile(self._read, dynamic=False, fullgraph=True, **options)

    @property
    def compiled(self) -> bool:
        return self._graphs is not None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_graphs": None}  # graphs read this model's weights, not a copy's

    @property
    def parts(self) -> list[ReViT]:
        return [self]

    def params_at(self, length: TokenLength) -> int:
        """The shared parameters and the length's own."""
        i, total = find(self.lengths, length), count_params(self)
        for module in self.modules():
            if isinstance(module, LengthNorm | PatchEmbeds | PositionEmbeds) and len(module) > 1:
                total -= sum(count_params(own) for k, own in enumerate(module) if k != i)
        has_token = i > 0 or self.token_at_longest
        if not has_token and self.dist_token is not None and self.head_dist is not None:
            total -= self.dist_token.numel() + count_params(self.head_dist)
        return total

    def no_weight_decay(self) -> set[str]:
        undecayed = ("cls_token", "dist_token", "pos_embed", "time_embed")
        return {name for name, _ in self.named_parameters() if name.startswith(undecayed)}

    def _special_tokens(self, i: int) -> Tensor:
        if self.dist_token is None or (i == 0 and not self.token_at_longest):
            return self.cls_token
        return torch.cat([self.cls_token, self.dist_token], dim=1)

    def _check(self, clips: Tensor) -> None:
        expected = (3, self.num_frames, self.img_size, self.img_size)
        if tuple(clips.shape[1:]) != expected:
            wanted, got = ("x".join(map(str, shape)) for shape in (expected, clips.shape))
            raise ValueError(f"clips must be Bx{wanted} (channels, frames, height, width), got {got}")

    @torch.no_grad()
    def _init_weights(self, pos_init: str, qk_init_gain: float) -> None:
        # 0.02 is TimeSformer's, for a width of 768; scaled, activations are as large at any width.
        std = 0.02 * math.sqrt(768 / self.cls_token.shape[-1])
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Attention):
                module.qkv.weight[: 2 * module.proj.in_features] *= qk_init_gain
            if isinstance(module, DividedBlock):
                nn.init.zeros_(module.temporal_fc.weight)
        for token in (self.cls_token, self.dist_token, self.time_embed, *self.pos_embed.parameters()):
            if token is not None:
                nn.init.trunc_normal_(token, std=std)
        if pos_init == "sincos":
            self.pos_embed.set_grid(place_waves(self.lengths[0], self.cls_token.shape[-1]))
            if self.time_embed is not None:
                self.time_embed.copy_(waves(torch.arange(self.num_frames), self.time_embed.shape[-1]))
        # Every length starts from the longest one's embeddings, so that what one learns helps the others.
        self.pos_embed.spread()
        self.patch_embed.spread()
