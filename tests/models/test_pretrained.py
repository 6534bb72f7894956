"""Other models' weights in ours: their logits, every weight accounted for, and what does not fit refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.length import TokenLength
from revit_video.models.layouts import from_transformers, to_transformers
from revit_video.models.presets import deit_small, timesformer_base
from revit_video.models.pretrained import (
    PretrainedWeights,
    Report,
    all_lengths,
    at_length,
    initialise,
    patterns,
    single_length,
    source_length,
)
from revit_video.models.revit import ReViT
from tests.peers import random_timesformer, random_vit, randomised
from tests.tiny import CLASSES, SIZE, random_clips, tiny_revit

SMALL = dict(embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=CLASSES)
BASE = dict(hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=3072)


def loaded(source: PretrainedWeights, **changes: Any) -> tuple[ReViT, Report]:
    """A model in float32 that fits tiny sources, started from `source`."""
    model = tiny_revit(seed=1, **changes).float().eval()
    return model, initialise(model, source)


def vit_source(**changes: Any) -> PretrainedWeights:
    return single_length("vit", random_vit(**changes).state_dict())


def peer_source(peer: Any) -> PretrainedWeights:
    config = peer.config
    state = from_transformers(peer.state_dict())
    return single_length("peer", state, attention=config.attention_type, num_heads=config.num_attention_heads)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


# ---- Logits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_frames": 8, "image_size": 64, "patch_size": 16},
        {"attention_type": "joint_space_time"},
        {**BASE, "image_size": 224, "patch_size": 16, "num_frames": 8},
        {**BASE, "image_size": 448, "patch_size": 32, "num_frames": 16},
    ],
    ids=["small", "8 frames", "joint", "base 8x224", "base 16x448"],
)
@torch.no_grad()
def test_a_timesformer_of_transformers_gives_its_logits(changes: dict[str, Any]) -> None:
    peer = random_timesformer(**changes)
    config, grid = peer.config, peer.config.image_size // peer.config.patch_size
    model = timesformer_base(
        [grid],
        CLASSES,
        img_size=config.image_size,
        num_frames=config.num_frames,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        attention=config.attention_type,
    ).eval()
    initialise(model, peer_source(peer))
    clips = torch.randn(1, 3, config.num_frames, config.image_size, config.image_size)
    close(model(clips, grid).cls, peer(clips.transpose(1, 2)).logits)
    back = random_timesformer(**changes)
    back.load_state_dict(to_transformers(at_length(model, 0)))
    assert all(
        torch.equal(one, other) for one, other in zip(back.parameters(), peer.parameters(), strict=True)
    )


@torch.no_grad()
def test_a_space_only_model_of_transformers() -> None:
    """It has logits for every frame; with equal frames, ours are the same."""
    peer = random_timesformer(attention_type="space_only")
    model, _ = loaded(peer_source(peer), attention="space_only")
    clips = random_clips(1, frames=1).float().expand(-1, -1, 3, -1, -1)
    close(model(clips, 8).cls.expand(3, -1), peer(clips.transpose(1, 2)).logits)


@pytest.mark.parametrize("attention", ["divided_space_time", "space_only"])
@pytest.mark.parametrize("size", ["small", "base"])
@torch.no_grad()
def test_a_still_clip_gives_an_image_models_logits(size: str, attention: str) -> None:
    large = dict(img_size=224, embed_dim=768, depth=2, num_heads=12, mlp_ratio=4)
    vit = random_vit(**large, patch_size=16) if size == "base" else random_vit()
    side, grid = (224, 14) if size == "base" else (SIZE, 8)
    changes = {**large, "lengths": [14, 7]} if size == "base" else {}
    model, _ = loaded(single_length("vit", vit.state_dict()), attention=attention, **changes)
    frame = torch.randn(1, 3, side, side)
    close(model(frame.unsqueeze(2).expand(-1, -1, 3, -1, -1), grid).cls, vit(frame))


@torch.no_grad()
def test_deit_small_gives_timms_logits() -> None:
    """An image is a clip of one frame, also for a model of one length and for one of three."""
    peer = randomised(timm.create_model("deit_small_patch16_224", num_classes=10))
    image = torch.randn(1, 3, 224, 224)
    for lengths in ([14], [14, 10, 7]):
        model = deit_small(lengths, 10).eval()
        initialise(model, single_length("deit", peer.state_dict()))
        close(model(image.unsqueeze(2), 14).logits, peer(image))


@torch.no_grad()
@torch.no_grad()
def test_a_vit_with_layer_scale_gives_its_logits() -> None:
    peer = random_vit(init_values=0.1)
    state = peer.state_dict()
    model, _ = loaded(single_length("DINOv2's", state | {"mask_token": torch.ones(1, 24)}, num_heads=3))
    frame = torch.rand(2, 3, SIZE, SIZE)
    close(model(frame.unsqueeze(2).expand(-1, -1, 3, -1, -1), 8).cls, peer(frame))
    assert state["blocks.1.ls1.gamma"].std() > 0.01  # a scale of its own for each channel
    assert state.keys() == peer.state_dict().keys()  # the source is not changed


def test_a_distilled_deit_gives_its_logits_where_the_longest_length_has_its_token() -> None:
    peer = randomised(timm.create_model("deit_small_distilled_patch16_224", num_classes=10))
    source = single_length("deit", peer.state_dict())
    image = torch.randn(1, 3, 224, 224)
    for lengths in ([14], [14, 7]):
        model = deit_small(lengths, 10, token_at_longest=True).eval()
        report = initialise(model, source)
        close(model(image.unsqueeze(2), 14).logits, peer(image))
        assert "initialised" not in str(report), "the shorter lengths have its token as well"
        assert model.params_at(model.lengths[0]) == sum(each.numel() for each in peer.parameters())
    with pytest.raises(ValueError, match="deit is a distilled DeiT, .*REVIT.DISTILL.TOKEN_AT_LONGEST True"):
        initialise(deit_small([14, 7], 10), source)


@pytest.mark.parametrize(
    ("img_size", "patch"), [(64, 4), (32, 8), (64, 8)], ids=["finer grid", "larger patch", "larger image"]
)
@torch.no_grad()
def test_another_grid_or_kernel_is_resampled_as_timm_does(img_size: int, patch: int) -> None:
    vit = random_vit()
    source = single_length("vit", {name: value.clone() for name, value in vit.state_dict().items()})
    model, report = loaded(source, img_size=img_size, lengths=[img_size // patch])
    vit.set_input_size(img_size=img_size, patch_size=patch)
    frame = torch.randn(1, 3, img_size, img_size)
    close(model(frame.unsqueeze(2).expand(-1, -1, 3, -1, -1), img_size // patch).cls, vit(frame))
    assert report.counts["resampled"].total() == (patch != 4) + (img_size // patch != 8)


@torch.no_grad()
def test_a_resampled_kernel_on_a_resized_patch_gives_the_same_embedding() -> None:
    vit = random_vit(img_size=64, patch_size=16)
    model, _ = loaded(single_length("vit", vit.state_dict()), img_size=64, lengths=[4, 2])
    (first, bias), (second, _) = (model.patch_embed.weights(i).values() for i in (0, 1))
    assert first.shape[2:] == (16, 16) and second.shape[2:] == (32, 32)
    patch = torch.randn(5, 3, 16, 16)
    resized = F.interpolate(patch, (32, 32), mode="bicubic", antialias=True)
    close(F.conv2d(resized, second, bias), F.conv2d(patch, first, bias))


@torch.no_grad()
def test_shorter_lengths_start_as_the_longest() -> None:
    model, _ = loaded(vit_source(), lengths=[8, 4, 2])
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and all(isinstance(norm, nn.LayerNorm) for norm in module):
            assert all(torch.equal(norm.weight, module[0].weight) for norm in module)
            assert all(torch.equal(norm.bias, module[0].bias) for norm in module)
    for i in (1, 2):
        assert torch.equal(model.pos_embed[i][:, 0], model.pos_embed[0][:, 0])
        assert torch.equal(model.patch_embed[i].proj.bias, model.patch_embed[0].proj.bias)
        # The distillation token starts as the class token's twin: the mean of the heads is its answer.
        output = model(random_clips(2).float(), model.lengths[i])
        torch.testing.assert_close(output.cls, output.dist)


def test_time_embeddings_are_interpolated_linearly() -> None:
    state = peer_source(random_timesformer(num_frames=4)).states[0]
    ramp = torch.arange(4.0).view(1, 4, 1).expand(1, 4, 24)
    source = single_length("peer", {**state, "time_embed": ramp}, attention="divided_space_time")
    model, report = loaded(source, num_frames=8)
    assert model.time_embed is not None
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(model.time_embed[0, :, 0].detach(), expected)
    assert report.counts["resampled"]["time_embed"] == 1
    same, report = loaded(source, num_frames=4)
    assert same.time_embed is not None and torch.equal(same.time_embed, ramp)
    assert report.counts["copied"]["time_embed"] == 1


# ---- Accounting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shared",
    [
        {},
        dict(norm="shared", patch_embed="shared", pos_embed="shared"),
        dict(patch_embed="resized", pos_embed="resized"),
    ],
)
@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_every_parameter_is_in_the_report(attention: str, shared: dict[str, Any]) -> None:
    model, report = loaded(vit_source(), attention=attention, **shared)
    verbs = ("copied", "resampled", "initialised")
    assert sum(report.counts[verb].total() for verb in verbs) == len(list(model.parameters()))


def test_a_report_is_a_few_lines() -> None:
    _, report = loaded(vit_source(num_classes=7))
    lines = str(report).splitlines()
    assert lines[0] == "weights of vit"
    assert lines[1].startswith("  copied 41: ") and "blocks.*.attn, " in lines[1]
    assert lines[2] == "  resampled 2: patch_embed.1, pos_embed.1"
    assert "blocks.*.temporal_attn (as attn)" in lines[3] and "blocks.*.temporal_fc (zero)" in lines[3]
    assert "head (new: 5 classes, the source has 7)" in lines[3] and "time_embed (zero)" in lines[3]
    assert lines[4:] == ["  ignored 2: head"]


@pytest.mark.parametrize("theirs", [7, 0])
def test_a_head_for_other_classes_stays_as_the_model_had_it(theirs: int) -> None:
    before = tiny_revit(seed=1).float().state_dict()
    model, report = loaded(vit_source(num_classes=theirs))
    after = model.state_dict()
    kept = {name for name in after if torch.equal(after[name], before[name])}
    assert kept == {f"{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}
    assert f"head (new: 5 classes, the source has {theirs or 'none'})" in str(report)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(qk_norm=True), "blocks.*.attn.q_norm.weight (2)"),
        (dict(reg_tokens=1), "has reg_token, which mean nothing"),
        (dict(pre_norm=True), "vit lacks patch_embed.proj.bias"),
        (dict(pre_norm=True), "has norm_pre.weight, norm_pre.bias"),
        (dict(global_pool="avg"), "vit lacks norm.weight, norm.bias and has fc_norm.weight, fc_norm.bias"),
        (dict(qkv_bias=False), "lacks blocks.*.attn.qkv.bias (2), blocks.*.temporal_attn.qkv.bias (2)"),
        (dict(class_token=False, global_pool="avg"), "vit holds no ViT or TimeSformer: it lacks cls_token"),
        (dict(no_embed_class=True), "pos_embed has 64 places, not those of special tokens and a sq"),
        (dict(depth=3, embed_dim=48), "another model: embed_dim 48 (here: 24), depth 3 (here: 2)"),
        (dict(mlp_ratio=4), "vit is of another model: mlp_ratio 4.0 (here: 2.0)"),
        (dict(in_chans=1), "patch_embed.proj.weight is 24 x 1 x 4 x 4, which does not fit patch_embed.0"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)) as refused:
        if changes == dict(reg_tokens=1):  # with as many places as a ViT without registers
            state = vit_source().states[0]
            loaded(single_length("vit", {**state, "reg_token": state["cls_token"]}))
        else:
            loaded(vit_source(**changes))
    assert "\n" not in str(refused.value)


def test_a_timesformer_must_be_whole_and_of_the_same_kind() -> None:
    source = peer_source(random_timesformer())
    state = {name: value for name, value in source.states[0].items() if "1.temporal_attn.qkv" not in name}
    with pytest.raises(ValueError, match=r"peer lacks blocks\.\*\.temporal_attn\.qkv\.weight, "):
        loaded(single_length("peer", state, attention="divided_space_time"))
    with pytest.raises(ValueError, match=r"attention divided_space_time \(here: joint_space_time\)"):
        loaded(source, attention="joint_space_time")
    with pytest.raises(ValueError, match=r"num_heads 3 \(here: 4\)"):
        loaded(source, num_heads=4)


def test_patterns_are_short() -> None:
    assert patterns(["blocks.0.a", "blocks.11.a", "b"]) == "blocks.*.a (2), b"
    assert patterns("abcdefghijk", most=2) == "a, b, 9 more"
    assert patterns([]) == "nothing"


# ---- Our own ---------------------------------------------------------------------------------------------


def test_the_same_model_is_copied_whole() -> None:
    theirs = tiny_revit(seed=2)
    model, report = loaded(all_lengths("own", theirs))
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name].float()), name
    assert [verb for verb, groups in report.counts.items() if groups] == ["copied"]


@torch.no_grad()
def test_lengths_in_common_keep_their_own_weights() -> None:
    theirs = tiny_revit(seed=2, lengths=[8, 4, 2]).float().eval()
    source = all_lengths("own", theirs)
    model, report = loaded(source, lengths=[8, 6, 2])
    clips = random_clips(2).float()
    for length in (8, 2):
        torch.testing.assert_close(model(clips, length).logits, theirs(clips, length).logits)
    assert "pos_embed.1" in report.counts["resampled"] and "token length 4x4" in report.counts["ignored"]
    without, report = loaded(source, distill_token=False)
    torch.testing.assert_close(without(clips, 4).cls, logits_alone(theirs, 1, clips))
    assert report.counts["ignored"]["dist_token"] == 1


def logits_alone(model: ReViT, i: int, clips: Tensor) -> Tensor:
    """The class logits of length `i` by a model of its own, which has no distillation token."""
    length = model.lengths[i]
    state = {name: value for name, value in at_length(model, i).items() if "dist" not in name}
    position = state["pos_embed"]
    state["pos_embed"] = torch.cat([position[:, :1], position[:, -length.count :]], dim=1)
    alone = tiny_revit(lengths=[length]).float().eval()
    initialise(alone, single_length("alone", state, attention=model.config.attention))
    return alone(clips, length).cls


@torch.no_grad()
def test_stems_are_copied_with_what_their_norms_have_seen() -> None:
    """Between equal lengths; another one starts from the nearest one's, if its convolutions are the same."""
    parts = dict(stem="conv", dense_head=True, qkv_bias=False, residual_scale=0.5, norm_eps=1e-5)
    theirs, clips = tiny_revit(seed=2, lengths=[8, 4], **parts).float(), random_clips(4).float()
    for length in theirs.lengths:
        theirs.train()(clips, length)  # moves the running means
    source = all_lengths("own", theirs.eval())
    model, report = loaded(source, lengths=[8, 4], **parts)
    for length in theirs.lengths:
        torch.testing.assert_close(model(clips, length).logits, theirs(clips, length).logits)
    assert [verb for verb, groups in report.counts.items() if groups] == ["copied"]
    model, report = loaded(source, lengths=[5, 4], **parts)
    (other,) = [name for name in report.counts["initialised"] if name.startswith("patch_embed")]
    assert (
        other == "patch_embed.0 (new: the source has another stem)"
        and "patch_embed.1" in report.counts["copied"]
    )


@pytest.mark.parametrize("stem", ["conv", "lvvit"])
def test_a_stem_that_the_source_has_not_is_left_as_it_was(stem: str) -> None:
    source, before = vit_source(), tiny_revit(seed=1, stem=stem).float().patch_embed.state_dict()
    model, report = loaded(source, stem=stem)
    torch.testing.assert_close(model.patch_embed.state_dict(), before)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, source.states[0]["blocks.1.mlp.fc1.weight"])
    new = [name for name in report.counts["initialised"] if name.startswith("patch_embed")]
    assert new == [f"patch_embed.{i} (new: the source has another stem)" for i in (0, 1)]
    assert report.counts["ignored"]["patch_embed.proj"] == 2
    plain, report = loaded(all_lengths("own", model))
    assert report.counts["ignored"]["patch_embed.conv1"] == 1 and not report.counts["copied"]["patch_embed.0"]


def test_resized_embeddings_start_as_resized_ones() -> None:
    parts = dict(patch_embed="resized", pos_embed="resized")
    theirs, clips = tiny_revit(seed=2, **parts).float(), random_clips(2).float()
    model, _ = loaded(all_lengths("own", theirs), **parts)
    for length in model.lengths:
        torch.testing.assert_close(model(clips, length).logits, theirs(clips, length).logits)


@pytest.mark.parametrize("pos_embed", ["per_length", "resized"])
@pytest.mark.parametrize("patch_embed", ["per_length", "resized"])
@torch.no_grad()
def test_resized_embeddings_start_as_the_image_models(patch_embed: str, pos_embed: str) -> None:
    """What the one kernel or grid gives the longest length is the ViT's own."""
    vit, frame = random_vit(), random_clips(2, frames=1).float()
    changes = dict(patch_embed=patch_embed, pos_embed=pos_embed, attention="space_only", num_frames=1)
    model, _ = loaded(single_length("vit", vit.state_dict()), **changes)
    close(model(frame, 8).cls, vit(frame[:, :, 0]))


@pytest.mark.parametrize("sharing", ["shared", "resized"])
@pytest.mark.parametrize("kind", ["norm", "patch_embed", "pos_embed"])
@torch.no_grad()
def test_at_any_length_it_is_a_timesformer(kind: str, sharing: str) -> None:
    model = tiny_revit(distill_token=False, **{kind: "shared" if kind == "norm" else sharing}).float().eval()
    clips = random_clips(2).float()
    for i, length in enumerate(model.lengths):
        torch.testing.assert_close(logits_alone(model, i, clips), model(clips, length).cls)


def test_nearest_length() -> None:
    lengths = [TokenLength(n, n) for n in (14, 10, 7)]
    assert [str(source_length(lengths, TokenLength(n, n))) for n in (28, 14, 12, 10, 8, 7, 4)] == [
        *("14x14", "14x14", "14x14", "10x10", "10x10", "7x7", "7x7")
    ]
