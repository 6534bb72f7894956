"""Learning rates at hand-picked epochs, and which parameters are decayed."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from revit_video.train.optim import (
    ParameterGroups,
    cosine_schedule,
    make_optimizer,
    step_schedule,
    warmup_epochs,
    with_warmup,
)
from tests.tiny import tiny_dvt, tiny_revit


def test_steps_with_relative_rates() -> None:
    """TimeSformer's recipe: 0.005, a tenth from epoch 11 and a hundredth from epoch 14 on."""
    at = step_schedule(0.005, [0, 11, 14], [1.0, 0.1, 0.01])
    rates = [at(epoch) for epoch in (0, 5.5, 10.999, 11, 13.9, 14, 15, 100)]
    assert rates == pytest.approx([0.005] * 3 + [0.0005] * 2 + [0.00005] * 3)


def test_cosine() -> None:
    at = cosine_schedule(1.0, 0.2, 9)
    assert [at(epoch) for epoch in (0, 3, 4.5, 6, 9, 12)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_warmup_meets_the_schedule() -> None:
    at = with_warmup(cosine_schedule(1.0, 0.0, 8, start=2), 2, 0.1)
    assert [at(epoch) for epoch in (0, 1, 2, 4, 5, 8)] == pytest.approx([0.1, 0.55, 1.0, 0.75, 0.5, 0.0])
    schedule = step_schedule(1.0, [0], [1.0])
    assert with_warmup(schedule, 0, 0.1) is schedule


def test_a_warmup_is_whole_steps_and_ends_before_the_last() -> None:
    assert [warmup_epochs(wanted, 4, 2) for wanted in (0, 0.1, 0.5, 0.6, 1.9)] == [0, 0, 0.5, 0.5, 1.75]
    assert warmup_epochs(0.9, 1, 1) == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("pos_embed", ["per_length", "shared"])
def test_matrices_alone_are_decayed(name: str, pos_embed: str) -> None:
    model = tiny_revit(pos_embed=pos_embed)
    optimizer = make_optimizer(model, name, lr=0.1, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == set(names.values())
    matrices = {
        f"{part}.weight"
        for part, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    assert {name for name, value in decay.items() if value == 0.05} == matrices
    assert {value for name, value in decay.items() if name not in matrices} == {0.0}


def test_settings_reach_the_optimizers() -> None:
    model = nn.Linear(2, 2)
    adamw = make_optimizer(model, "adamw", 0.1, 0.05, betas=[0.9, 0.98])
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["betas"] == (0.9, 0.98)
    for nesterov in (True, False):
        sgd = make_optimizer(model, "sgd", 0.1, 1e-4, momentum=0.8, nesterov=nesterov)
        assert isinstance(sgd, torch.optim.SGD)
        for group in sgd.param_groups:
            assert (group["momentum"], group["nesterov"], group["lr"]) == (0.8, nesterov, 0.1)


def rates(model: nn.Module, groups: ParameterGroups) -> dict[str, float]:
    """The factor on the learning rate of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, "adamw", 1.0, 0.05, groups=groups)
    return {
        names[id(p)]: group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]
    }


def test_layers_learn_at_timms_rates() -> None:
    """Those of timm's ViT of as many blocks, for the parameters that both have."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=3, num_classes=5
    )
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    optimizer = timm.optim.create_optimizer_v2(vit, "adamw", 1.0, 0.05, layer_decay=0.7)
    theirs = {names[id(p)]: g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    ours = rates(tiny_revit(), ParameterGroups(layer_decay=0.7))
    for name, factor in theirs.items():
        per_length = re.sub(r"(norm\d?|patch_embed)\.", r"\1.1.", name)
        (own,) = {name, f"{name}.1", per_length} & ours.keys()
        assert ours[own] == pytest.approx(factor)
    assert ours["blocks.0.temporal_fc.weight"] == ours["blocks.0.attn.qkv.weight"] == pytest.approx(0.7**2)
    assert ours["time_embed"] == ours["dist_token"] == pytest.approx(0.7**3)
    assert ours["head_dist.weight"] == 1


def test_each_model_of_a_cascade_has_its_layers() -> None:
    ours = rates(tiny_dvt(), ParameterGroups(layer_decay=0.5))
    for n in range(3):
        assert ours[f"backbones.{n}.blocks.1.attn.qkv.weight"] == pytest.approx(0.5)
        assert ours[f"backbones.{n}.head.weight"] == 1


def test_heads_learn_faster() -> None:
    ours = rates(tiny_revit(dense_head=True), ParameterGroups(head_factor=10.0))
    heads = {f"head{kind}.{part}" for kind in ("", "_dist", "_dense") for part in ("weight", "bias")}
    assert {name for name, factor in ours.items() if factor == 10.0} == heads
    assert {factor for name, factor in ours.items() if name not in heads} == {1.0}
    of_lengths = rates(
        nn.ModuleDict({"heads": nn.ModuleList([nn.Linear(2, 2)])}), ParameterGroups(head_factor=10.0)
    )
    assert set(of_lengths.values()) == {10.0}


def test_all_parameters_are_decayed_if_asked_for() -> None:
    optimizer = make_optimizer(tiny_revit(), "sgd", 0.1, 1e-4, groups=ParameterGroups(decay_all=True))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4]
