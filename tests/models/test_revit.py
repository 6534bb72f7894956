"""The backbone against TimeSformer's arithmetic in plain loops, and what is whose among its parameters."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import revit_video
from revit_video.models.base import Output
from revit_video.models.blocks import JointBlock
from revit_video.models.config import ReViTConfig
from revit_video.models.layers import Attention, LengthNorm
from revit_video.models.presets import PRESETS, preset, timesformer_tiny
from revit_video.models.revit import ReViT
from tests.tiny import CLASSES, FRAMES, SIZE, random_clips, tiny_revit

ATTENTIONS = ["divided_space_time", "joint_space_time", "space_only"]
OWN = re.compile(r"(?:norm\d?|temporal_norm1|patch_embed|pos_embed)\.(\d+)")


# ---- The arithmetic --------------------------------------------------------------------------------------


def attend(attention: Attention, tokens: Tensor) -> Tensor:
    """Self-attention over one sequence `(L, C)`, head by head."""
    q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=1)
    width = tokens.shape[1] // attention.num_heads
    heads = [slice(n * width, (n + 1) * width) for n in range(attention.num_heads)]
    mixed = [(q[:, h] @ k[:, h].T / width**0.5).softmax(dim=1) @ v[:, h] for h in heads]
    return attention.proj(torch.cat(mixed, dim=1))


def normed(norm: LengthNorm, x: Tensor, i: int) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm[i].weight, norm[i].bias, eps=1e-6)


def with_mlp(block: JointBlock, x: Tensor, i: int) -> Tensor:
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(normed(block.norm2, x, i))))


def divided(block: Any, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """`special` `(S, C)`, `patches` `(T, N, C)`: each place over time, then each frame over space."""
    over_time = [attend(block.temporal_attn, normed(block.temporal_norm1, p, i)) for p in patches.unbind(1)]
    patches = patches + block.temporal_fc(torch.stack(over_time, dim=1))
    count, copies, frames = len(special), [], []
    for frame in patches:
        x = attend(block.attn, normed(block.norm1, torch.cat([special, frame]), i))
        copies.append(x[:count])
        frames.append(frame + x[count:])
    special = special + torch.stack(copies).mean(dim=0)
    return with_mlp(block, special, i), with_mlp(block, torch.stack(frames), i)


def joint(block: Any, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
    x = torch.cat([special, patches.flatten(0, 1)])
    x = with_mlp(block, x + attend(block.attn, normed(block.norm1, x, i)), i)
    return x[: len(special)], x[len(special) :].view_as(patches)


def space_only(block: Any, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Each frame with special tokens `(T, S, C)` of its own."""
    pairs = [joint(block, own, frame[None], i) for own, frame in zip(special, patches, strict=True)]
    return torch.stack([own for own, _ in pairs]), torch.cat([frame for _, frame in pairs])


BLOCKS = dict(divided_space_time=divided, joint_space_time=joint, space_only=space_only)


def reference(model: ReViT, clip: Tensor, i: int) -> Output:
    """Logits `(classes,)` of one clip `(3, T, H, W)`."""
    proj = model.patch_embed[i].proj
    patches = F.conv2d(clip.transpose(0, 1), proj.weight, proj.bias, stride=proj.stride)
    patches = patches.flatten(2).transpose(1, 2)  # (T, N, C)
    special = model.cls_token[0]
    if i > 0 and model.dist_token is not None:
        special = torch.cat([special, model.dist_token[0]])
    position = model.pos_embed[i][0]
    special, patches = special + position[: len(special)], patches + position[len(special) :]
    if model.config.attention == "space_only":
        special = special.expand(len(patches), -1, -1)
    else:
        patches = patches + model.time_embed[0][:, None]
    for block in model.blocks:
        special, patches = BLOCKS[model.config.attention](block, special, patches, i)
    if model.config.attention == "space_only":
        special = special.mean(dim=0)
    special = normed(model.norm, special, i)
    return Output(model.head(special[0]), model.head_dist(special[1]) if len(special) == 2 else None)


def test_the_longest_length_may_have_the_token_too() -> None:
    model = tiny_revit(token_at_longest=True).eval()
    outputs = [model(random_clips(2), length) for length in model.lengths]
    assert all(output.dist is not None for output in outputs)
    assert [embed.shape[1] for embed in model.pos_embed] == [2 + 64, 2 + 16]
    assert model.params_at(model.lengths[0]) - tiny_revit().params_at(model.lengths[0]) == (
        24 + 24 * CLASSES + CLASSES + 24  # token, head, the token's own position
    )
    assert not tiny_revit(token_at_longest=True, distill_token=False).config.distils


@pytest.mark.parametrize("distill_token", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_are_those_of_plain_loops(attention: str, distill_token: bool) -> None:
    model = tiny_revit(attention=attention, distill_token=distill_token, drop_rate=0.5, drop_path=0.5).eval()
    clips = random_clips(2)
    for i, length in enumerate(model.lengths):
        output = model(clips, length)
        assert (output.dist is not None) == (distill_token and i == 1)
        for n, clip in enumerate(clips):
            expected = reference(model, clip, i)
            torch.testing.assert_close(output.cls[n], expected.cls)
            if output.dist is not None:
                torch.testing.assert_close(output.dist[n], expected.dist)


def test_read_out_is_the_mean_of_the_heads() -> None:
    cls, dist = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 8.0]])
    torch.testing.assert_close(Output(cls).logits, cls)
    torch.testing.assert_close(Output(cls, dist).logits, torch.tensor([[2.0, 5.0]]))


def test_an_image_models_weights_give_its_answer_at_the_start() -> None:
    """`temporal_fc` starts at zero, so that each frame of a clip is read as by the image model."""
    arguments: dict[str, Any] = dict(
        num_classes=CLASSES, lengths=[8, 4], img_size=SIZE, embed_dim=24, depth=2, num_heads=3
    )
    video, image = (ReViT(ReViTConfig(**arguments, num_frames=frames)).eval() for frames in (FRAMES, 1))
    for block in video.blocks:
        assert not block.temporal_fc.weight.any() and not block.temporal_fc.bias.any()
    nn.init.zeros_(video.time_embed)
    weights = video.state_dict() | {"time_embed": torch.zeros_like(image.time_embed)}
    image.load_state_dict(weights)
    frame = random_clips(2, frames=1).float()
    for length in video.lengths:
        still = video(frame.expand(-1, -1, FRAMES, -1, -1), length)
        torch.testing.assert_close(still.logits, image(frame, length).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_order_of_frames(attention: str) -> None:
    """Only the temporal embedding tells frames apart, so a space-only model cannot see their order."""
    model = tiny_revit(attention=attention).eval()
    clips = random_clips(1)
    change = (model(clips, 8).logits - model(clips.flip(2), 8).logits).abs().max().item()
    assert change < 1e-12 if attention == "space_only" else change > 1e-6
    if model.time_embed is not None:
        nn.init.zeros_(model.time_embed)
        torch.testing.assert_close(model(clips, 8).logits, model(clips.flip(2), 8).logits)


# ---- Whose the parameters are ----------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("i", [0, 1, 2])
def test_a_pass_reaches_its_own_and_the_shared_parameters_alone(attention: str, i: int) -> None:
    model = tiny_revit(lengths=[8, 4, 2], attention=attention)
    output = model(random_clips(2), model.lengths[i])
    output.logits.square().sum().backward()
    owners = set()
    for name, parameter in model.named_parameters():
        own = OWN.search(name)
        foreign = own is not None and int(own[1]) != i
        teacher = i == 0 and "dist" in name
        owners.add(own and int(own[1]))
        if foreign or teacher:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert owners == {None, 0, 1, 2}


def test_names_are_timesformers() -> None:
    """Per-length parameters have one index more."""
    norms = [
        f"{norm}.{i}.{part}"
        for norm in ("norm1", "norm2", "temporal_norm1")
        for i in (0, 1)
        for part in ("weight", "bias")
    ]
    linears = [
        f"{layer}.{part}"
        for layer in (
            "attn.qkv",
            "attn.proj",
            "temporal_attn.qkv",
            "temporal_attn.proj",
            "temporal_fc",
            "mlp.fc1",
            "mlp.fc2",
        )
        for part in ("weight", "bias")
    ]
    model = tiny_revit(depth=1)
    names = {name for name, _ in model.named_parameters()}
    assert {n.removeprefix("blocks.0.") for n in names if n.startswith("blocks.")} == {*norms, *linears}
    assert {n for n in names if not n.startswith("blocks.")} == {
        *("cls_token", "dist_token", "time_embed", "pos_embed.0", "pos_embed.1"),
        *(f"patch_embed.{i}.proj.{part}" for i in (0, 1) for part in ("weight", "bias")),
        *(f"norm.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")),
        *("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"),
    }
    assert set(model.state_dict()) == names


def parameters(**changes: Any) -> int:
    model = tiny_revit(lengths=[8, 4, 2], **changes)
    for length in model.lengths:  # every length still runs
        assert model(random_clips(1), length).logits.shape == (1, CLASSES)
    return sum(parameter.numel() for parameter in model.parameters())


def test_sharing_saves_what_it_says() -> None:
    """Width 24, 2 blocks of 3 norms and the last one; kernels of 4, 8 and 16 px; 1, 2, 2 special tokens."""
    everything = parameters()
    assert everything - parameters(norm="shared") == 2 * (2 * 24) * (2 * 3 + 1)
    assert everything - parameters(patch_embed="shared") == 24 * (3 * (4**2 + 8**2) + 2)
    assert everything - parameters(pos_embed="shared") == 24 * ((65 + 18 + 6) - (2 + 4))
    assert everything - parameters(distill_token=False) == 24 + (24 + 1) * CLASSES + 2 * 24


def test_shared_norms_are_reached_from_every_length() -> None:
    model = tiny_revit(norm="shared", patch_embed="shared", pos_embed="shared")
    model(random_clips(1), 8).logits.sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {"dist_token", "head_dist.weight", "head_dist.bias"}


def test_tokens_and_embeddings_are_not_decayed() -> None:
    assert tiny_revit().no_weight_decay() == {
        *("cls_token", "dist_token", "time_embed", "pos_embed.0", "pos_embed.1"),
    }
    shared = tiny_revit(pos_embed="shared", distill_token=False, attention="space_only")
    assert shared.no_weight_decay() == {"cls_token", "pos_embed.special", "pos_embed.grid"}


def test_gain_scales_queries_and_keys_only() -> None:
    weights = []
    for gain in (1.0, 2.5):
        torch.manual_seed(0)
        sizes = dict(img_size=8, num_frames=2, embed_dim=8, depth=1, num_heads=2)
        model = timesformer_tiny([2], 2, **sizes, qk_init_gain=gain)
        weights.append(model.state_dict())
    plain, gained = weights
    changed = {name for name in plain if not torch.equal(plain[name], gained[name])}
    assert changed == {"blocks.0.attn.qkv.weight", "blocks.0.temporal_attn.qkv.weight"}
    for name in changed:
        torch.testing.assert_close(gained[name][:16], 2.5 * plain[name][:16])
        torch.testing.assert_close(gained[name][16:], plain[name][16:], rtol=0, atol=0)


def test_waves_over_place_and_time() -> None:
    """Not drawn at random, and different at every place and in every frame."""
    sizes = dict(img_size=SIZE, num_frames=FRAMES, embed_dim=24, depth=1, num_heads=3)
    models = [timesformer_tiny([8, 4], 2, **sizes, pos_init="sincos") for _ in range(2)]
    for name, special in (("pos_embed.0", 1), ("pos_embed.1", 2), ("time_embed", 0)):
        waves, again = (model.state_dict()[name][0, special:] for model in models)
        torch.testing.assert_close(waves, again, rtol=0, atol=0)
        distances = torch.cdist(waves, waves)
        assert distances[~torch.eye(len(waves), dtype=torch.bool)].min() > 0.1


def test_stochastic_depth_grows_with_the_layer() -> None:
    model = tiny_revit(depth=3, drop_path=0.4)
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])


# ---- Mistakes --------------------------------------------------------------------------------------------


def test_unknown_length_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match="token length 7x7 not in this model; it has 8x8, 4x4"):
        tiny_revit()(random_clips(1), 7)


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 3, 3, 32, 31), (1, 1, 3, 32, 32), (3, 3, 32, 32)])
def test_clips_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"clips must be Bx3x3x32x32 .*, got " + "x".join(map(str, shape))):
        tiny_revit()(torch.zeros(shape), 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_heads=5), "5 attention heads do not divide the width 24"),
        (
            dict(attention="axial"),
            "attention: must be one of divided_space_time, joint_space_time, ",
        ),
        (dict(norm="own"), "norm: must be one of per_length, shared, got 'own'"),
        (dict(patch_embed=""), "patch_embed: must be one of per_length, shared, resized, got ''"),
        (dict(pos_init="zeros"), "pos_init: must be one of normal, sincos, sine, got 'zeros'"),
        (dict(pos_embed="x"), "pos_embed: must be one of per_length, shared, resized, got 'x'"),
        (dict(lengths=[4, 8]), "strictly descending, longest first, got 4x4, 8x8"),
        (dict(lengths=[31, 4]), "32 px cannot be cut into 31 patches"),
    ],
)
def test_models_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_revit(**changes)


def test_unknown_preset_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'vit'; there are timesformer_base, "):
        preset("vit")


@pytest.mark.parametrize("arch", PRESETS)
def test_every_preset_is_a_factory_of_the_package(arch: str) -> None:
    with torch.device("meta"):
        model = getattr(revit_video, arch)(num_classes=7, drop_path=0.1)
    expected = preset(arch) | {"num_classes": 7, "drop_path": 0.1}
    assert {name: getattr(model.config, name) for name in expected} == expected
    assert arch in revit_video.__all__ and len(model.lengths) == 2


def test_a_preset_is_a_copy() -> None:
    preset("timesformer_tiny")["depth"] = 0
    assert PRESETS["timesformer_tiny"]["depth"] == 2


def test_initial_weights_as_in_timesformers_code() -> None:
    torch.manual_seed(0)
    sizes: Any = dict(img_size=SIZE, num_frames=FRAMES, embed_dim=96, depth=1, num_heads=4)
    model = timesformer_tiny([8, 4], 2, **sizes, init="timesformer")
    assert model.time_embed is not None and not model.time_embed.any()
    assert not model.blocks[0].temporal_fc.weight.any() and not model.head.bias.any()
    for matrix in (model.blocks[0].attn.qkv.weight, model.pos_embed[0], model.head.weight):
        assert matrix.detach().std().item() == pytest.approx(0.02, rel=0.15)
    kernel, bias = model.patch_embed[0].proj.weight, model.patch_embed[0].proj.bias
    bound = (3 * 4 * 4) ** -0.5  # of PyTorch's uniform distribution
    assert 0.95 * bound < kernel.detach().abs().max() <= bound and bias.any()


# ---- Freezing --------------------------------------------------------------------------------------------


def learning(model: ReViT) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_backbone_is_frozen() -> None:
    """Heads, the distillation token and what each length has for itself go on learning."""
    model = tiny_revit()
    model.freeze()
    assert learning(model) == {
        name for name, _ in model.named_parameters() if OWN.search(name) or name.startswith(("head", "dist_"))
    }
    alone = tiny_revit(lengths=[8])
    alone.freeze()
    assert learning(alone) == {"head.weight", "head.bias"}


def test_the_first_blocks_are_frozen() -> None:
    model = tiny_revit(depth=3, patch_embed="shared", norm="shared")
    model.freeze(2)
    frozen = {name for name, _ in model.named_parameters()} - learning(model)
    assert {name for name in frozen if not name.startswith(("blocks.0.", "blocks.1."))} == {
        *("cls_token", "time_embed"),
        *(name for name, _ in model.named_parameters() if name.startswith("patch_embed")),
    }
    assert {"blocks.0.norm1.0.weight", "blocks.1.mlp.fc1.weight"} <= frozen
    assert {"blocks.2.norm1.0.weight", "pos_embed.0", "pos_embed.1", "norm.0.weight"} <= learning(model)
