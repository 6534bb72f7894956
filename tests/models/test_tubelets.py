"""What today's backbones have and TimeSformer has not: tubelets, positions in space and time, pooling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from revit_video.models.embed import resized_places, sine_table
from revit_video.models.inference import for_inference, logits_at
from revit_video.models.presets import videomae_base
from tests.tiny import CLASSES, FRAMES, random_clips, tiny_revit

ATTENTIONS = ["divided_space_time", "joint_space_time", "space_only"]
POOLS = ["cls", "mean", "normed_mean", "first"]
VIDEOMAE: dict[str, Any] = dict(
    attention="joint_space_time", pool="mean", positions="fixed", pos_init="sine", tubelet=3
)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_tubelet_of_stacked_frames_is_a_convolution_in_time(attention: str) -> None:
    model, clips = tiny_revit(attention=attention, tubelet=3, positions="joint"), random_clips(2)
    _, patches = model._embed(clips, 1)
    kernel = model.patch_embed[1].proj.weight.unflatten(1, (3, 3)).transpose(1, 2)  # (C, RGB, T, h, w)
    tokens = F.conv3d(clips, kernel, model.patch_embed[1].proj.bias, stride=(3, 8, 8))
    expected = tokens.flatten(2).transpose(1, 2) + model.pos_embed[1][:, -16:]
    torch.testing.assert_close(patches[:, 0], expected)


@pytest.mark.parametrize("stem", ["conv", "lvvit"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_stems_take_tubelets_too(attention: str, stem: str) -> None:
    model = tiny_revit(attention=attention, tubelet=3, stem=stem)
    assert model.patch_embed[0].conv1.weight.shape[1] == 9
    assert model(random_clips(2), 8).cls.shape == (2, CLASSES)


@pytest.mark.parametrize("norm", ["per_length", "shared"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pool", POOLS)
def test_what_the_heads_read(pool: str, attention: str, norm: str) -> None:
    """Computed from the last block's tokens, at a length with a distillation token and at one without."""
    model = tiny_revit(attention=attention, pool=pool, norm=norm, registers=2, pre_norm=True).eval()
    for i, length in enumerate(model.lengths):
        output = model(random_clips(2), length)
        special, patches = model._blocks(*model._embed(random_clips(2), i), i)
        special = special.mean(dim=1) if attention == "space_only" else special
        assert special.shape[1] == (pool == "cls") + i + 2
        norm_i = model.norm[min(i, len(model.norm) - 1)]
        tokens = patches.flatten(1, 2)
        read = {
            "cls": norm_i(special[:, 0]),
            "mean": norm_i(tokens.mean(dim=1)),
            "normed_mean": norm_i(tokens).mean(dim=1),
            "first": norm_i(tokens[:, 0]),
        }
        torch.testing.assert_close(output.cls, model.head(read[pool]))
        if i == 0:
            assert output.dist is None
        else:
            assert output.dist is not None and model.head_dist is not None
            of_token = norm_i(special[:, int(pool == "cls")])
            torch.testing.assert_close(output.dist, model.head_dist(of_token))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("positions", ["joint", "fixed"])
@pytest.mark.parametrize("pool", POOLS)
def test_the_inference_copy_agrees(pool: str, positions: str, attention: str) -> None:
    parts: dict[str, Any] = dict(
        positions=positions, pos_init="sine", tubelet=3, registers=1, act="gelu_tanh"
    )
    model, clips = tiny_revit(attention=attention, pool=pool, **parts).float().eval(), random_clips(2).float()
    for length in model.lengths:
        torch.testing.assert_close(
            logits_at(for_inference(model), clips, length), model(clips, length).logits
        )
        coarse = logits_at(for_inference(model, torch.bfloat16), clips, length)
        torch.testing.assert_close(coarse, model(clips, length).logits, rtol=0.1, atol=0.25)


@pytest.mark.parametrize("pos_embed", ["per_length", "shared", "resized"])
def test_positions_in_space_and_time_tell_frames_apart(pos_embed: str) -> None:
    model = tiny_revit(attention="joint_space_time", positions="joint", pos_embed=pos_embed)
    assert model.time_embed is None
    still = random_clips(1, frames=1).expand(-1, -1, FRAMES, -1, -1)
    for i, length in enumerate(model.lengths):
        _, patches = model._embed(still, i)
        assert not torch.allclose(patches[:, 0], patches[:, 1])
        placed = model.pos_embed[i][:, model.config.num_placed[i] :]
        assert placed.shape == (1, FRAMES * length.count, 24)
        same = patches - placed.view(1, FRAMES, -1, 24)
        torch.testing.assert_close(same[:, 0], same[:, 2])


def test_fixed_positions_are_not_trained_nor_counted() -> None:
    model, learned = (tiny_revit(**VIDEOMAE | {"positions": kind}) for kind in ("fixed", "joint"))
    assert not [name for name, _ in model.named_parameters() if name.startswith("pos_embed")]
    assert {"pos_embed.0", "pos_embed.1"} <= model.state_dict().keys() == learned.state_dict().keys()
    for length, count in ((8, 64), (4, 17)):
        i = model.lengths.index(model.lengths[0] if length == 8 else model.lengths[1])
        ours, theirs = (each.params_at(each.lengths[i]) for each in (model, learned))
        assert theirs - ours == 24 * count
    assert not any(name.startswith("pos_embed") for name in model.no_weight_decay())


def test_the_sine_table_of_videomae() -> None:
    """Its formula written out, and its shorter lengths resampled in space, each time step for itself."""
    table = sine_table(0, 8 * 14 * 14, 768)
    for place, channel in ((0, 0), (1, 1), (100, 6), (1567, 767)):
        angle = place / 10000 ** (2 * (channel // 2) / 768)
        expected = torch.tensor(angle, dtype=torch.float64)
        expected = expected.cos() if channel % 2 else expected.sin()
        assert float(table[place, channel]) == pytest.approx(float(expected), abs=1e-6)
    model = videomae_base((14, 7), 5, depth=1)
    assert torch.equal(model.pos_embed[0][0], table)
    longest, shorter = model.lengths
    for step in (0, 7):
        grid = table.view(1, 8, 14 * 14, 768)[:, step]
        ours = model.pos_embed[1][:, 1:].view(8, 49, 768)[step]  # after the distillation token
        torch.testing.assert_close(ours, resized_places(grid, longest, shorter)[0])


def test_places_on_other_grids_and_steps() -> None:
    """Constant along an axis, they stay so; over time they are interpolated linearly."""
    model = tiny_revit()
    longest, shorter = model.lengths
    ramp = torch.arange(6.0).view(6, 1, 1).expand(6, 64, 4).reshape(1, 384, 4)
    resized = resized_places(ramp, longest, shorter, 6, 3).view(3, 16, 4)
    torch.testing.assert_close(resized, torch.tensor([0.5, 2.5, 4.5]).view(3, 1, 1).expand(3, 16, 4))
    assert torch.equal(resized_places(ramp, longest, longest, 6), ramp)


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu", "swiglu"])
def test_activations(act: str) -> None:
    """The fused form of inference too."""
    mlp, x = tiny_revit(act=act).float().blocks[0].mlp, torch.randn(3, 5, 24)
    hidden = mlp.fc1(x)
    gate, values = hidden.chunk(2, dim=-1)
    expected = {
        "gelu": F.gelu(hidden),
        "gelu_tanh": F.gelu(hidden, approximate="tanh"),
        "quick_gelu": hidden * torch.sigmoid(1.702 * hidden),
        "swiglu": F.silu(gate) * values,
    }[act]
    torch.testing.assert_close(mlp(x), mlp.fc2(expected))
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), mlp.fc2(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_every_weight_learns(pool: str) -> None:
    parts: dict[str, Any] = dict(pool=pool, registers=2, pre_norm=True, positions="joint", tubelet=3)
    model = tiny_revit(attention="joint_space_time", **parts)
    outputs = model.forward_all(random_clips(2))
    sum(output.logits.square().sum() for output in outputs).backward()
    without = [name for name, weight in model.named_parameters() if not weight.grad.abs().sum() > 0]
    assert without == []
