"""Counted cost against sums written out, and against the papers' figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.flops import assigner_macs, cost_table, count, matmul_gmacs, revit_macs
from revit_video.length import TokenLength
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.config import ReViTConfig
from revit_video.models.presets import deit_small, preset, timesformer_base
from revit_video.models.revit import ReViT
from tests.tiny import tiny_revit


@pytest.mark.parametrize("distill_token", [True, False])
@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize(
    "sizes",
    [
        dict(),
        dict(embed_dim=32, num_heads=2, depth=1, mlp_ratio=4.0, num_frames=5, num_classes=7),
        dict(lengths=[7, "5x3"], norm="shared", patch_embed="shared", pos_embed="shared"),  # with padding
        dict(lengths=[7, "5x3"], patch_embed="resized", pos_embed="resized"),  # as if it were not
        dict(lengths=[8, "5x3"], stem="lvvit", dense_head=True, qkv_bias=False, residual_scale=0.5),
        dict(lengths=[8, 5], stem="conv", dense_head=True),
        dict(tubelet=3, pool="mean", act="swiglu", registers=2, pre_norm=True),
        dict(tubelet=3, pool="normed_mean", stem="lvvit", dense_head=True, positions="joint"),
    ],
)
def test_counted_products_are_the_closed_form(
    sizes: dict[str, Any], attention: str, distill_token: bool
) -> None:
    model = tiny_revit(attention=attention, distill_token=distill_token, **sizes)
    for i, length in enumerate(model.lengths):
        macs = revit_macs(model, length)
        expected = matmul_gmacs(model.config, i)
        assert macs.matmul_gmacs == pytest.approx(expected, rel=1e-9)
        assert macs.gmacs > macs.matmul_gmacs


def test_closed_form_by_hand() -> None:
    """One block of width 4 over 2 frames of 2x2 patches of 3 px; one special token, 10 classes, MLP 8."""
    sizes: dict[str, Any] = dict(num_frames=2, img_size=6, embed_dim=4, depth=1, num_heads=1, mlp_ratio=2.0)
    macs = matmul_gmacs(ReViTConfig(**sizes | {"lengths": [2], "num_classes": 10}), 0)
    embed = 8 * 27 * 4
    time = 4 * (2 * 4 * 16 + 2 * 2 * 2 * 4) + 8 * 16  # 4 places: four projections, q·k and a·v; temporal_fc
    space = 2 * (5 * 4 * 16 + 2 * 5 * 5 * 4)  # 2 frames of 5 tokens
    mlp = 9 * 2 * 4 * 8
    assert macs * 1e9 == pytest.approx(embed + time + space + mlp + 4 * 10)


@pytest.mark.parametrize(
    ("lengths", "distill_token", "gmacs"),
    [([14], False, 196.05), ([8, 7], False, 48.86), ([8, 7], True, 49.19)],
)
def test_timesformer_base(lengths: list[int], distill_token: bool, gmacs: float) -> None:
    """196.05 and 48.86 GMACs, counted with fvcore in another implementation; the second token adds 0.3.

    Of the last length, from models of one and of two blocks: twelve would take the test long to run.
    """
    one, two = (timesformer_base(lengths, depth=depth, distill_token=distill_token) for depth in (1, 2))
    length = one.lengths[-1]
    first, both = revit_macs(one, length), revit_macs(two, length)
    assert first.gmacs + 11 * (both.gmacs - first.gmacs) == pytest.approx(gmacs, rel=0.001)
    assert first.matmul_gmacs == pytest.approx(matmul_gmacs(one.config, len(lengths) - 1), rel=0.001)


@pytest.mark.parametrize(
    ("arch", "gmacs"),
    [("videomae_small", 57), ("videomae_base", 180.5), ("videomae_large", 597), ("vivit_base", 451.8)],
)
def test_models_of_tubelets(arch: str, gmacs: float) -> None:
    """VideoMAE's as its authors count, a view of 16 x 224; one block at 7x7 is counted in both ways."""
    sizes = preset(arch) | {"num_classes": 400, "distill_token": False}
    assert matmul_gmacs(ReViTConfig(**sizes | {"lengths": [14]}), 0) == pytest.approx(gmacs, rel=0.0025)
    model = ReViT(ReViTConfig(**sizes | {"lengths": [7], "depth": 1}))
    counted = revit_macs(model, model.lengths[0]).matmul_gmacs
    assert counted == pytest.approx(matmul_gmacs(model.config, 0), rel=1e-9)


def test_timesformer_hr_in_closed_form() -> None:
    """The paper's 5.11 TMACs for three views at 28x28; 1.19 at 14x14."""
    sizes = preset("timesformer_base_hr") | {"num_classes": 400, "lengths": [28, 14], "distill_token": False}
    per_view = [matmul_gmacs(ReViTConfig(**sizes), i) for i in range(2)]
    assert [3 * gmacs / 1000 for gmacs in per_view] == pytest.approx([5.11, 1.19], rel=0.005)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = tiny_revit(drop_path=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for training in (True, False):
        model.train(training).norm.train(not training)
        revit_macs(model, model.lengths[0])
        modes = {part: module.training for part, module in model.named_modules()}
        assert modes["norm"] != training and modes["blocks.0"] == modes[""] == training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ---- What is counted -------------------------------------------------------------------------------------


class Attend(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Inverse(nn.Module):
    """An operation that multiplies and that nobody knows how to count."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x @ x) + x


def test_attention_is_counted() -> None:
    """2 x 3 heads, 5 queries of width 4, 7 keys, values of width 6."""
    inputs = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 6)
    assert count(Attend(), *inputs).gmacs * 1e9 == pytest.approx(6 * 5 * 7 * (4 + 6))


def test_what_cannot_be_counted_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="cannot count aten::linalg_inv.*: give it a handle or list it in"):
        count(Inverse(), torch.eye(3))


# ---- Parameters, the assigner, the table -----------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(distill_token=False),
        dict(stem="lvvit", dense_head=True),
        dict(stem="conv"),
        dict(patch_embed="resized", pos_embed="resized"),
    ],
)
def test_parameters_of_a_length_are_those_that_a_pass_reaches(changes: dict[str, Any]) -> None:
    model = tiny_revit(lengths=[8, 4, 2], **changes)
    clips = torch.randn(1, 3, model.num_frames, model.img_size, model.img_size).double()
    for length in model.lengths:
        model.zero_grad(set_to_none=True)
        model(clips, length).logits.sum().backward()
        reached = sum(p.numel() for p in model.parameters() if p.grad is not None)
        assert model.params_at(length) == reached


def test_shared_parameters_count_at_every_length() -> None:
    model = tiny_revit(norm="shared", patch_embed="shared", pos_embed="shared", distill_token=False)
    total = sum(p.numel() for p in model.parameters())
    assert [model.params_at(length) for length in model.lengths] == [total, total]


def test_the_assigner_costs_its_frames() -> None:
    """`tinynet_e` is 25.3 MMACs a frame at 112 px: 0.1 % of TimeSformer for 8 of them."""
    assigner = TokenLengthAssigner(2, num_frames=8, input_size=112)
    alone = TokenLengthAssigner(2, num_frames=1, input_size=112)
    one, eight = (assigner_macs(network, 8, 224).gmacs for network in (alone, assigner))
    assert one == pytest.approx(0.0253, rel=0.05)
    assert eight == pytest.approx(8 * one, rel=0.001)


def test_cost_table() -> None:
    model = tiny_revit()
    assigner = TokenLengthAssigner(2, stages=1, num_frames=2, input_size=16)
    table = cost_table(model, 3, assigner)
    first, second = model.lengths
    assert list(table["lengths"]) == ["8x8", "4x4"]
    assert (table["unit"], table["views"]) == ("GMACs", 3)
    assert table["params"] == sum(p.numel() for p in model.parameters())
    assert table["lengths"]["4x4"] == {
        "gmacs": revit_macs(model, second).gmacs,
        "matmul_gmacs": revit_macs(model, second).matmul_gmacs,
        "params": model.params_at(second),
    }
    assert table["assigner_gmacs"] == assigner_macs(assigner, model.num_frames, model.img_size).gmacs > 0
    assert table["assigner_params"] == sum(p.numel() for p in assigner.parameters())
    assert "assigner_gmacs" not in cost_table(model, 1)


def test_deit_small() -> None:
    """4.61 GMACs at 14x14, as fvcore counts timm's model once it knows the attention."""
    model = deit_small([14])
    assert revit_macs(model, TokenLength(14, 14)).gmacs == pytest.approx(4.61, abs=0.01)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_050_664


def test_lvvit_small_in_closed_form() -> None:
    """6.57 GMACs at 14x14 of 224 px, 21.95 of 384 px and 31.87 of 448 px, with fvcore's 0.3 % for norms.

    The stem costs 1.35 of them at any length of 224 px, so that 7x7 has 40 % of the cost of 14x14.
    """
    small = preset("lvvit_small") | {"num_classes": 1000, "lengths": [14, 7]}

    def gmacs(i: int = 0, **changes: Any) -> float:
        return matmul_gmacs(ReViTConfig(**small | changes), i)

    for side, grid, total in ((224, 14, 6.57), (384, 24, 21.95), (448, 28, 31.87)):
        assert 1.003 * gmacs(img_size=side, lengths=[grid]) == pytest.approx(total, rel=0.001)
    long, short = gmacs(0), gmacs(1)
    stem = 2 * gmacs(depth=1, num_classes=0) - gmacs(depth=2, num_classes=0)
    assert (stem, short / long) == (pytest.approx(1.351, abs=0.001), pytest.approx(0.4, abs=0.005))
