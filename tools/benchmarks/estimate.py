"""What a GPU must do for a training step and for inference: operations that run, counted on fake tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.timesformer import LENGTHS, random_clips
from benchmarks.timing import Effort, Measurement
from benchmarks.training import TWO, TimedStep
from revit_video.models.inference import for_inference
from revit_video.models.presets import timesformer_base, videomae_base
from revit_video.models.revit import ReViT
from revit_video.runtime.ranks import Ranks
from revit_video.train.losses import Distillation
from revit_video.train.optim import make_optimizer
from revit_video.train.steps import MixedLengthStep

# Of an H100, measured by tools/gpu_check.py: a large bfloat16 product, a large copy.
OPERATIONS_PER_S, BYTES_PER_S = 788e12, 2.95e12
CPU = torch.device("cpu")
MODELS: dict[str, Callable[..., ReViT]] = {"TimeSformer-base": timesformer_base, "VideoMAE-B": videomae_base}
BATCH = 8


class Count(TorchDispatchMode):
    """Adds up operations and bytes of what runs in its block.

    Attributes:
        kernels: operations that are no views.
        flop: of products and attention; a multiply-accumulate is two.
        moved: bytes, every input of an operation read once, and every output written once.
        seconds: each operation alone, by the larger of its two times.
        fused: of those only products, attention and the optimiser, as if a compiler fused all else into them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.flop, self.moved = 0, 0, 0
        self.seconds = self.fused = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view or func.namespace != "aten" or func.__name__.startswith("_unsafe_view"):
            return result
        tensors = {id(x): x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        counted = flop_registry.get(func._overloadpacket)
        flop = counted(*args, **kwargs, out_val=result) if counted else 0
        moved = sum(_bytes(x) for x in [*tensors.values(), *tree_leaves(_changed(func, args))])
        self.kernels, self.flop, self.moved = self.kernels + 1, self.flop + flop, self.moved + moved
        seconds = max(flop / OPERATIONS_PER_S, moved / BYTES_PER_S)
        self.seconds += seconds
        self.fused += seconds if flop or "_fused_" in func.__name__ else 0
        return result


def _changed(func: Any, args: Sequence[Any]) -> list[Any]:
    """The arguments that an operation reads and then writes."""
    if func.__name__.startswith(("copy_", "fill_", "zero_")):
        return []  # only writes
    each = zip(func._schema.arguments, args, strict=False)
    return [value for argument, value in each if argument.is_write]


def _bytes(x: Tensor) -> int:
    """Of the values that `x` holds; an expanded axis holds one."""
    own = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or not size]
    return x.element_size() * math.prod(own)


def estimate(device: torch.device, effort: Effort) -> list[Measurement]:
    """A training step in mixed precision and inference in bfloat16, on fake tensors: floors for an H100.

    `device` and `effort` change nothing: no operation is computed.
    """
    rows = []
    for title, make in MODELS.items():
        rows += _rows(f"{title}, {' + '.join(TWO)}, training, batch {BATCH}", _of_training(make))
        for length in LENGTHS:
            rows += _rows(f"{title}, {length}, inference, batch {BATCH}", _of_inference(make, length))
    return rows


def _rows(title: str, count: Count) -> list[Measurement]:
    return [
        Measurement(f"{title}: operations", count.flop / 1e12, "TFLOP"),
        Measurement(f"{title}: bytes", count.moved / 1e9, "GB"),
        Measurement(f"{title}: kernels", count.kernels, ""),
        Measurement(f"{title}: operations / rate", 1e3 * count.flop / OPERATIONS_PER_S, "ms"),
        Measurement(f"{title}: bytes / bandwidth", 1e3 * count.moved / BYTES_PER_S, "ms"),
        Measurement(f"{title}: the larger of each kernel's two, added up", 1e3 * count.seconds, "ms"),
        Measurement(f"{title}: ... of products, attention and the optimiser", 1e3 * count.fused, "ms"),
    ]


def _of_training(make: Callable[..., ReViT]) -> Count:
    ranks, model = Ranks(0, 1, CPU), make(TWO)
    step = MixedLengthStep(model.train(), Distillation(), ranks, autocast=torch.bfloat16)
    optimizer = make_optimizer(model, "sgd", 1e-3, 1e-4)
    for group in optimizer.param_groups:
        group["fused"] = True  # as on a GPU
    return _counted(TimedStep(model, step, ranks, BATCH, optimizer))


def _of_inference(make: Callable[..., ReViT], length: str) -> Count:
    model = for_inference(make([length]), torch.bfloat16)
    clips = random_clips(model, BATCH).to(torch.bfloat16)
    # With gradients enabled: without them bfloat16 takes a way of its own on CPUs.
    return _counted(lambda: model(clips, length))


def _counted(action: Callable[[], object]) -> Count:
    """On tensors without values, by the operations for GPUs, not those for CPUs."""
    count, without_onednn = Count(), torch.backends.mkldnn.flags(enabled=False)
    with FakeTensorMode(allow_non_fake_inputs=True), without_onednn, count:
        action()
    return count
