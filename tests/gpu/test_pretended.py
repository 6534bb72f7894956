"""Does the pretended GPU refuse what a real one would, and notice what it would wait for?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.gpu import pretended
from tests.toy import ROOT


def test_what_it_refuses_and_waits_for(driver: Path) -> None:
    """In a process of its own, since it stays pretended."""
    environment = os.environ | {"LD_PRELOAD": str(driver), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.test_pretended"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def refused(operation: Callable[[], Any]) -> bool:
    try:
        operation()
    except pretended.OtherDevice:
        return True
    return False


def waits_of(operation: Callable[[], Any]) -> int:
    before = len(pretended.waits)
    operation()
    return len(pretended.waits) - before


def check() -> None:
    theirs, x = torch.randn(4, 3), torch.randn(4, 3, device="cuda")
    numbers = torch.tensor([1, 2])
    assert x.device == torch.device("cuda", 0) and refused(lambda: theirs + x)
    assert refused(lambda: torch.cat([x, theirs])) and refused(lambda: torch.stack([x.sum(), theirs.sum()]))
    assert refused(lambda: theirs[numbers.to("cuda")]) and refused(lambda: x.index_select(0, numbers))
    assert refused(lambda: torch.rand(3, device="cuda", generator=torch.Generator()))
    assert not refused(lambda: x * torch.tensor(2.0)), "a number may be the CPU's"

    pinned, large = torch.randn(1 << 16).pin_memory(), torch.randn(1 << 16)
    reading = (
        *(
            x.sum().item,
            x.tolist,
            x.cpu,
            x.nonzero,
            lambda: bool(x.any()),
            lambda: x[x > 0],
            lambda: x[numbers],
        ),
        *(lambda: pinned.to("cuda"), lambda: large.to("cuda", non_blocking=True), torch.cuda.synchronize),
        *(lambda: torch.tensor([1.0], device="cuda"), lambda: torch.empty(4, 3).copy_(x)),
    )
    assert [waits_of(each) for each in reading] == [1] * len(reading)
    assert not waits_of(lambda: pinned[7:].to("cuda", non_blocking=True))
    assert not waits_of(lambda: torch.where(x > 0, x, 0).sum().lerp_(x.mean(), 0.5))

    copied = x.to("cpu", non_blocking=True)
    assert copied.isnan().all(), "nothing has waited for it"
    torch.cuda.Event().synchronize()
    assert torch.equal(copied, x.held)

    layer = torch.nn.Linear(3, 5).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        out = layer(x)
    out.float().square().sum().backward()
    before = layer.weight.detach().cpu()
    torch.optim.AdamW(layer.parameters()).step()
    assert out.dtype == torch.bfloat16 and layer.weight.grad is not None
    assert layer.weight.grad.is_cuda and not torch.equal(layer.weight.cpu(), before)


if __name__ == "__main__":
    pretended.install(os.environ["LD_PRELOAD"], 1)
    with pretended.gpu():
        check()
