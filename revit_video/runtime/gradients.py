"""The gradients of a training step, summed over the ranks while the backward passes run.

A step has several backward passes (token lengths, parts of a batch), and some parameters take part in few of
them. `DistributedDataParallel` never sums what the last pass did not use. `fully_shard` needs every rank to
use the same parameters, which in ReViT-E differ, and its sharded parameters would change checkpoints, moving
averages and copies for inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from revit_video.runtime.ranks import Ranks

BUFFER_ELEMENTS = 1 << 23  # gradient values per all-reduce: 32 MiB in fp32


class Gradients:
    """The gradients of the parameters that learn.

    With several ranks, or in `own_memory`, they are views of flat buffers. The sum of a buffer starts in the
    last backward pass of the step that adds to it, and the next one not before. Which pass is the last
    follows from the first step, whose sums start at its end; the passes of all steps must be alike.

    Use it as a context: leaving it takes its hooks off the parameters.

    Args:
        parameters: those that do not require gradients are left out.
        parts: of a batch, whose gradients are added (gradient accumulation).
        own_memory: else one rank's first gradients of a step stay where the backward pass left them, which
            compiled graphs may overwrite.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], ranks: Ranks, parts: int = 1, own_memory: bool = False
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._ranks, self._divisor = ranks, ranks.data_size * parts
        self._touched = [False] * len(self.parameters)
        self._started = 0  # buffers of this step
        self._buffers: list[_Buffer] = []
        self._hooks = []
        if ranks.world_size > 1 or own_memory:
            # Backwards, which is about the order in which gradients are complete.
            self._buffers = [_Buffer(own) for own in _portions(self.parameters[::-1])]
            place = {id(parameter): n for n, parameter in enumerate(self.parameters)}
            self._hooks = [
                parameter.register_post_accumulate_grad_hook(
                    partial(self._added, buffer, place[id(parameter)])
                )
                for buffer in self._buffers
                for parameter in buffer.parameters
            ]

    def __enter__(self) -> Gradients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def clear(self) -> None:
        """Begin a step: no gradients."""
        self._touched = [False] * len(self.parameters)
        self._started = 0
        for parameter in self.parameters:
            parameter.grad = None
        for buffer in self._buffers:
            buffer.clear()

    def sum(self, stop: bool = False) -> bool:
        """Replace every gradient by its sum over the ranks, divided by `ranks.data_size * parts`.

        This is the mean over the shares of the batch and its `parts`, and the sum over token lengths in
        ReViT-E. A missing gradient counts as zeros if another rank has one, so that afterwards all ranks hold
        the same gradients for the same parameters. No device is waited for.

        Returns:
            Whether any rank passed `stop`, so that all ranks stop in the same step.
        """
        if not self._buffers:
            for gradient in [p.grad for p in self.parameters if p.grad is not None and self._divisor > 1]:
                gradient /= self._divisor
            return stop
        flags = torch.tensor([*self._touched, stop], dtype=torch.int32)  # on the CPU, whatever the device
        if self._ranks.world_size > 1:
            while self._started < len(self._buffers):
                self._start_next()
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        *touched_by_any, stop_all = flags.tolist()
        for parameter, touched in zip(self.parameters, touched_by_any, strict=True):
            if not touched:
                parameter.grad = None
        for buffer in self._buffers:
            buffer.finish(self._divisor)
        return bool(stop_all)

    def _added(self, buffer: _Buffer, place: int, _: Tensor) -> None:
        """A backward pass has added to a parameter's gradient."""
        assert buffer.work is None, "a gradient was added to after its sum over the ranks had started"
        self._touched[place] = True
        buffer.added += 1
        while self._started < len(self._buffers) and self._buffers[self._started].is_complete:
            self._start_next()

    def _start_next(self) -> None:
        self._buffers[self._started].start()
        self._started += 1


class _Buffer:
    """Gradients of some parameters of one dtype, side by side in memory."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.flat = parameters[0].detach().new_zeros(sum(parameter.numel() for parameter in parameters))
        parts = self.flat.split([parameter.numel() for parameter in parameters])
        self.views = [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
        self.added = 0  # gradients in this step
        self.expected = math.inf  # gradients in a step
        self.work: dist.Work | None = None

    @property
    def is_complete(self) -> bool:
        return self.added >= self.expected

    def clear(self) -> None:
        self.added, self.work = 0, None
        self.flat.zero_()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def start(self) -> None:
        self.work = dist.all_reduce(self.flat, async_op=True)

    def finish(self, divisor: int) -> None:
        if self.work is not None:
            self.work.wait()  # on a GPU its stream waits, not this process
            self.expected = self.added
        if divisor > 1:
            self.flat /= divisor


def _portions(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one dtype each, closed as soon as they hold `BUFFER_ELEMENTS` values."""
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        portion = by_dtype.setdefault(parameter.dtype, [])
        portion.append(parameter)
        if sum(member.numel() for member in portion) >= BUFFER_ELEMENTS:
            yield by_dtype.pop(parameter.dtype)
    yield from by_dtype.values()
