from __future__ import annotations

import torch

from revit_video.runtime.rng import seeded_generator


def test_neighbouring_keys_give_unrelated_streams():
    draws = [
        torch.rand(1000, generator=seeded_generator(0, epoch, row)) for epoch in (0, 1) for row in (0, 1)
    ]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert correlation.abs().max() < 0.15
