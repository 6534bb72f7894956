"""Patches against sums written out, and the two shared embeddings of the ablations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.length import patch_geometry, token_lengths
from revit_video.models.embed import (
    PatchEmbed,
    PatchEmbeds,
    PositionEmbeds,
    SharedPatchEmbed,
    SharedPositionEmbed,
    place_waves,
    waves,
)

LENGTHS = token_lengths([8, 5, 4])


def cut(frame: Tensor, cells: int) -> list[Tensor]:
    """The patches `(C, kernel, kernel)` of a square frame, row by row."""
    kernel, before, _ = patch_geometry(frame.shape[-1], cells)
    padded = torch.zeros(frame.shape[0], kernel * cells, kernel * cells)
    padded[:, before : before + frame.shape[1], before : before + frame.shape[2]] = frame
    places = [(row, column) for row in range(cells) for column in range(cells)]
    return [padded[:, r * kernel : (r + 1) * kernel, c * kernel : (c + 1) * kernel] for r, c in places]


@pytest.mark.parametrize("i", range(3))
def test_patches_are_projected_row_by_row(i: int) -> None:
    embed = PatchEmbeds(LENGTHS, 32, 6)
    frames = torch.randn(2, 3, 32, 32)
    weight, bias = embed[i].proj.weight, embed[i].proj.bias
    expected = [[(weight * patch).sum((1, 2, 3)) + bias for patch in cut(f, LENGTHS[i].h)] for f in frames]
    torch.testing.assert_close(embed(frames, i), torch.stack([torch.stack(tokens) for tokens in expected]))


def test_grids_need_not_be_square() -> None:
    (length,) = token_lengths(["4x8"])
    embed = PatchEmbed(length, 32, 6)
    assert embed.proj.kernel_size == (8, 4)
    assert embed(torch.randn(1, 3, 32, 32)).shape == (1, 32, 6)


@pytest.mark.parametrize("i", range(3))
def test_shared_kernel_is_cropped_at_its_centre(i: int) -> None:
    """32 px: 8x8 uses the inner 4 of 8 px, 5x5 the inner 7 (one lost behind), 4x4 the whole kernel."""
    embed = SharedPatchEmbed(LENGTHS, 32, 6)
    assert embed.proj.weight.shape == (6, 3, 8, 8)
    first, last = [(2, 6), (0, 7), (0, 8)][i]
    weight, bias = embed.proj.weight[:, :, first:last, first:last], embed.proj.bias
    frame = torch.randn(3, 32, 32)
    expected = torch.stack([(weight * patch).sum((1, 2, 3)) + bias for patch in cut(frame, LENGTHS[i].h)])
    torch.testing.assert_close(embed(frame[None], i)[0], expected)


def test_position_embeddings_count_the_special_tokens() -> None:
    positions = PositionEmbeds(LENGTHS, [1, 2, 2], 6)
    assert [tuple(positions[i].shape) for i in range(3)] == [(1, 65, 6), (1, 27, 6), (1, 18, 6)]


def test_shared_position_embedding_is_zero_padded() -> None:
    positions = SharedPositionEmbed(LENGTHS, [1, 2, 2], 6)
    torch.nn.init.uniform_(positions.special, 1, 2)
    torch.nn.init.uniform_(positions.grid, 1, 2)
    learned = positions.grid[0].permute(1, 2, 0)  # (4, 4, C)
    for i, (special, before) in enumerate([(1, 2), (2, 0), (2, 0)]):
        side = LENGTHS[i].h
        grid = positions[i][0, special:].view(side, side, 6)
        centre = slice(before, before + 4)
        torch.testing.assert_close(positions[i][:, :special], positions.special[:, :special])
        torch.testing.assert_close(grid[centre, centre], learned)
        assert (grid != 0).sum() == learned.numel()


# ---- How they start --------------------------------------------------------------------------------------


def test_kernels_start_as_the_longest_ones() -> None:
    """A patch and the same patch enlarged get the same token, as in FlexiViT."""
    embed = PatchEmbeds(LENGTHS, 32, 6)
    embed.spread()
    patch = torch.randn(1, 3, 4, 4)
    expected = (embed[0].proj.weight * patch).sum((1, 2, 3)) + embed[0].proj.bias
    for i, kernel in ((1, 7), (2, 8)):
        enlarged = F.interpolate(patch, (kernel, kernel), mode="bicubic", antialias=True)
        token = (embed[i].proj.weight * enlarged).sum((1, 2, 3)) + embed[i].proj.bias
        torch.testing.assert_close(token, expected, rtol=1e-4, atol=1e-5)


def test_positions_start_as_the_longest_ones() -> None:
    """Shorter grids show the same picture: here the row in one channel and the column in another."""
    positions = PositionEmbeds(LENGTHS, [1, 2, 2], 2)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    positions.set_grid(torch.stack([rows, columns], dim=2))
    positions.spread()
    for i, side in ((1, 5), (2, 4)):
        grid = positions[i][0, 2:].view(side, side, 2)
        assert not positions[i][0, :2].any()  # the special tokens have no place
        centres = (torch.arange(side) + 0.5) * 8 / side - 0.5
        torch.testing.assert_close(grid[:, 0, 0], centres, rtol=0, atol=0.15)
        torch.testing.assert_close(grid[0, :, 1], centres, rtol=0, atol=0.15)
        torch.testing.assert_close(grid[:, :, 0], grid[:, :1, 0].expand(-1, side))


def test_waves_by_hand() -> None:
    """Width 4 has the rates 1 and 1/10: sines first, then cosines."""
    sin, cos = math.sin, math.cos
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0], [sin(2), sin(0.2), cos(2), cos(0.2)]])
    torch.testing.assert_close(waves(torch.tensor([0, 2]), 4), expected)
    (length,) = token_lengths(["3x5"])
    grid = place_waves(length, 8)
    torch.testing.assert_close(grid[2, 4], torch.cat([*waves(torch.tensor([2, 4]), 4)]))
