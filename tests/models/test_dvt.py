"""A cascade is its models one by one, and reuse is what DVT's paper says, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.flops import cost_table, matmul_gmacs, revit_macs
from revit_video.length import TokenLength
from revit_video.models.base import CascadeState
from revit_video.models.config import DVTConfig
from revit_video.models.dvt import DVT, GridInterpolation, RelationReuse, attend_with_scores
from revit_video.models.inference import for_inference, logits_at, logits_at_all
from revit_video.models.revit import ReViT
from tests.tiny import random_clips, tiny_dvt

VIDEO = {"attention": "divided_space_time"}
IMAGE = {"attention": "space_only", "num_frames": 1}
NO_REUSE = {"feature_reuse": False, "relation_reuse": False}
REUSES = [(False, False), (True, False), (False, True), (True, True)]
KINDS = pytest.mark.parametrize("kind", [VIDEO, IMAGE, {"attention": "space_only"}])


def clips_for(model: DVT, count: int = 3) -> Tensor:
    return random_clips(count, frames=model.num_frames)


def alone(model: DVT, i: int) -> ReViT:
    """A `ReViT` of one length with the weights of the cascade's model `i`."""
    revit = ReViT(model.config.of_length(i)).double()
    revit.load_state_dict(model.parts[i].state_dict())
    return revit


# ---- The cascade -----------------------------------------------------------------------------------------


@KINDS
def test_without_reuse_every_model_stands_alone(kind: dict[str, Any]) -> None:
    model = tiny_dvt(**kind, **NO_REUSE)
    clips = clips_for(model)
    for i, output in enumerate(model.forward_all(clips)):
        expected = alone(model, i)(clips, model.lengths[i])
        torch.testing.assert_close(output, expected)
        assert model.params_at(model.lengths[i]) == sum(
            p.numel() for k in range(i, 3) for p in alone(model, k).parameters()
        )


@KINDS
@pytest.mark.parametrize(("feature", "relation"), REUSES)
def test_one_pass_gives_what_each_length_alone_gives(
    feature: bool, relation: bool, kind: dict[str, Any]
) -> None:
    """Whether a model's tokens and scores are read by a next one must not change its own answer."""
    model = tiny_dvt(**kind, feature_reuse=feature, relation_reuse=relation)
    clips = clips_for(model)
    shortest_first = model.forward_all(clips)[::-1]
    for i, output in zip((2, 1, 0), shortest_first, strict=True):
        torch.testing.assert_close(model(clips, model.lengths[i]).cls, output.cls)
    counted = [logits for logits, _ in model.forward_in_full(clips, model.lengths[0])]
    torch.testing.assert_close(counted, [output.logits for output in shortest_first])


@pytest.mark.parametrize("kind", [VIDEO, IMAGE])
@pytest.mark.parametrize(("feature", "relation"), REUSES)
def test_what_is_reused_matters_and_is_learned_through(
    feature: bool, relation: bool, kind: dict[str, Any]
) -> None:
    """The longest length's answer depends on the shortest one's weights through reuse, or not at all."""
    model = tiny_dvt(**kind, feature_reuse=feature, relation_reuse=relation)
    model(clips_for(model), 8).cls.square().sum().backward()
    shortest = model.parts[2]
    grads = {name: p.grad for name, p in shortest.named_parameters() if p.grad is not None}
    assert bool(grads) == (feature or relation)
    if grads:
        assert all(grads[f"blocks.{n}.attn.qkv.weight"].abs().max() > 0 for n in (0, 1))
        # Relations are scores: the last block's values and MLP are for its tokens alone.
        assert ("blocks.1.mlp.fc2.weight" in grads) == feature


def test_a_batch_is_its_clips_and_a_state_its_parts() -> None:
    model = tiny_dvt()
    clips = clips_for(model, 4)
    _, whole = model.step(clips, 2)
    parts = [model.step(part, 2)[1] for part in clips.split([1, 3])]
    torch.testing.assert_close(CascadeState.joined(parts), whole)
    kept = torch.tensor([False, True, True, False])
    output, _ = model.step(clips[kept], 1, whole.of(kept))
    torch.testing.assert_close(output.cls, model(clips, 4).cls[kept])


def test_recomputed_blocks_have_the_same_gradients() -> None:
    gradients = []
    for act_checkpoint in (False, True):
        model = tiny_dvt(act_checkpoint=act_checkpoint).train()
        sum(output.cls.square().sum() for output in model.forward_all(clips_for(model))).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", [VIDEO, IMAGE])
def test_a_reader_gives_the_same_answers(kind: dict[str, Any]) -> None:
    model = tiny_dvt(**kind).float().eval()
    clips = clips_for(model).float()
    reader = for_inference(model)
    logits = logits_at_all(reader, clips)
    for i, length in enumerate(model.lengths):
        torch.testing.assert_close(logits[:, i], model(clips, length).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits[:, i], logits_at(reader, clips, length), rtol=1e-4, atol=1e-4)
    coarse = logits_at_all(for_inference(model, torch.bfloat16), clips)
    assert coarse.dtype == torch.float32 and (coarse - logits).abs().mean() < 0.1 * logits.std()


def test_what_a_cascade_cannot_be() -> None:
    with pytest.raises(ValueError, match="one of divided_space_time, space_only, not 'joint_space_time'"):
        tiny_dvt(attention="joint_space_time")
    with pytest.raises(ValueError, match="token length 5x5 not in this model; it has 8x8, 4x4, 2x2"):
        tiny_dvt()(random_clips(1), 5)


# ---- Reuse -----------------------------------------------------------------------------------------------


def test_places_are_interpolated() -> None:
    """Cell centres: of 2 cells in a row to 4, the outer two are at the old centres' outer sides."""
    line = torch.tensor([[[0.0, 1.0]]])
    expected = torch.tensor([[[0.0, 0.25, 0.75, 1.0]]])
    torch.testing.assert_close(GridInterpolation(TokenLength(1, 2), TokenLength(1, 4))(line), expected)
    grid = torch.randn(2, 3, 4, 3)
    torch.testing.assert_close(
        GridInterpolation(TokenLength(4, 3), TokenLength(7, 5))(grid.flatten(2)),
        F.interpolate(grid, size=(7, 5), mode="bilinear").flatten(2),
    )


def test_relations_go_through_an_mlp_and_are_spread_over_keys_and_queries() -> None:
    """With W the interpolation from grid to grid, and 1 for the class token: W f(R) W^T."""
    before, after = TokenLength(2, 2), TokenLength(4, 3)
    reuse = RelationReuse(5, before, after).double()
    relations = torch.randn(2, 5, 5, 5, dtype=torch.float64)
    places = GridInterpolation(before, after).double()(torch.eye(4, dtype=torch.float64)).T  # (12, 4)
    spread = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), places)
    weights = [fc.weight.flatten(1) for fc in (reuse.fc1, reuse.fc2)]
    assert [tuple(weight.shape) for weight in weights] == [(15, 5), (5, 15)]
    hidden = F.gelu(F.linear(relations.movedim(1, 3), weights[0], reuse.fc1.bias))
    mixed = F.linear(hidden, weights[1], reuse.fc2.bias).movedim(3, 1)
    torch.testing.assert_close(reuse(relations), spread @ mixed @ spread.T)


@pytest.mark.parametrize("kind", [VIDEO, IMAGE])
def test_attention_adds_relations_and_leaves_the_sum(kind: dict[str, Any]) -> None:
    model = tiny_dvt(**kind)
    block: Any = model.parts[1].blocks[0]
    frames = model.num_frames
    tokens, added = torch.randn(2, frames, 17, 24).double(), torch.randn(2 * frames, 3, 17, 17).double()
    x, scores = attend_with_scores(block.attn, block.norm1(tokens, 0), None, added, True)
    q, k, v = block.attn.qkv(block.norm1(tokens, 0)).view(-1, 17, 3, 3, 8).unbind(2)
    expected = torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5 + added
    torch.testing.assert_close(scores, expected)
    attended = torch.einsum("bhij,bjhd->bihd", expected.softmax(dim=3), v).flatten(2)
    torch.testing.assert_close(x, block.attn.proj(attended).view_as(tokens))


def test_relations_are_handed_on_layer_by_layer() -> None:
    """Those of layer n, and no others, are the n-th part of what is left, with its heads."""
    model = tiny_dvt(**IMAGE, feature_reuse=False)
    clips = clips_for(model)
    _, state = model.step(clips, 2)
    assert state.features is None and state.relations is not None
    assert state.relations.shape == (3, 1, 2 * 3, 5, 5)
    single = tiny_dvt(**IMAGE, feature_reuse=False)
    with torch.no_grad():
        single.parts[2].blocks[1].norm1[0].weight.add_(1)
    _, other = single.step(clips, 2)
    same = (state.relations == other.relations).flatten(3).all(dim=3).all(dim=0).flatten()
    assert same.tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("kind", [VIDEO, IMAGE])
def test_features_widen_the_mlp_of_patch_tokens(kind: dict[str, Any]) -> None:
    """LayerNorm, MLP, interpolation; zeros for the special tokens; then norm2 and the MLP over it all."""
    model = tiny_dvt(**kind)
    block: Any = model.parts[1].blocks[1]
    frames = model.num_frames
    features = torch.randn(2, frames, 4, 24).double()
    patches = torch.randn(2, frames, 16, 24).double()
    special = torch.randn(2, 1, 24).double() if kind is VIDEO else torch.randn(2, 1, 1, 24).double()
    (alone_special,) = block.mix_channels(features, special)
    both = block.mix_channels(features, special, patches)

    reuse = block.feature_reuse
    normed = F.layer_norm(features, (24,), *reuse.norm.parameters(), 1e-6)
    small = reuse.mlp.fc2(F.gelu(reuse.mlp.fc1(normed)))
    grid = small.flatten(0, 1).transpose(1, 2).unflatten(2, (2, 2))
    wide = F.interpolate(grid, (4, 4), mode="bilinear").flatten(2).transpose(1, 2).unflatten(0, (2, frames))

    def branch(x: Tensor, more: Tensor) -> Tensor:
        return x + block.mlp(block.norm2(torch.cat([x, more], dim=-1), 0))

    zeros = special.new_zeros(*special.shape[:-1], 6)
    torch.testing.assert_close(both, (branch(special, zeros), branch(patches, wide)))
    torch.testing.assert_close(alone_special, both[0])


def test_widths_are_the_papers() -> None:
    sizes: dict[str, Any] = dict(embed_dim=64, depth=1, num_heads=2, img_size=32, attention="space_only")
    model = DVT(DVTConfig(**sizes | dict(num_classes=10, lengths=[4, 2], num_frames=1)))
    block: Any = model.parts[0].blocks[0]
    assert block.feature_reuse.mlp.fc1.weight.shape == (128, 64)
    assert block.feature_reuse.mlp.fc2.weight.shape == (48, 128)
    assert block.norm2[0].weight.shape == (64 + 48,) and block.mlp.fc1.weight.shape == (256, 64 + 48)
    assert not [name for name, _ in model.parts[1].named_parameters() if "reuse" in name]
    undecayed = model.no_weight_decay()
    assert {"backbones.0.cls_token", "backbones.1.pos_embed.0"} <= undecayed
    assert undecayed <= {name for name, _ in model.named_parameters()}


# ---- Cost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "feature", "relation"), [(VIDEO, True, True), *((IMAGE, *reuses) for reuses in REUSES)]
)
def test_products_are_those_of_the_models_and_of_what_is_reused(
    kind: dict[str, Any], feature: bool, relation: bool
) -> None:
    model = tiny_dvt(**kind, feature_reuse=feature, relation_reuse=relation)
    frames, expected = model.num_frames, 0.0
    for i in (2, 1, 0):
        length = model.lengths[i]
        expected += matmul_gmacs(model.config.of_length(i), 0)
        if i < 2:
            short, long = model.lengths[i + 1].count, length.count
            specials = frames if kind is IMAGE else 1
            # Up-sampling a grid, by rows and then by columns.
            up = model.lengths[i + 1].w * length.w * (model.lengths[i + 1].w + length.w)
            if feature:  # per block: MLP 24 -> 10 -> 6, up-sampling, 6 more channels into the hidden 48
                mlp = frames * short * (24 * 10 + 10 * 6)
                wider = 6 * 48 * (frames * long + specials)
                expected += 2 * (mlp + wider + 6 * frames * up) / 1e9
            if relation:  # 2 layers' 3 heads: MLP 6 -> 18 -> 6, up-sampling of keys, then of queries
                mlp = frames * (1 + short) ** 2 * 2 * 6 * 18
                spread = frames * 6 * ((1 + short) + (1 + long)) * up
                expected += (mlp + spread) / 1e9
    assert revit_macs(model, model.lengths[0]).matmul_gmacs == pytest.approx(expected, rel=1e-6)


def test_cost_grows_from_exit_to_exit() -> None:
    model = tiny_dvt(**IMAGE)
    table = cost_table(model, views=1)["lengths"]
    assert list(table) == ["8x8", "4x4", "2x2"]
    costs = [entry["gmacs"] for entry in table.values()]
    assert costs[0] > costs[1] > costs[2]
    params = [entry["params"] for entry in table.values()]
    assert params[0] == sum(p.numel() for p in model.parameters()) and params[0] > params[1] > params[2]
