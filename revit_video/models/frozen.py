"""A ViT whose pretrained weights stay as they are, with a head in closed form: for few clips and no GPU."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from revit_video.length import Box, TokenLength, find, nested_frames
from revit_video.models.base import NO_STATE, CascadeState, Output, count_params
from revit_video.models.config import FrozenConfig
from revit_video.models.revit import ReViT

PARTS = 3  # of a clip, in whose order the class tokens are averaged


class FrozenReViT(ReViT):
    """A space-only ReViT that reads frame by frame, and one linear head per length on `describe`.

    A token length may have a number of frames, `8x12x12`; those of fewer frames are among those of more. If
    all lengths have the same grid, a cascade goes on to more frames and reads none twice. Lengths of one
    grid share its embeddings and norms, `patch_embed.<grid>`, grids with more tokens first.
    """

    kind = "frozen"

    def __init__(self, config: FrozenConfig) -> None:
        grids = sorted({length.grid for length in config.lengths}, key=lambda grid: (-grid.count, grid.h))
        super().__init__(replace(config, lengths=tuple(grids)))
        self.config, self.lengths = config, config.lengths
        self.grids = [grids.index(length.grid) for length in config.lengths]
        self.frames = nested_frames(config.lengths, config.num_frames)
        self.carries_state = len(grids) == 1
        sizes = [
            sum(blocks_of(len(frames), length.count, config.embed_dim))
            for frames, length in zip(self.frames, config.lengths, strict=True)
        ]
        del self.head  # of the class token alone
        self.heads = nn.ModuleList(nn.Linear(size, config.num_classes) for size in sizes)

    def forward(self, clips: Tensor, length: int | str | TokenLength, mix: Box | None = None) -> Output:
        assert mix is None, "MixToken is for models that are trained on their clips"
        return self.step(clips, find(self.lengths, length))[0]

    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        tokens = self.read(clips, i, state.features if self.carries_state else None)
        return Output(self.heads[i](describe(tokens))), CascadeState(tokens)

    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        output, state = self.step(clips, find(self.lengths, length))
        assert state.features is not None
        return [(output.logits, state.features)]

    def descriptions(self, clips: Tensor) -> list[Tensor]:
        """What the heads read, `(B, D_i)` of each length, longest first."""
        tokens, shortest_first = None, []
        for i in reversed(range(len(self.lengths))):
            tokens = self.read(clips, i, tokens if self.carries_state else None)
            shortest_first.append(describe(tokens))
        return shortest_first[::-1]

    def read(self, clips: Tensor, i: int, known: Tensor | None = None) -> Tensor:
        """Normalised tokens of the frames of length `i`, `(B, T_i, 1 + N, C)`, the class token first.

        Args:
            known: those of the next shorter length.
        """
        self._check(clips)
        wanted = self.frames[i]
        there = [] if known is None else self.frames[i + 1]
        new = [n for n in wanted if n not in there]
        grid = self.grids[i]
        special, patches = self._blocks(*self._embed(clips[:, :, _index(new, clips)], grid), grid)
        tokens = self._norm(torch.cat([special[:, :, :1], patches], dim=2), grid)
        if known is None:
            return tokens
        order = sorted(range(len(wanted)), key=(there + new).__getitem__)
        return torch.cat([known, tokens], dim=1)[:, _index(order, tokens)]

    def params_at(self, length: TokenLength) -> int:
        i = find(self.lengths, length)
        others = [head for k, head in enumerate(self.heads) if k != i]
        for module in self._per_length():
            others += [own for k, own in enumerate(module) if k != self.grids[i]]
        return count_params(self) - sum(map(count_params, others))


def _index(places: list[int], like: Tensor) -> Tensor:
    """An index on the device of `like`; a list would make the host wait for it."""
    return torch.tensor(places).to(like.device, non_blocking=True)


def blocks_of(frames: int, patches: int, width: int) -> list[int]:
    """Sizes of the parts of a description, which a head weighs equally."""
    if frames == 1:
        return [width, width]
    return [width] * (2 + min(PARTS, frames) + 3) + [frames - 1, patches]


def describe(tokens: Tensor) -> Tensor:
    """What a clip's tokens tell in few numbers, `(B, sum(blocks_of(...)))`: one frame, order and motion.

    Of the middle frame, the class token and the patch tokens' mean; of an image that is all. The class
    tokens' mean in each third of the clip, and their deviation over all of it. Of the patch tokens'
    differences from frame to frame: the mean size of each channel's; what moves, the patch tokens' mean
    weighted by the size of their difference; and that size over time and over the grid.

    Args:
        tokens: `(B, T, 1 + N, C)`, the class token first.
    """
    frames = tokens.shape[1]
    special, patches = tokens[:, :, 0], tokens[:, :, 1:]
    one = [special[:, frames // 2], patches[:, frames // 2].mean(dim=1)]
    if frames == 1:
        return torch.cat(one, dim=1)
    parts = min(PARTS, frames)
    ends = [n * frames // parts for n in range(parts + 1)]
    means = [special[:, start:end].mean(dim=1) for start, end in zip(ends, ends[1:], strict=False)]
    variance = (special - special.mean(dim=1, keepdim=True)).pow(2).mean(dim=1)
    deviation = variance.clamp(min=1e-14).sqrt()  # of frames that are all the same, with a gradient
    later = patches[:, 1:]
    change = (later - patches[:, :-1]).abs()  # (B, T - 1, N, C)
    size = change.mean(dim=3, keepdim=True)
    moving = (later * size).sum(dim=(1, 2)) / (size.sum(dim=(1, 2)) + 1e-6)
    over_time, over_grid = size.mean(dim=(2, 3)), size.mean(dim=(1, 3))
    return torch.cat([*one, *means, deviation, change.mean(dim=(1, 2)), moving, over_time, over_grid], dim=1)
