"""Stochastic depth in the three kinds of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
