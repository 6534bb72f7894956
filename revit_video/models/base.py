"""The interface that ReViT and DVT share: one classifier, several token lengths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from revit_video.length import TokenLength
from revit_video.models.config import ReViTConfig

if TYPE_CHECKING:
    from revit_video.models.cuda_graphs import Graphs


class Output(NamedTuple):
    """Logits of each head that the model has.

    Attributes:
        cls: class head, `(B, classes)`.
        dist: distillation head, `(B, classes)`; usually at the shorter lengths only.
        dense: dense head, `(B, N, classes)`: one row per cell of the grid.
    """

    cls: Tensor
    dist: Tensor | None = None
    dense: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """Logits for inference and label mining, `(B, classes)`.

        Mean of the class and distillation heads (DeiT), plus half of the dense head's maximum over the
        grid (LV-ViT).
        """
        logits = self.cls if self.dist is None else (self.cls + self.dist) / 2
        return logits if self.dense is None else logits + 0.5 * self.dense.amax(dim=1)


class CascadeState(NamedTuple):
    """Intermediate results for B clips, handed from one length to the next longer one.

    Attributes:
        features: patch tokens of the last block, `(B, T, N, C)`.
        relations: attention scores before the softmax, per frame, of all layers and heads,
            `(B, T, layers heads, 1 + N, 1 + N)`; the class token comes first.
    """

    features: Tensor | None = None
    relations: Tensor | None = None

    def of(self, clips: Tensor | slice) -> CascadeState:
        """State of the clips at these positions."""
        return CascadeState(*(None if part is None else part[clips] for part in self))

    @classmethod
    def joined(cls, parts: Iterable[CascadeState]) -> CascadeState:
        """Concatenate along the batch."""
        first, *others = parts
        if not others:
            return first
        columns = zip(first, *others, strict=True)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))


NO_STATE = CascadeState()


class ResizableModel(nn.Module, ABC):
    """A video classifier whose `forward(clips, length)` runs at any of its token lengths.

    Attributes:
        kind: name of the class in checkpoints.
        carries_state: whether a cascade continues from the shorter lengths' state instead of starting anew;
            at the longest length it has then cost as much as running that length alone.
        lengths: token lengths, longest first.
        num_frames, img_size: shape of a clip, `(3, num_frames, img_size, img_size)`.
        cuda_graphs: of small passes, on a GPU, where this is a copy for inference.
    """

    kind: ClassVar[str]
    carries_state: bool

    def __init__(self, config: ReViTConfig) -> None:
        super().__init__()
        self.config = config
        self.lengths, self.num_classes = config.lengths, config.num_classes
        self.img_size, self.num_frames = config.img_size, config.num_frames
        self.cuda_graphs: Graphs | None = None

    @abstractmethod
    def forward(self, clips: Tensor, length: int | str | TokenLength) -> Output:
        """Classify normalised `clips` `(B, 3, T, H, W)` at one token length.

        Raises:
            ValueError: the model does not have this length, or the clips have another shape.
        """

    @abstractmethod
    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        """One step of a cascade: classify at `lengths[i]`, given the state of the next shorter length."""

    @abstractmethod
    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        """Logits and patch tokens of each pass that `forward` makes; for tracing, which drops unused results.

        In order of running; more than one pass where `forward` runs the shorter lengths first.
        """

    @property
    @abstractmethod
    def parts(self) -> list[Any]:
        """The `ReViT`s that the model consists of; a ReViT is its own only one."""

    @abstractmethod
    def params_at(self, length: TokenLength) -> int:
        """Parameters that a forward pass at `length` uses."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Names of parameters exempt from weight decay, besides biases and norms (timm's convention)."""

    def group_matcher(self) -> dict[str, Any]:
        """Which layer a parameter is of, by its name (timm's convention); heads and what is new come last."""
        part = r"^(?:backbones\.\d+\.)?"
        return {
            "stem": rf"{part}(?:cls_token|dist_token|reg_token|pos_embed|time_embed|patch_embed|norm_pre)",
            "blocks": [(rf"{part}blocks\.(\d+)", None), (rf"{part}norm", (99999,))],
        }

    def forward_all(self, clips: Tensor) -> list[Output]:
        """Classify at every length, longest first, as one cascade."""
        state, shortest_first = NO_STATE, []
        for i in reversed(range(len(self.lengths))):
            output, state = self.step(clips, i, state)
            shortest_first.append(output)
        return shortest_first[::-1]

    @property
    def example(self) -> Tensor:
        """A weight of the blocks `(C, C)`, to make tensors like it."""
        weight: Tensor = self.parts[0].blocks[0].attn.proj.weight
        return weight

    @property
    def width(self) -> int:
        """Channels of a token, C."""
        return self.config.embed_dim

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the blocks; heads may be more precise."""
        return self.example.dtype

    @property
    def compiled(self) -> bool:
        return False

    def activations_at(self, length: TokenLength) -> int:
        """Tokens x channels of a clip."""
        return self.config.steps * length.count * self.width

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"cuda_graphs": None}  # which are of these weights, not of a copy's


def count_params(part: nn.Module | Tensor) -> int:
    """Number of scalars in a parameter, or in all parameters of a module; of a plain tensor, none."""
    if isinstance(part, nn.Module):
        return sum(parameter.numel() for parameter in part.parameters())
    return part.numel() if isinstance(part, nn.Parameter) else 0
