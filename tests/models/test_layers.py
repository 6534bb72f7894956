"""Token-length-aware layer normalisation."""

from __future__ import annotations

import torch

from revit_video.models.layers import LengthNorm


def test_each_length_has_its_own_scale() -> None:
    norm = LengthNorm(4, 3)
    for i in range(3):
        torch.nn.init.constant_(norm[i].bias, float(i))
        torch.nn.init.zeros_(norm[i].weight)
    x = torch.randn(2, 5, 4)
    for i in range(3):
        torch.testing.assert_close(norm(x, i), torch.full_like(x, i))


def test_shared_norm_serves_every_length() -> None:
    norm = LengthNorm(4, 3, shared=True)
    x = torch.randn(2, 5, 4)
    assert [name for name, _ in norm.named_parameters()] == ["0.weight", "0.bias"]
    torch.testing.assert_close(norm(x, 0), norm(x, 2), rtol=0, atol=0)
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    torch.testing.assert_close(norm(x, 1), (x - mean) / (variance + 1e-6).sqrt())
