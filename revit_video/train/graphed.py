"""CUDA graphs of a model's passes in training: a small batch runs faster than its passes can be launched."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revit_video.length import TokenLength
from revit_video.models.base import Output, ResizableModel
from revit_video.models.cuda_graphs import LAUNCH_BOUND
from revit_video.runtime.text import first_line

logger = logging.getLogger(__name__)


class GraphedPasses:
    """A model's forward and backward passes on batches of one size, recorded once and replayed.

    Dropout and stochastic depth draw anew in each replay. The weights must stay where they are, and
    gradients must have memory of their own: a replay overwrites what the one before it returned.
    """

    def __init__(self, model: ResizableModel, autocast: torch.dtype | None) -> None:
        self.model, self.autocast = model, autocast
        self.batch = 0
        self.recorded: dict[TokenLength, _AtLength] = {}

    def record(self, lengths: Sequence[TokenLength], batch: int, device: torch.device) -> None:
        """Record the passes that are bound by launching, if the device is a GPU and the model allows it.

        No other thread may use the GPU meanwhile.

        Args:
            lengths: in the order in which they will run.
            batch: clips of each pass.
        """
        model = self.model
        bound = [length for length in lengths if _is_launch_bound(model, length, batch)]
        if device.type != "cuda" or model.compiled or not _is_recordable(model):
            return
        clips = model.example.new_zeros(batch, 3, model.num_frames, model.img_size, model.img_size)
        model.train()
        try:
            memory, recorded = torch.cuda.graph_pool_handle(), {}
            for length in bound:
                with torch.autocast(device.type, self.autocast, bool(self.autocast), cache_enabled=False):
                    recorded[length] = pass_ = _AtLength(model, length)
                    torch.cuda.make_graphed_callables(
                        pass_, (clips.clone(),), allow_unused_input=True, pool=memory
                    )
        except (RuntimeError, AssertionError) as error:
            words = "training passes are launched one by one; CUDA graphs do not work here: %s"
            logger.info(words, first_line(error))
            return
        self.batch, self.recorded = batch, recorded

    def __call__(self, clips: Tensor, length: TokenLength) -> Output | None:
        """The model's output; None where this pass was not recorded."""
        if length not in self.recorded or len(clips) != self.batch or not self.model.training:
            return None
        pass_ = self.recorded[length]
        return Output(**dict(zip(pass_.heads, pass_(clips), strict=True)))


def graphs_serve(model: ResizableModel, batch: int) -> bool:
    """Whether all training passes of `batch` clips are recorded, on a GPU."""
    return _is_recordable(model) and _is_launch_bound(model, model.lengths[0], batch)


def _is_launch_bound(model: ResizableModel, length: TokenLength, batch: int) -> bool:
    """Whether launching a pass of `batch` clips takes a GPU longer than running it."""
    return batch * model.activations_at(length) <= LAUNCH_BOUND


def _is_recordable(model: ResizableModel) -> bool:
    """Not where running statistics would count the trial runs, or random states are put back."""
    has_statistics = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    return not has_statistics and not model.config.act_checkpoint


class _AtLength(nn.Module):
    """A model at one length, from clips to the logits of those heads that it has there."""

    def __init__(self, model: ResizableModel, length: TokenLength) -> None:
        super().__init__()
        self.model, self.length = model, length
        self.heads: list[str] = []

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        output = self.model(clips, self.length)
        present = {name: logits for name, logits in output._asdict().items() if logits is not None}
        self.heads = list(present)
        return tuple(present.values())
