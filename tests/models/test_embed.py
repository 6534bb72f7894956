"""Patches against sums written out, stems against their layers, and the embeddings that lengths share."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from revit_video.flops import count
from revit_video.length import patch_geometry, token_lengths
from revit_video.models.embed import (
    PatchEmbed,
    PatchEmbeds,
    PositionEmbeds,
    ResizedPatchEmbed,
    ResizedPositionEmbed,
    SharedPatchEmbed,
    SharedPositionEmbed,
    place_waves,
    waves,
)
from revit_video.models.stem import project, project_by_product

LENGTHS = token_lengths([8, 5, 4])


def cut(frame: Tensor, cells: int) -> list[Tensor]:
    """The patches `(C, kernel, kernel)` of a square frame, row by row."""
    kernel, before, _ = patch_geometry(frame.shape[-1], cells)
    padded = torch.zeros(frame.shape[0], kernel * cells, kernel * cells)
    padded[:, before : before + frame.shape[1], before : before + frame.shape[2]] = frame
    places = [(row, column) for row in range(cells) for column in range(cells)]
    return [padded[:, r * kernel : (r + 1) * kernel, c * kernel : (c + 1) * kernel] for r, c in places]


def test_the_product_for_gpus_is_the_convolution() -> None:
    """Its multiply-accumulates too, which are counted on the model's device."""
    frames, kernel, bias = torch.randn(2, 6, 12, 20), torch.randn(5, 6, 3, 4), torch.randn(5)
    expected = project(frames, (0, 0, 0, 0), kernel, bias)
    torch.testing.assert_close(project_by_product(frames, kernel, bias), expected)
    counted = [
        count(Projection(way), frames, kernel, bias).gmacs for way in (by_convolution, project_by_product)
    ]
    assert counted[0] == counted[1] > 0


class Projection(nn.Module):
    """A function as a module."""

    def __init__(self, way: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, frames: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return self.way(frames, kernel, bias)


def by_convolution(frames: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    return project(frames, (0, 0, 0, 0), kernel, bias)


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


# ---- One for all lengths, resized ------------------------------------------------------------------------

RESIZED = token_lengths([8, "5x8", 4])  # patches of 4x4, 7x4 and 8x8 px


@pytest.mark.parametrize("i", range(3))
def test_the_one_kernel_is_resampled_as_timm_does(i: int) -> None:
    embed = ResizedPatchEmbed(RESIZED, 32, 6)
    assert [name for name, _ in embed.named_parameters()] == list(embed.state_dict())  # no matrices
    expected = resample_patch_embed(embed.proj.weight, [4, 7, 8][i : i + 1] + [4, 4, 8][i : i + 1])
    torch.testing.assert_close(embed.kernel(i), expected, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(embed(torch.randn(1, 3, 32, 32), i).sin().sum(), embed.proj.weight)
    assert (gradient != 0).all()


def test_a_patch_made_smaller_keeps_its_token() -> None:
    """Of a kernel that reads nothing finer than the small patch shows."""
    embed = ResizedPatchEmbed(RESIZED, 32, 6).double()
    small, patch = torch.randn(6, 3, 4, 4).double(), torch.randn(1, 3, 8, 8).double()

    def shrunk(pixels: Tensor) -> Tensor:
        return F.interpolate(pixels, (4, 4), mode="bicubic", antialias=True)

    _, read = torch.autograd.functional.vjp(shrunk, patch.expand(6, -1, -1, -1), small)
    with torch.no_grad():
        embed.proj.weight.copy_(read)
    expected = (embed.proj.weight * patch).sum((1, 2, 3))
    token = (embed.kernel(0) * shrunk(patch)).sum((1, 2, 3))
    torch.testing.assert_close(token, expected, rtol=1e-5, atol=1e-5)


def test_the_one_position_embedding_is_resampled_as_timm_does() -> None:
    positions = ResizedPositionEmbed(RESIZED, [1, 2, 2], 6)
    nn.init.normal_(positions.special)
    nn.init.normal_(positions.grid)
    places = positions.grid.flatten(2).mT
    for i, (length, special) in enumerate(zip(RESIZED, [1, 2, 2], strict=True)):
        expected = resample_abs_pos_embed(places, [length.h, length.w], [8, 8], 0)
        torch.testing.assert_close(positions[i][:, special:], expected)
        assert torch.equal(positions[i][:, :special], positions.special[:, :special])
        (gradient,) = torch.autograd.grad(positions[i].sin().sum(), positions.grid)
        assert (gradient != 0).all()


@pytest.mark.parametrize("shared", [True, False])
def test_separate_embeddings_are_the_same(shared: bool) -> None:
    patches = (SharedPatchEmbed if shared else ResizedPatchEmbed)(LENGTHS, 32, 6)
    positions = (SharedPositionEmbed if shared else ResizedPositionEmbed)(LENGTHS, [1, 2, 2], 6)
    for parameter in positions.parameters():
        nn.init.normal_(parameter)
    state = torch.get_rng_state()
    own_patches, own_positions = patches.separate(), positions.separate()
    assert torch.equal(torch.get_rng_state(), state)
    frames = torch.randn(2, 3, 32, 32)
    for i in range(3):
        assert torch.equal(own_patches(frames, i), patches(frames, i))
        assert torch.equal(own_positions[i], positions[i])
    before = patches.proj.weight.clone()
    with torch.no_grad():
        own_patches[2].proj.weight.zero_()
        own_positions[2].zero_()
    assert torch.equal(patches.proj.weight, before) and positions.grid.all()


# ---- Stems -----------------------------------------------------------------------------------------------


def layers(*convs: nn.Conv2d, proj: nn.Module) -> nn.Sequential:
    """What a stem consists of, under the names that LV-ViT gives it."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for k, conv in enumerate(convs, 1):
        parts |= {f"conv{k}": conv, f"bn{k}": nn.BatchNorm2d(conv.out_channels), f"relu{k}": nn.ReLU()}
    return nn.Sequential(parts | {"proj": proj})


def half(fan_in: int, fan_out: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1, bias=False)


def lvvit(kernel: int, padding: int) -> nn.Sequential:
    first = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    others = (nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(2))
    return layers(first, *others, proj=nn.Conv2d(64, 24, kernel, stride=kernel, padding=padding))


# Of 8x8, 5x5 and 4x4 patches of 32 px
EXPECTED_STEMS = {
    "conv": [
        layers(half(3, 12), half(12, 24), proj=nn.Conv2d(24, 24, 1)),
        layers(half(3, 12), proj=nn.Conv2d(12, 24, 4, stride=4, padding=2)),
        layers(half(3, 6), half(6, 12), half(12, 24), proj=nn.Conv2d(24, 24, 1)),
    ],
    "lvvit": [lvvit(2, 0), lvvit(4, 2), lvvit(4, 0)],
}


@pytest.mark.parametrize("stem", EXPECTED_STEMS)
@pytest.mark.parametrize("i", range(3))
def test_stems_are_their_layers(stem: str, i: int) -> None:
    """In training and after, each length with statistics of its own."""
    embed, expected = PatchEmbeds(LENGTHS, 32, 24, stem), EXPECTED_STEMS[stem][i]
    others = {name: value.clone() for name, value in embed.state_dict().items() if name[0] != str(i)}
    expected.load_state_dict(embed[i].state_dict())
    for training in (True, False):
        frames = torch.randn(3, 3, 32, 32)
        tokens = expected.train(training)(frames)
        torch.testing.assert_close(embed.train(training)(frames, i), tokens.flatten(2).mT)
        torch.testing.assert_close(embed[i].state_dict(), dict(expected.state_dict()))
    state = embed.state_dict()
    assert not torch.equal(state[f"{i}.bn1.running_mean"], torch.zeros_like(state[f"{i}.bn1.running_mean"]))
    assert all(torch.equal(state[name], value) for name, value in others.items())


def test_lvvits_stem_has_its_size() -> None:
    embed = PatchEmbeds(token_lengths([14, 10, 7]), 224, 384, "lvvit")
    counts = [sum(parameter.numel() for parameter in own.parameters()) for own in embed]
    convolutions = 9_408 + 2 * 36_864 + 3 * 128
    assert counts == [convolutions + 384 * (1 + 64 * kernel**2) for kernel in (8, 12, 16)]


@pytest.mark.parametrize(
    ("stem", "lengths", "size", "width", "message"),
    [
        ("conv", [8, 7], 36, 24, "36 px cannot be halved and then cut into 8x8 patches"),
        ("conv", [8, 2], 32, 12, "a convolutional stem for 2x2 needs a width divisible by 8, not 12"),
        ("lvvit", [5], 25, 24, "halves the frame, which has an odd side, 25 px"),
        ("lvvit", [8, 4], 14, 24, "7 px cannot be cut into 8 patches"),
    ],
)
def test_stems_that_cannot_be_built(
    stem: str, lengths: list[int], size: int, width: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PatchEmbeds(token_lengths(lengths), size, width, stem)


# ---- How they start --------------------------------------------------------------------------------------


def test_stems_start_alike_as_far_as_they_are_alike() -> None:
    convolutions, lvvit = (PatchEmbeds(LENGTHS, 32, 24, stem) for stem in ("conv", "lvvit"))
    for embed in (convolutions, lvvit):
        embed.init_from_longest()
    first, second, third = convolutions
    assert torch.equal(first.conv1.weight, second.conv1.weight)  # of 12 channels; the third's has 6
    assert first.proj.weight.shape != second.proj.weight.shape
    assert not torch.equal(first.proj.weight, third.proj.weight)  # reads other channels
    for own in lvvit:
        for (conv, _), (theirs, _) in zip(own.layers(), lvvit[0].layers(), strict=True):
            assert torch.equal(conv.weight, theirs.weight)
        expected = resample_patch_embed(lvvit[0].proj.weight, list(own.proj.kernel_size))
        torch.testing.assert_close(own.proj.weight, expected)


def test_kernels_start_as_the_longest_ones() -> None:
    """A patch and the same patch enlarged get the same token, as in FlexiViT."""
    embed = PatchEmbeds(LENGTHS, 32, 6)
    embed.init_from_longest()
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
    positions.init_from_longest()
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
