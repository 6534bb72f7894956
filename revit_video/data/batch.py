"""Containers for clips on their way from the data workers to the model, with their origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revit_video.data.clips import VideoViews
from revit_video.data.token_labels import TokenLabels


class Skipped(NamedTuple):
    """An unreadable video and the reason in one line."""

    path: str
    reason: str


@dataclass
class Sample:
    """An item of a dataset: one video's views, and the unreadable videos that it replaces."""

    views: VideoViews
    label: int | Tensor  # (classes,) bool, true for each, where there may be several
    row: int  # index of the video in its list
    path: str
    skipped: list[Skipped] = field(default_factory=list)
    label_map: Tensor | None = None  # (2, K, H, W) see `TokenLabelMaps`; None if not asked for


@dataclass
class Batch:
    """Views of several videos, those of a video adjacent. Empty if no video could be read."""

    clips: Tensor  # uint8 (B, C, T, H, W)
    labels: Tensor  # (B,), or where there may be several (B, classes), true for each
    rows: Tensor  # (B,) index of the video in its list
    starts: Tensor  # (B,) seconds
    clip_index: Tensor  # (B,)
    crops: Tensor  # (B,)
    paths: list[str]  # B entries
    skipped: list[Skipped] = field(default_factory=list)  # videos, not views
    token_labels: TokenLabels | None = None  # of B crops; None if not asked for

    def __len__(self) -> int:
        return len(self.clips)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with what a loss takes on `device`: clips, class labels and token labels."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        token_labels = self.token_labels and self.token_labels.map(moved)
        return replace(self, clips=moved(self.clips), labels=moved(self.labels), token_labels=token_labels)

    def pin_memory(self) -> Batch:
        """Called by `DataLoader(pin_memory=True)`."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `function` of every tensor."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: function(tensor) for name, tensor in tensors.items()}
        return replace(self, **moved, token_labels=self.token_labels and self.token_labels.map(function))


def collate(samples: Sequence[Sample]) -> Batch:
    """Views of all samples, in order, as one batch."""
    views = [sample.views for sample in samples]
    counts = torch.tensor([len(v) for v in views])
    return Batch(
        clips=torch.cat([v.clips for v in views]),
        labels=torch.stack([torch.as_tensor(s.label) for s in samples]).repeat_interleave(counts, dim=0),
        rows=torch.tensor([sample.row for sample in samples]).repeat_interleave(counts),
        starts=torch.cat([v.starts for v in views]),
        clip_index=torch.cat([v.clip_index for v in views]),
        crops=torch.cat([v.crops for v in views]),
        paths=[sample.path for sample in samples for _ in range(len(sample.views))],
        skipped=[skip for sample in samples for skip in sample.skipped],
        token_labels=_token_labels(samples),
    )


def _token_labels(samples: Sequence[Sample]) -> TokenLabels | None:
    maps = [sample.label_map for sample in samples if sample.label_map is not None]
    boxes = [sample.views.boxes for sample in samples if sample.views.boxes is not None]
    return TokenLabels(torch.stack(maps), torch.cat(boxes)) if maps else None


def with_reversed(batch: Batch, partner: Tensor) -> Batch:
    """Append a time-reversed copy of every clip.

    Args:
        partner: (num_classes,) the class that each class becomes when time is reversed, on the same device.

    Returns:
        2 B clips, the forward ones first.
    """
    twice = batch.map(lambda tensor: torch.cat([tensor, tensor]))
    return replace(
        twice,
        clips=torch.cat([batch.clips, batch.clips.flip(2)]),
        labels=torch.cat([batch.labels, partner[batch.labels]]),
        paths=batch.paths * 2,
    )
