"""Clips that share a token length run together, whichever batch they came in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.length import TokenLength


class Group(NamedTuple):
    """Clips `(B, C, T, H, W)` of one length with their row numbers `(B,)` and logits `(B, classes)`."""

    i: int
    rows: Tensor
    clips: Tensor
    logits: Tensor


class Buckets:
    """A queue of waiting clips per length, run when `batch_size` of them have gathered.

    Filling across incoming batches keeps every pass full: a batch whose clips go three ways would
    otherwise run as three small ones. `add` and `flush` yield each finished `Group`; at most
    `batch_size - 1` clips a length wait.

    Args:
        run: `(clips, length) -> logits`.
        lengths: the model's lengths; choices are positions in it.
    """

    def __init__(
        self, run: Callable[[Tensor, TokenLength], Tensor], lengths: Sequence[TokenLength], batch_size: int
    ) -> None:
        self.run, self.lengths, self.batch_size = run, tuple(lengths), batch_size
        self.waiting: list[list[tuple[Tensor, Tensor]]] = [[] for _ in lengths]

    def add(self, clips: Tensor, rows: Tensor, choice: Tensor) -> Iterator[Group]:
        """Queues each clip under its chosen length `(B,)` and runs the buckets that are full."""
        choice = choice.cpu()
        for i in range(len(self.lengths)):
            chosen = (choice == i).nonzero().flatten()
            if len(chosen):
                here = chosen.to(clips.device)
                # The usual case of a batch that goes one way needs no copy.
                part = clips if len(chosen) == len(clips) else clips[here]
                self.waiting[i].append((part, rows[chosen.to(rows.device)]))
                yield from self._run_full(i)

    def flush(self) -> Iterator[Group]:
        """Runs whatever still waits, shortest length first."""
        for i in reversed(range(len(self.lengths))):
            if self.waiting[i]:
                yield self._run(i, *self._take(i))

    def _run_full(self, i: int) -> Iterator[Group]:
        while sum(len(rows) for _, rows in self.waiting[i]) >= self.batch_size:
            clips, rows = self._take(i)
            if len(rows) > self.batch_size:
                self.waiting[i].append((clips[self.batch_size :], rows[self.batch_size :]))
            yield self._run(i, clips[: self.batch_size], rows[: self.batch_size])

    def _take(self, i: int) -> tuple[Tensor, Tensor]:
        parts, self.waiting[i] = self.waiting[i], []
        if len(parts) == 1:
            return parts[0]
        return torch.cat([clips for clips, _ in parts]), torch.cat([rows for _, rows in parts])

    def _run(self, i: int, clips: Tensor, rows: Tensor) -> Group:
        return Group(i, rows, clips, self.run(clips, self.lengths[i]))
