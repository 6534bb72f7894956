"""Batching by token length, across incoming batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.length import TokenLength


class Group(NamedTuple):
    """Clips `(B, C, T, H, W)` that ran at length `i`; their tickets `(B, ...)` and logits `(B, classes)`.

    The clips are valid until the next group is requested, which reuses their memory.
    """

    i: int
    tickets: Tensor
    clips: Tensor
    logits: Tensor


class Buckets:
    """One buffer of waiting clips per length, which runs when it holds `batch_size` clips.

    Filling across incoming batches keeps every pass full: a batch with clips of three lengths would otherwise
    run as three small ones. `add` and `flush` yield each finished `Group`; at most `batch_size - 1` clips
    wait per length. A clip is copied once, into the buffer.

    Args:
        run: `(clips, length) -> logits`.
        lengths: the model's lengths; choices are positions in it.
    """

    def __init__(
        self, run: Callable[[Tensor, TokenLength], Tensor], lengths: Sequence[TokenLength], batch_size: int
    ) -> None:
        self.run, self.lengths, self.batch_size = run, tuple(lengths), batch_size
        self.buffers: list[Tensor | None] = [None] * len(lengths)
        self.tickets: list[list[Tensor]] = [[] for _ in lengths]

    def waiting(self, i: int) -> int:
        """Clips that wait for length `i`."""
        return sum(len(tickets) for tickets in self.tickets[i])

    def __len__(self) -> int:
        """Clips that wait for any length."""
        return sum(map(self.waiting, range(len(self.lengths))))

    def add(self, clips: Tensor, tickets: Tensor, choice: Tensor) -> Iterator[Group]:
        """Queue each clip under its chosen length `(B,)`, and run the buckets that are full.

        Args:
            tickets: returned with each clip `(B, ...)`.
        """
        choice = choice.cpu()
        for i in range(len(self.lengths)):
            chosen = (choice == i).nonzero().flatten()
            if len(chosen) == len(clips) == self.batch_size and not self.waiting(i):
                yield Group(i, tickets, clips, self.run(clips, self.lengths[i]))  # no need to copy
                continue
            while len(chosen):
                room = self.batch_size - self.waiting(i)
                self._put(i, clips, tickets, chosen[:room])
                chosen = chosen[room:]
                if self.waiting(i) == self.batch_size:
                    yield self._run(i)

    def flush(self) -> Iterator[Group]:
        """Run all waiting clips, shortest length first."""
        for i in reversed(range(len(self.lengths))):
            if self.waiting(i):
                yield self._run(i)

    def _put(self, i: int, clips: Tensor, tickets: Tensor, chosen: Tensor) -> None:
        buffer = self.buffers[i]
        if buffer is None:
            buffer = self.buffers[i] = clips.new_empty(self.batch_size, *clips.shape[1:])
        start = self.waiting(i)
        torch.index_select(clips, 0, chosen.to(clips.device), out=buffer[start : start + len(chosen)])
        self.tickets[i].append(tickets[chosen.to(tickets.device)])

    def _run(self, i: int) -> Group:
        buffer, tickets = self.buffers[i], torch.cat(self.tickets[i])
        assert buffer is not None
        self.tickets[i] = []
        clips = buffer[: len(tickets)]
        return Group(i, tickets, clips, self.run(clips, self.lengths[i]))
