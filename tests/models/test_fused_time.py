"""The Triton kernel of attention over time, in Triton's interpreter on the CPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import torch
import torch.nn.functional as F
from revit_video.models.fused_time import attend_over_time

torch.manual_seed(0)
for batch, frames, sequences, width in ((2, 8, 13, 64), (1, 16, 5, 32), (3, 4, 50, 64), (1, 32, 3, 16)):
    size = (batch, frames, sequences, width)
    inputs = [torch.randn(size).half().requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    up = torch.randn(size).half()
    ours = attend_over_time(*inputs)
    theirs = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in exact)).transpose(1, 2)
    pairs = [(ours, theirs)]
    gradients = torch.autograd.grad(theirs, exact, up.double())
    pairs += zip(torch.autograd.grad(ours, inputs, up), gradients)
    with torch.no_grad():
        errors = [float((a.double() - b).norm() / b.norm()) for a, b in pairs]
    assert max(errors) < 1e-3, (size, errors)

from revit_video.models import layers

layers._milliseconds = lambda attention, x: next(clock)
clock, cpu = iter((0.1, 0.3, 0.3, 0.1)), torch.device("cpu")
assert layers._time_kernel_tried(8, 64, torch.float16, cpu), "the faster one"
assert not layers._time_kernel_tried(16, 64, torch.float16, cpu), "the slower one"
assert not layers._time_kernel_tried(5, 64, torch.float16, cpu) and not any(clock), "a shape that it lacks"
print("equal")
"""


def test_outputs_and_gradients_are_those_of_plain_attention() -> None:
    """Whole and partly filled tiles, all numbers of frames, against float64; taken where it is faster."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr
