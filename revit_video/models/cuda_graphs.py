"""CUDA graphs of small forward passes: a GPU runs them faster than they can be launched one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revit_video.runtime.text import first_line

# Tokens x channels up to which launching a pass takes longer than running it, in training too: of
# TimeSformer-base on an H100 13 clips at 14x14, 55 at 7x7 (docs/gpu.md).
LAUNCH_BOUND = 1 << 24
Pass = Callable[[Tensor], Tensor]

logger = logging.getLogger(__name__)


class Recorded(NamedTuple):
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: Tensor


class Graphs:
    """Forward passes of one model, each recorded at its second use and replayed from then on.

    Inputs are padded to the next power of two, so that few sizes are met. Passes that are not bound by
    launching run as they come. The weights must stay where they are.
    """

    def __init__(self) -> None:
        self.work = True
        self.recorded: dict[tuple[Hashable, int], Recorded | None] = {}  # None: used once
        self._memory: Any = None  # that all graphs share

    def __call__(self, run: Pass, name: Hashable, inputs: Tensor, each: int) -> Tensor:
        """`run(inputs)`, whose rows must not depend on each other; on a GPU.

        Args:
            name: of `run`, which must do the same at each call.
            inputs: `(B, ...)`, of the same shape at each call but for B.
            each: tokens x channels of one of them.
        """
        count = len(inputs)
        size = padded_size(count, each)
        if size is None or not self.work:
            return run(inputs)
        if size > count:
            inputs = torch.cat([inputs, inputs[:1].expand(size - count, *inputs.shape[1:])])
        key = name, size
        if key not in self.recorded:
            self.recorded[key] = None
            return run(inputs)[:count]
        pass_ = self.recorded[key] or self._record(run, key, inputs)
        if pass_ is None:
            return run(inputs)[:count]
        pass_.inputs.copy_(inputs)
        pass_.graph.replay()
        return pass_.outputs[:count].clone()

    def _record(self, run: Pass, key: tuple[Hashable, int], inputs: Tensor) -> Recorded | None:
        """None, and no more graphs, where the pass cannot be recorded here."""
        try:
            recorded = record(run, inputs, self._memory)
        except (RuntimeError, AssertionError) as error:
            self.work = False
            words = "small passes are launched one by one; CUDA graphs do not work here: %s"
            logger.info(words, first_line(error))
            return None
        self.recorded[key] = recorded
        self._memory = recorded.graph.pool()
        return recorded


def padded_size(count: int, each: int) -> int | None:
    """The next power of two; None where a pass of so many inputs is not bound by launching.

    Args:
        each: tokens x channels of one.
    """
    size = 1 << max(0, count - 1).bit_length()
    return size if count > 0 and size * each <= LAUNCH_BOUND else None


@torch.inference_mode(False)
@torch.no_grad()
def record(run: Pass, inputs: Tensor, memory: Any = None) -> Recorded:
    """The graph of `run(inputs)`; `memory` is another graph's `pool()`, which runs at other times."""
    with torch.cuda.device(inputs.device):
        own, here, aside = inputs.clone(), torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # libraries set themselves up for the stream that is recorded
            run(own)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the data loader's, may go on to use the GPU.
        with torch.cuda.graph(graph, memory, aside, capture_error_mode="thread_local"):
            outputs = run(own)
    return Recorded(graph, own, outputs)
