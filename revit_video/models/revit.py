"""ReViT: one video transformer for several token lengths (paper section 3.2)."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from revit_video.length import Box, TokenLength, cells_of, find
from revit_video.models.base import NO_STATE, CascadeState, Output, ResizableModel, count_params
from revit_video.models.blocks import DividedBlock, JointBlock, block_of, length_norm
from revit_video.models.config import ReViTConfig
from revit_video.models.embed import (
    PatchEmbeds,
    PositionEmbeds,
    patch_embed_of,
    place_waves,
    pos_embed_of,
    sine_table,
    waves,
)
from revit_video.models.layers import Attention, LengthNorm, Linear

logger = logging.getLogger(__name__)


def inside(box: Box, length: TokenLength, device: torch.device | None = None) -> Tensor:
    """Mask `(N, 1)` of the tokens in `box`, whose sides are rounded to whole cells."""
    top, left, bottom, right = cells_of(box, length)
    rows, columns = torch.arange(length.h, device=device), torch.arange(length.w, device=device)
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[:, None] & across).view(-1, 1)


class ReViT(ResizableModel):
    """A TimeSformer that is resizable along the spatial token grid.

    Per token length: LayerNorms, patch embedding, spatial position embedding. Shared by all: attention, MLPs,
    heads, temporal embedding. The lengths after the first, which learn from it, have a distillation token and
    head.

    Args:
        make_block: makes a block from the config and its rate of stochastic depth.
    """

    kind, carries_state = "revit", False

    def __init__(
        self,
        config: ReViTConfig,
        make_block: Callable[[ReViTConfig, float], JointBlock] = block_of,
    ) -> None:
        super().__init__(config)
        dim, depth = config.embed_dim, config.depth
        self._graphs: Callable[[Tensor, int, Tensor | None], Output] | None = None
        self._compiling_is_optional = False

        self.patch_embed = patch_embed_of(config)
        self.pos_embed = pos_embed_of(config)
        has_time = config.attention != "space_only" and config.positions == "separate"
        self.time_embed = nn.Parameter(torch.zeros(1, config.steps, dim)) if has_time else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.pool == "cls" else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.distils else None
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, dim)) if config.registers else None
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.norm_pre = length_norm(config) if config.pre_norm else None
        rates = [config.drop_path * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(make_block(config, rate) for rate in rates)
        self.norm = length_norm(config, config.head_norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self.head_dist = nn.Linear(dim, config.num_classes) if config.distils else None
        self.head_dense = Linear(dim, config.num_classes) if config.dense_head else None
        self._init_weights(config)

    def forward(self, clips: Tensor, length: int | str | TokenLength, mix: Box | None = None) -> Output:
        """Classify normalised `clips` `(B, 3, T, H, W)` at one token length.

        Args:
            mix: LV-ViT's MixToken, for training. Patch tokens within this box, rounded to the length's grid,
                are swapped between clip b and clip B-1-b, and swapped back in the dense head's logits.

        Raises:
            ValueError: the model does not have this length, or the clips have another shape.
        """
        i = find(self.lengths, length)
        self._check(clips)
        mixed = None if mix is None else inside(mix, self.lengths[i], clips.device)
        if self._graphs is None:
            return self._forward(clips, i, mixed)
        if not torch.is_grad_enabled():
            torch._dynamo.maybe_mark_dynamic(clips, 0)
        try:
            return self._graphs(clips, i, mixed)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not self._compiling_is_optional:
                raise
            self._graphs, reason = None, " ".join(str(error).strip().split("\n\n")[0].split())[:300]
            logger.warning("the model runs uncompiled, since it cannot be compiled here: %s", reason)
            return self._forward(clips, i, mixed)

    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        return self(clips, self.lengths[i]), state

    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        special, patches = self.features(clips, length)
        return [(self.classify(special, patches).logits, patches)]

    def features(self, clips: Tensor, length: int | str | TokenLength) -> tuple[Tensor, Tensor]:
        """Normalised special tokens `(B, S, C)`, and the last block's patch tokens `(B, T, N, C)`.

        Without a class token, what is pooled from the patch tokens takes its place. With a dense head the
        patch tokens are normalised as well.
        """
        i = find(self.lengths, length)
        self._check(clips)
        special, patches = self._blocks(*self._embed(clips, i), i)
        pooled = self._pool(special, patches, i)
        return pooled, patches if self.head_dense is None else self._norm(patches, i)

    def classify(self, special: Tensor, patches: Tensor | None = None) -> Output:
        """Logits of every head from `features`; without `patches`, of the special tokens' heads alone.

        The dense head's logits are averaged over the frames: those of the mean tokens.
        """
        cls = self.head(special[:, 0])
        dist = dense = None
        if self.head_dist is not None and special.shape[1] > 1 + self.config.registers:
            dist = self.head_dist(special[:, 1])
        if self.head_dense is not None and patches is not None:
            dense = self.head_dense(patches.mean(dim=1))
        return Output(cls, dist, dense)

    def _forward(self, clips: Tensor, i: int, mixed: Tensor | None = None) -> Output:
        special, patches = self._embed(clips, i, mixed)
        if self.head_dense is None and self.cls_token is not None:
            *blocks, last = cast(list[JointBlock], list(self.blocks))
            for block in blocks:
                special, patches = self._run(block, special, patches, i)
            special = self._run(last.forward_special, special, patches, i)
            return self.classify(self._pool(special, patches, i))
        special, patches = self._blocks(special, patches, i)
        pooled = self._pool(special, patches, i)
        if self.head_dense is None:
            return self.classify(pooled)
        output = self.classify(pooled, self._norm(patches, i))
        if mixed is None:
            return output
        assert output.dense is not None
        return Output(output.cls, output.dist, torch.where(mixed, output.dense.flip(0), output.dense))

    def _embed(self, clips: Tensor, i: int, mixed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, frames = clips.shape[0], clips.shape[2] // self.config.tubelet
        tubelets = clips.transpose(1, 2).flatten(0, 1).unflatten(0, (-1, self.config.tubelet)).flatten(1, 2)
        patches = self.patch_embed(tubelets, i)  # (B T, N, C)
        patches = patches.unflatten(0, (batch, frames))
        if mixed is not None:
            patches = torch.where(mixed, patches.flip(0), patches)
        placed = self.config.num_placed[i]
        position = self.pos_embed[i]  # (1, placed + N, C), or N for each step in time
        special = self._special_tokens(i, position[:, :placed]).expand(batch, -1, -1)  # (B, S, C)
        patches = patches + position[:, placed:].unflatten(1, (-1, patches.shape[2]))
        special, patches = self.pos_drop(special), self.pos_drop(patches)
        if self.time_embed is not None:
            patches = patches + self.time_embed.unsqueeze(2)
        if self.norm_pre is not None:
            special, patches = self.norm_pre(special, i), self.norm_pre(patches, i)
        if self.config.attention == "space_only":
            special = special.unsqueeze(1).expand(-1, frames, -1, -1)
        return special, patches

    def _special_tokens(self, i: int, position: Tensor) -> Tensor:
        """Class token, distillation token, registers: `(1, S, C)`, of those that the length has."""
        placed = [self.cls_token, self.dist_token if self.config.distils_at(i) else None]
        tokens: list[Tensor] = [token for token in placed if token is not None]
        special = torch.cat(tokens, dim=1) + position if tokens else position
        return special if self.reg_token is None else torch.cat([special, self.reg_token], dim=1)

    def _blocks(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            special, patches = self._run(block, special, patches, i)
        return special, patches

    def _run(self, block: Callable[..., Any], *tokens: Any) -> Any:
        if self.config.act_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *tokens, use_reentrant=False)
        return block(*tokens)

    def _pool(self, special: Tensor, patches: Tensor, i: int) -> Tensor:
        """Normalised special tokens, after what the class head reads where that is no class token."""
        if self.config.attention == "space_only":
            special = special.mean(dim=1)  # over the frames
        if self.config.pool == "cls":
            return self._norm(special, i)
        tokens = patches.flatten(1, 2)
        if self.config.pool == "normed_mean":
            pooled = self._norm(tokens, i).mean(dim=1, keepdim=True)
            return torch.cat([pooled, self._norm(special, i)], dim=1)
        tokens = tokens[:, :1] if self.config.pool == "first" else tokens
        pooled = tokens.mean(dim=1, keepdim=True, dtype=self.head.weight.dtype)
        return self._norm(torch.cat([pooled, special], dim=1), i)

    def _norm(self, tokens: Tensor, i: int) -> Tensor:
        return self.norm(tokens.to(self.norm.dtype), i)  # may be more precise than the blocks

    def _check(self, clips: Tensor) -> None:
        expected = (3, self.num_frames, self.img_size, self.img_size)
        if tuple(clips.shape[1:]) != expected:
            wanted, got = ("x".join(map(str, shape)) for shape in (expected, clips.shape))
            raise ValueError(f"clips must be Bx{wanted} (channels, frames, height, width), got {got}")

    def compile(self, optional: bool = False, **options: Any) -> None:
        """Compile one graph per token length.

        Args:
            optional: where that fails, run as before, with a warning.
            options: those of `torch.compile`.

        Modifications:
            Shapes are static, except for the batch size without gradients: evaluation meets batches of any
            size. Graph breaks are errors, and so is exceeding dynamo's limit of graphs, which would fall back
            to eager mode.
        """
        limits = torch._dynamo.config  # of the graphs of one function, here those of all lengths
        limits.cache_size_limit = max(limits.cache_size_limit, 8 * len(self.lengths))
        self._compiling_is_optional = optional
        self._graphs = torch.compile(self._forward, dynamic=False, fullgraph=True, **options)

    @property
    def compiled(self) -> bool:
        return self._graphs is not None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_graphs": None}  # bound to these weights, not to a copy's

    @property
    def parts(self) -> list[ReViT]:
        return [self]

    def params_at(self, length: TokenLength) -> int:
        """The shared parameters and the length's own."""
        i, total = find(self.lengths, length), count_params(self)
        for module in self._per_length():
            own: list[nn.Module | Tensor] = list(module)
            total -= sum(map(count_params, own[:i] + own[i + 1 :]))
        if not self.config.distils_at(i) and self.dist_token is not None and self.head_dist is not None:
            total -= self.dist_token.numel() + count_params(self.head_dist)
        return total

    def freeze(self, blocks: int | None = None) -> None:
        """Stop training what all lengths share in the first `blocks` blocks and before them.

        The parts that each length has for itself, the distillation token and the heads go on learning.

        Args:
            blocks: None for all blocks and the last norm.
        """
        front = "cls_token|reg_token|time_embed|patch_embed|pos_embed|norm_pre"
        if blocks is None:
            frozen = re.compile(rf"{front}|blocks|norm")
        else:
            frozen = re.compile(rf"{front}|blocks\.({'|'.join(map(str, range(blocks)))})\.")
        own = {id(parameter) for module in self._per_length() for parameter in module.parameters()}
        for name, parameter in self.named_parameters():
            if frozen.match(name) and id(parameter) not in own:
                parameter.requires_grad_(False)

    def _per_length(self) -> Iterator[Any]:
        """The modules that hold one part for each length."""
        for module in self.modules():
            if isinstance(module, LengthNorm | PatchEmbeds | PositionEmbeds) and len(module) > 1:
                yield module

    def no_weight_decay(self) -> set[str]:
        undecayed = ("cls_token", "dist_token", "reg_token", "pos_embed", "time_embed")
        return {name for name, _ in self.named_parameters() if name.startswith(undecayed)}

    @torch.no_grad()
    def _init_weights(self, config: ReViTConfig) -> None:
        # TimeSformer's 0.02 at width 768, scaled for activations of the same size at any width.
        as_published, dim = config.init == "timesformer", config.embed_dim
        std = 0.02 if as_published else 0.02 * math.sqrt(768 / dim)
        for module in self.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not as_published):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Attention):
                module.qkv.weight[: 2 * module.proj.in_features] *= config.qk_init_gain
            if isinstance(module, DividedBlock):
                nn.init.zeros_(module.temporal_fc.weight)
        in_time = None if as_published else self.time_embed  # which stays 0
        tokens = (self.cls_token, self.dist_token, self.reg_token, in_time)
        for token in (*tokens, *self.pos_embed.parameters()):
            if token is not None:
                nn.init.trunc_normal_(token, std=std)
        if config.pos_init == "sincos":
            grid, over_time = place_waves(self.lengths[0], dim), waves(torch.arange(config.steps), dim)
            if self.time_embed is not None:
                self.time_embed.copy_(over_time)
            elif config.placed_steps > 1:
                grid = grid + over_time[:, None, None]
            self.pos_embed.set_grid(grid)
        elif config.pos_init == "sine":
            shape = config.placed_steps, self.lengths[0].h, self.lengths[0].w
            table = sine_table(int(self.cls_token is not None), math.prod(shape), dim)
            self.pos_embed.set_grid(table.unflatten(0, shape))
        # With the same initial embeddings, what the shared weights learn at one length helps the others.
        self.pos_embed.init_from_longest()
        self.patch_embed.init_from_longest()
