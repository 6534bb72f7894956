"""Stochastic depth and scaled branches in the three kinds of blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit_video.models.blocks import BLOCKS
from tests.tiny import FRAMES, tiny_revit


@pytest.mark.parametrize("branch", ["attn.proj", "mlp.fc2"])
@pytest.mark.parametrize("attention", BLOCKS)
def test_stochastic_depth_drops_a_branch_of_whole_samples(attention: str, branch: str) -> None:
    """All tokens of a clip stay as they were, or else move twice as far as without (1 / 0.5).

    With `space_only` attention, all tokens of a frame.
    """
    torch.manual_seed(0)
    (block,) = tiny_revit(depth=1, attention=attention).blocks
    for name, last in block.named_modules():  # of the branches, one alone does anything
        if name in ("attn.proj", "mlp.fc2", "temporal_fc") and name != branch:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    block.drop_path.drop_prob = 0.5
    samples = (40, FRAMES) if attention == "space_only" else (40,)
    special = torch.randn(*samples, 2, 24).double()
    patches = torch.randn(40, FRAMES, 4, 24).double()

    moved = [
        new - old for new, old in zip(block.train()(special, patches, 1), (special, patches), strict=True)
    ]
    whole = [
        new - old for new, old in zip(block.eval()(special, patches, 1), (special, patches), strict=True)
    ]
    kept = (moved[0] != 0).flatten(len(samples)).any(dim=-1)
    assert kept.shape == samples and 0.3 < kept.double().mean() < 0.7
    if attention == "space_only":
        assert (kept.sum(dim=1) % FRAMES).count_nonzero() > 0, "the frames of a clip share one draw"
    for ours, full in zip(moved, whole, strict=True):
        factor = 2 * kept.view(*samples, *[1] * (full.ndim - kept.ndim))
        torch.testing.assert_close(ours, factor * full)


@pytest.mark.parametrize("per", ["clip", "sequence"])
@pytest.mark.parametrize("attention", BLOCKS)
def test_branches_are_scaled_in_every_way_to_read_and_for_nothing_once_folded(
    attention: str, per: str
) -> None:
    """As by a block whose branches' last weights are scaled, with the same draws of stochastic depth."""
    changes = dict(depth=1, attention=attention, drop_path=0.5, drop_path_per=per, qkv_bias=False)
    (scaled,), (plain,) = (tiny_revit(**changes, residual_scale=s).blocks for s in (0.25, 1.0))
    with torch.no_grad():
        for name, last in plain.named_modules():
            if name in ("attn.proj", "mlp.fc2", "temporal_fc"):
                last.weight *= 0.25
                last.bias *= 0.25
    samples = (5, FRAMES) if attention == "space_only" else (5,)
    special, patches = torch.randn(*samples, 2, 24).double(), torch.randn(5, FRAMES, 4, 24).double()

    def answers(block: Any) -> list[Tensor]:
        torch.manual_seed(0)
        return [*block(special, patches, 1), block.forward_special(special, patches, 1)]

    for training in (True, False):
        torch.testing.assert_close(answers(scaled.train(training)), answers(plain.train(training)))
    scaled.fold()
    assert scaled.drop_path.scale == 1
    torch.testing.assert_close(answers(scaled), answers(plain))


def test_sequences_are_dropped_as_in_timesformer() -> None:
    """A place over time before `temporal_fc`, whose bias stays; a frame over space; MLPs per clip."""
    torch.manual_seed(0)
    (block,) = tiny_revit(depth=1, drop_path=0.0, drop_path_per="sequence").blocks
    for drop in (block.drop_place, block.drop_attn, block.drop_path):
        drop.drop_prob = 0.5
    special, patches = torch.randn(40, 1, 24).double(), torch.randn(40, FRAMES, 4, 24).double()
    block.train()

    over_time = block.over_time(patches, 0) - patches - block.temporal_fc.bias
    kept = over_time.abs().sum(dim=(1, 3)) > 1e-9
    assert kept.shape == (40, 4) and 0.3 < kept.double().mean() < 0.7 and (kept.sum(dim=1) % 4).any()
    attended = block.temporal_attn(block.temporal_norm1(patches, 0))
    whole = block.temporal_fc(2 * attended) - block.temporal_fc.bias
    torch.testing.assert_close(over_time, whole * kept[:, None, :, None])

    _, over_space = block.attend(special, patches, 0)
    kept = over_space.abs().sum(dim=(2, 3)) > 0
    assert (
        kept.shape == (40, FRAMES) and 0.3 < kept.double().mean() < 0.7 and (kept.sum(dim=1) % FRAMES).any()
    )
    _, after = block.feed_forward(0, special, patches)
    kept = (after != patches).flatten(1).any(dim=1)
    assert 0.2 < kept.double().mean() < 0.8
    torch.testing.assert_close((after != patches).flatten(1).all(dim=1), kept)
