"""LayerNorms per length; a linear layer through oneDNN gives what PyTorch's own gives, gradients as well."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import revit_video.models.layers as module
from revit_video.flops import count
from revit_video.models.layers import LengthNorm, linear, linear_gelu, onednn_computes_in
from tests.tiny import random_clips, tiny_revit

SHAPES = [(5, 24), (2, 3, 7, 24), (24,), (0, 24)]


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


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).requires_grad_()


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], has_bias: bool) -> None:
    x, weight, bias = drawn(*shape), drawn(40, 24), drawn(40) if has_bias else None
    inputs = [value for value in (x, weight, bias) if value is not None]
    precise = [value.detach().double().requires_grad_() for value in inputs]
    expected, result = F.linear(*precise), linear(x, weight, bias)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), result, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(linear_gelu(x, weight, bias), F.gelu(result), rtol=1e-5, atol=1e-5)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(result, inputs, grad)
    for own, other in zip(gradients, torch.autograd.grad(expected, precise, grad.double()), strict=True):
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=1e-5)


def test_frozen_weights_get_no_gradients() -> None:
    x, weight, bias = drawn(5, 24), drawn(40, 24).detach(), drawn(40).detach()
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(dim=0).expand(5, -1), rtol=1e-5, atol=1e-5)


def test_inputs_of_any_layout() -> None:
    x, weight = drawn(4, 6, 24).detach().transpose(0, 1), drawn(24, 40).detach().T
    torch.testing.assert_close(linear(x, weight, None), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_double_precision_is_kept() -> None:
    x, weight, bias = drawn(5, 24).double(), drawn(40, 24).double(), drawn(40).double()
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_a_processor_without_bfloat16_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Tensor, *_: object) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor for the inner product")

    x, weight = drawn(5, 24).detach().bfloat16(), drawn(40, 24).detach().bfloat16()
    monkeypatch.setattr(module, "_onednn", refuse)
    monkeypatch.setattr(module, "onednn_computes_in", onednn_computes_in.__wrapped__)  # not what was found
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))
    assert torch.equal(linear_gelu(x, weight, None), F.gelu(F.linear(x, weight)))


class AtLength(nn.Module):
    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        self.model, self.length = model, length

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips, self.length).logits


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # the switch sets all of its flags again
@pytest.mark.parametrize("length", [8, 4])
@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_pytorchs_counter_agrees_with_pytorchs_switch_off(attention: str, length: int) -> None:
    model = tiny_revit(attention=attention).float().eval()
    clips = random_clips(1).float()
    plain = sdpa_kernel(SDPBackend.MATH)  # PyTorch 2.10 does not count the CPU's fused attention
    with FlopCounterMode(display=False) as counter, torch.backends.mkldnn.flags(enabled=False), plain:
        model(clips, length)
    expected = count(AtLength(model, length), clips).matmul_gmacs
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected)
