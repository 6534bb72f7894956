"""Token-length-aware layer normalisation."""

from __future__ import annotations

from torch import Tensor, nn

NORM_EPS = 1e-6  # TimeSformer's, DeiT's and timm's ViTs'


class LengthNorm(nn.ModuleList):
    """One LayerNorm per token length (TAL-LN, paper section 3.2, Fig. 3).

    Parameters are `<name>.<i>.weight`, `i` being the length's position in the model, longest first.
    With `shared` a single LayerNorm, `<name>.0`, serves every length (the ablation).
    """

    def __init__(self, dim: int, num_lengths: int, shared: bool = False, eps: float = NORM_EPS) -> None:
        super().__init__(nn.LayerNorm(dim, eps=eps) for _ in range(1 if shared else num_lengths))

    def forward(self, x: Tensor, i: int) -> Tensor:
        """Normalise `x` `(..., C)` with the LayerNorm of length `i`."""
        return self[min(i, len(self) - 1)](x)
