"""Running a policy on a model, with views batched by token length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.policies import Costs, Known, Policy, increments
from revit_video.length import TokenLength
from revit_video.models.base import NO_STATE, ResizableModel
from revit_video.models.inference import (
    confidence,
    log_probabilities,
    logits_at,
    logits_at_next,
    probabilities,
)

if TYPE_CHECKING:
    from revit_video.models.assigner import TokenLengthAssigner

# A view's ticket: its number, its first length, the class that its answers name so far and, where they are
# averaged, the sums of their log-probabilities.
START, NAMED, SUMS = 1, 2, 3
NOTHING, DIFFERENT = -1, -2  # in place of the class that the answers name


class Prediction(NamedTuple):
    """Predictions for B views.

    Attributes:
        numbers: position of each view in the order of submission `(B,)`.
        logits: `(B, classes)`; mean log-probabilities, where the policy averages its answers.
        lengths: position of the length at which the view exited `(B,)`.
        agreed: whether the answers after all lengths that were run name the same class `(B,)`.
        gmacs: cost of all lengths that were run, and of the assigner `(B,)`.
    """

    numbers: Tensor
    logits: Tensor
    lengths: Tensor
    agreed: Tensor
    gmacs: Tensor

    @classmethod
    def joined(cls, parts: Iterable[Prediction]) -> Prediction:
        """Concatenate the parts in the order of submission, on the CPU."""
        columns = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
        order = columns[0].argsort()
        return cls(*(column[order] for column in columns))

    def views(self) -> Iterator[Prediction]:
        """Each view by itself, on the CPU."""
        columns = [column.cpu() for column in self]
        yield from (Prediction(*parts) for parts in zip(*(c.split(1) for c in columns), strict=True))


class Engine:
    """Classifies views with a model, each at the lengths that a policy chooses.

    `engine(clips, rows)` classifies immediately, in order. For a stream, call `submit` for each batch and
    `flush` at the end; predictions are returned as buckets fill, in any order, and numbered across batches.

    Args:
        model: from `for_inference`; the trained model itself works too, but is slower.
        costs: of the model's lengths and the assigner.
        assigner: for policies that need it.
        batch_size: views per forward pass.
    """

    def __init__(
        self,
        model: ResizableModel,
        policy: Policy,
        costs: Costs,
        assigner: TokenLengthAssigner | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model, self.policy, self.costs, self.batch_size = model.eval(), policy, costs, batch_size
        self.multi_label = model.config.multi_label
        self.assigner = assigner.eval() if assigner is not None and policy.asks_assigner else None
        self.buckets = Buckets(partial(logits_at, self.model), model.lengths, batch_size)
        self.passes = costs.passes(policy.usable)
        self.count = 0

    def __call__(self, clips: Tensor, rows: Tensor | None = None) -> Prediction:
        """Classify `clips` in order; nothing may be waiting from earlier calls of `submit`."""
        return Prediction.joined([*self.submit(clips, rows), *self.flush()])

    @torch.inference_mode()
    def submit(self, clips: Tensor, rows: Tensor | None = None) -> list[Prediction]:
        """Queue views; returns the predictions that are finished.

        Args:
            clips: normalised `(B, 3, T, H, W)`.
            rows: list row of each view's video `(B,)`, all views of a video in the same call; by default
                every view is its own video.
        """
        numbers = torch.arange(self.count, self.count + len(clips))
        self.count += len(clips)
        asked = ask(self.assigner, clips) if self.assigner is not None else None
        rows = numbers if rows is None else rows.cpu()
        start = self.policy.start(Known(rows, len(self.model.lengths), asked))
        columns = SUMS + self.policy.averaged * self.model.config.num_classes
        tickets = torch.zeros(len(clips), columns, dtype=torch.float64)
        tickets[:, :SUMS] = torch.stack([numbers, start, torch.full_like(start, NOTHING)], dim=1)
        if self.policy.thresholds is not None and self.model.carries_state:
            batches = zip(clips.split(self.batch_size), tickets.split(self.batch_size), strict=True)
            return [part for batch in batches for part in self._through_stages(*batch)]
        return list(self._settled(self.buckets.add(clips, tickets, start)))

    @torch.inference_mode()
    def flush(self) -> list[Prediction]:
        """Run all waiting views; returns their predictions."""
        done: list[Prediction] = []
        while len(self.buckets):  # a view that does not exit joins the queue of the next longer length
            done += self._settled(self.buckets.flush())
        return done

    def _settled(self, groups: Iterable[Group]) -> Iterator[Prediction]:
        """Predictions of the views that exit; the others are queued at the next longer length."""
        for group in groups:
            if self.policy.thresholds is None:
                yield self._predicted(group.tickets, group.logits, group.i)
                continue
            logits = group.logits.cpu()  # the one wait for the device
            tickets, answers = self._read(group.tickets, logits, group.i)
            here = self.policy.stops(self._confidence(answers), group.i)
            if here.any():
                yield self._predicted(tickets[here], answers[here], group.i)
            if not here.all():
                onward = torch.full((int((~here).sum()),), self.policy.next_longer(group.i))
                clips = group.clips[_uploaded(~here, group.clips)]
                waiting = self.buckets.add(clips, tickets[~here], onward)
                yield from self._settled(waiting)

    def _through_stages(self, clips: Tensor, tickets: Tensor) -> Iterator[Prediction]:
        """Predictions of a model that continues from the state of the shorter length (DVT).

        Views that do not exit are not queued with those of later batches, because the state is large: 47 MB
        per view for a TimeSformer at 10x10.
        """
        state = NO_STATE
        for i in reversed(range(len(self.model.lengths))):
            logits, state = logits_at_next(self.model, clips, i, state)
            if not self.policy.may_run(i):  # its state is needed, its answer is not
                continue
            started = tickets[:, START] >= i
            if not started.any():
                continue
            tickets[started], answers = self._read(tickets[started], logits.cpu()[started], i)
            stops = self.policy.stops(self._confidence(answers), i)
            here = started.clone()
            here[started] = stops
            if here.any():
                yield self._predicted(tickets[here], answers[stops], i)
            if here.all():
                return
            onward = _uploaded(~here, clips)
            clips, tickets, state = clips[onward], tickets[~here], state.of(onward)

    def _read(self, tickets: Tensor, logits: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The tickets after length `i`, and the policy's answers `(B, classes)` as logits."""
        answers = logits
        if self.policy.temperatures is not None:
            of_length = probabilities(logits, self.multi_label)
            answers = log_probabilities(of_length, self.policy.temperatures[i], self.multi_label)
        tickets = tickets.clone()
        if self.policy.averaged:
            sums = answers + tickets[:, SUMS:].to(answers.dtype)
            tickets[:, SUMS:] = sums
            run = self.policy.runs(tickets[:, START], len(self.model.lengths))[:, i:].sum(dim=1)
            answers = sums / run[:, None]
        now, before = answers.argmax(dim=1), tickets[:, NAMED]
        tickets[:, NAMED] = torch.where((before == NOTHING) | (before == now), now, DIFFERENT)
        return tickets, answers

    def _confidence(self, answers: Tensor) -> Tensor:
        return confidence(probabilities(answers, self.multi_label), self.multi_label)

    def _predicted(self, tickets: Tensor, logits: Tensor, i: int) -> Prediction:
        numbers, start, named = tickets[:, :SUMS].long().unbind(dim=1)
        spent = self.passes[start, i] + (self.costs.assigner if self.assigner is not None else 0.0)
        return Prediction(numbers, logits, torch.full_like(start, i), named != DIFFERENT, spent)


def _uploaded(chosen: Tensor, like: Tensor) -> Tensor:
    """Where `chosen` `(B,)` is true, on the device of `like`; a mask there would make the host wait."""
    return chosen.nonzero().flatten().to(like.device, non_blocking=True)


def ask(assigner: TokenLengthAssigner, clips: Tensor) -> Tensor:
    """The assigner's probabilities `(B, lengths)`, see `Known.assigned`; on the CPU."""
    logits = assigner(clips).float()
    if getattr(assigner, "objective", "label") == "label":
        return logits.softmax(dim=1).cpu()
    return increments(logits.sigmoid()).cpu()


# ---- Buckets ---------------------------------------------------------------------------------------------


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
        self.waiting = [0] * len(lengths)  # clips, for each length

    def __len__(self) -> int:
        """Clips that wait for any length."""
        return sum(self.waiting)

    def add(self, clips: Tensor, tickets: Tensor, choice: Tensor) -> Iterator[Group]:
        """Queue each clip under its chosen length `(B,)`, and run the buckets that are full.

        Args:
            tickets: returned with each clip `(B, ...)`.
        """
        choice = choice.cpu()
        for i in range(len(self.lengths)):
            chosen = (choice == i).nonzero().flatten()
            if len(chosen) == len(clips) == self.batch_size and not self.waiting[i]:
                yield Group(i, tickets, clips, self.run(clips, self.lengths[i]))  # no need to copy
                continue
            while len(chosen):
                room = self.batch_size - self.waiting[i]
                self._put(i, clips, tickets, chosen[:room])
                chosen = chosen[room:]
                if self.waiting[i] == self.batch_size:
                    yield self._run(i)

    def flush(self) -> Iterator[Group]:
        """Run all waiting clips, shortest length first."""
        for i in reversed(range(len(self.lengths))):
            if self.waiting[i]:
                yield self._run(i)

    def _put(self, i: int, clips: Tensor, tickets: Tensor, chosen: Tensor) -> None:
        buffer = self.buffers[i]
        if buffer is None:
            buffer = self.buffers[i] = clips.new_empty(self.batch_size, *clips.shape[1:])
        start = self.waiting[i]
        place = chosen.to(clips.device, non_blocking=True)
        torch.index_select(clips, 0, place, out=buffer[start : start + len(chosen)])
        self.tickets[i].append(tickets[chosen])
        self.waiting[i] += len(chosen)

    def _run(self, i: int) -> Group:
        buffer, tickets = self.buffers[i], torch.cat(self.tickets[i])
        assert buffer is not None
        self.tickets[i], self.waiting[i] = [], 0
        clips = buffer[: len(tickets)]
        return Group(i, tickets, clips, self.run(clips, self.lengths[i]))
