"""Which token length a clip is read at. All policies answer alike and differ only in the choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.bucketing import Buckets, Group
from revit_video.length import TokenLength, find
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import NO_STATE, ResizableModel
from revit_video.models.inference import logits_at, logits_at_next


class Views(NamedTuple):
    """Clips to classify.

    Attributes:
        clips: normalised, `(B, 3, T, H, W)`.
        rows: the caller's number of each clip `(B,)`, handed back with its prediction.
        videos: which clips show the same video, any number each `(B,)`; a decision per video is
            shared by them. Clips of a video come in the same call.
        truth: position of the shortest sufficient length `(B,)`, for the oracle alone.
    """

    clips: Tensor
    rows: Tensor
    videos: Tensor
    truth: Tensor | None = None

    @classmethod
    def of(cls, clips: Tensor) -> Views:
        """Clips that have nothing to do with each other."""
        each = torch.arange(len(clips))
        return cls(clips, each, each)


class Prediction(NamedTuple):
    """Logits `(B, classes)`, position of the length read `(B,)` and GMACs spent `(B,)`, by row `(B,)`."""

    rows: Tensor
    logits: Tensor
    lengths: Tensor
    cost: Tensor

    @classmethod
    def joined(cls, parts: Iterable[Prediction]) -> Prediction:
        """All parts as one, ordered by row."""
        whole = cls(*(torch.cat(field) for field in zip(*parts, strict=True)))
        order = whole.rows.argsort()
        return cls(*(field[order.to(field.device)] for field in whole))


class Policy(ABC):
    """Chooses a length for each clip and runs the model, bucketed by length.

    `policy(clips)` classifies at once, in order. A stream uses `submit` for each batch and `flush` at
    its end; predictions then come as buckets fill, in any order.

    Args:
        model: as `for_inference` gives it, or as it was trained, which is slower.
        gmacs: cost of one clip at each of the model's lengths.
        batch_size: clips in one pass of the model.
    """

    overhead = 0.0
    """GMACs a clip that the choice itself costs."""

    def __init__(self, model: ResizableModel, gmacs: Sequence[float], batch_size: int = 32) -> None:
        self.model, self.gmacs, self.batch_size = model.eval(), list(gmacs), batch_size
        self.buckets = Buckets(partial(logits_at, self.model), model.lengths, batch_size)

    @abstractmethod
    def choose(self, views: Views) -> Tensor:
        """Position of each clip's length in the model's lengths, `(B,)`."""

    @torch.inference_mode()
    def submit(self, views: Views) -> list[Prediction]:
        """Takes clips in; returns what is finished."""
        return [
            self._finish(group) for group in self.buckets.add(views.clips, views.rows, self.choose(views))
        ]

    @torch.inference_mode()
    def flush(self) -> list[Prediction]:
        """Finishes all that was submitted."""
        return [self._finish(group) for group in self.buckets.flush()]

    def __call__(self, clips: Tensor | Views) -> Prediction:
        """Classifies `clips` now, in order; clips submitted earlier must have been flushed."""
        views = clips if isinstance(clips, Views) else Views.of(clips)
        return Prediction.joined([*self.submit(views), *self.flush()])

    def _finish(self, group: Group) -> Prediction:
        count = len(group.rows)
        cost = torch.full((count,), self.gmacs[group.i] + self.overhead, dtype=torch.float64)
        return Prediction(group.rows, group.logits, torch.full((count,), group.i), cost)


class Static(Policy):
    """Every clip at one length."""

    def __init__(
        self, model: ResizableModel, gmacs: Sequence[float], length: TokenLength | str, **run: object
    ) -> None:
        super().__init__(model, gmacs, **run)  # type: ignore[arg-type]
        self.i = find(model.lengths, length)

    def choose(self, views: Views) -> Tensor:
        return torch.full((len(views.clips),), self.i)


class Assigned(Policy):
    """The Token-Length Assigner's choice.

    Args:
        assigner_gmacs: cost of the assigner on one clip.
        threshold: see `pick_lengths`.
        per_view: decide for each clip alone instead of once a video.
    """

    def __init__(
        self,
        model: ResizableModel,
        gmacs: Sequence[float],
        assigner: TokenLengthAssigner,
        assigner_gmacs: float,
        threshold: float | None,
        per_view: bool = False,
        **run: object,
    ) -> None:
        super().__init__(model, gmacs, **run)  # type: ignore[arg-type]
        self.assigner, self.threshold, self.per_view = assigner.eval(), threshold, per_view
        self.overhead = assigner_gmacs
        self.answer = torch.empty(0, len(self.gmacs))
        """`probabilities` of the clips that came last."""

    @torch.inference_mode()
    def probabilities(self, views: Views) -> Tensor:
        """How likely each length is the shortest sufficient one, `(B, lengths)`, on the CPU."""
        probabilities = self.assigner(views.clips).float().softmax(dim=1).cpu()
        return probabilities if self.per_view else mean_by_video(probabilities, views.videos)

    def choose(self, views: Views) -> Tensor:
        self.answer = self.probabilities(views)
        return pick_lengths(self.answer, self.threshold)


class Cascade(Policy):
    """Reads the shortest length first and goes on while it is unsure; every pass is paid for.

    The clips that go on in a DVT take with them what was made of them so far: nothing is computed twice.
    They do not wait for those of later batches, since that state is large: for a TimeSformer at 10x10, 47 MB
    a clip.

    Args:
        threshold: the largest class probability at which a clip stops, or one for each length, longest first.
            At the longest every clip stops.
    """

    def __init__(
        self, model: ResizableModel, gmacs: Sequence[float], threshold: float | Sequence[float], **run: object
    ) -> None:
        super().__init__(model, gmacs, **run)  # type: ignore[arg-type]
        each = [threshold] * len(gmacs) if isinstance(threshold, int | float) else threshold
        self.thresholds = [0.0, *each[1:]]
        self.paid = model.exit_costs(gmacs)

    def choose(self, views: Views) -> Tensor:
        return torch.full((len(views.clips),), len(self.gmacs) - 1)

    @torch.inference_mode()
    def submit(self, views: Views) -> list[Prediction]:
        if self.model.carries_state:
            batches = zip(views.clips.split(self.batch_size), views.rows.split(self.batch_size), strict=True)
            return [part for clips, rows in batches for part in self._through_stages(clips, rows)]
        groups = self.buckets.add(views.clips, views.rows, self.choose(views))
        return list(self._settle(groups))

    @torch.inference_mode()
    def flush(self) -> list[Prediction]:
        done: list[Prediction] = []
        while len(self.buckets):  # an unsure clip joins the queue of the next longer length
            done += self._settle(self.buckets.flush())
        return done

    def _settle(self, groups: Iterable[Group]) -> Iterator[Prediction]:
        for group in groups:
            sure = self._sure(group.logits, group.i)
            here = sure.to(group.rows.device)
            if here.any():
                yield self._finish(Group(group.i, group.rows[here], group.clips[:0], group.logits[sure]))
            if not sure.all():
                onward = torch.full((int((~here).sum()),), group.i - 1)
                yield from self._settle(self.buckets.add(group.clips[~sure], group.rows[~here], onward))

    def _through_stages(self, clips: Tensor, rows: Tensor) -> Iterator[Prediction]:
        state = NO_STATE
        for i in reversed(range(len(self.gmacs))):
            logits, state = logits_at_next(self.model, clips, i, state)
            sure = self._sure(logits, i)
            here = sure.to(rows.device)
            if here.any():
                yield self._finish(Group(i, rows[here], clips[:0], logits[sure]))
            if here.all():
                return
            clips, rows, state = clips[~sure], rows[~here], state.of(~sure)

    def _sure(self, logits: Tensor, i: int) -> Tensor:
        """Which clips stop at length `i`, `(B,)`."""
        return logits.softmax(dim=1).amax(dim=1) >= self.thresholds[i]

    def _finish(self, group: Group) -> Prediction:
        count = len(group.rows)
        cost = torch.full((count,), self.paid[group.i], dtype=torch.float64)
        return Prediction(group.rows, group.logits, torch.full((count,), group.i), cost)


class Random(Policy):
    """Lengths drawn at random in a given mix: what an assigner must beat.

    Args:
        mix: share of each length, longest first.
    """

    def __init__(
        self,
        model: ResizableModel,
        gmacs: Sequence[float],
        mix: Sequence[float],
        seed: int = 0,
        **run: object,
    ) -> None:
        super().__init__(model, gmacs, **run)  # type: ignore[arg-type]
        self.mix = torch.tensor(mix, dtype=torch.float)
        self.generator = torch.Generator().manual_seed(seed)

    def choose(self, views: Views) -> Tensor:
        _, video = views.videos.unique(return_inverse=True)
        drawn = torch.multinomial(self.mix, int(video.max()) + 1, replacement=True, generator=self.generator)
        return drawn[video]


class Oracle(Policy):
    """The true token-length labels, without the cost of knowing them: what an assigner could reach."""

    def choose(self, views: Views) -> Tensor:
        if views.truth is None:
            raise ValueError("the oracle needs the true token lengths of the clips")
        return views.truth


def with_shorter(gmacs: Sequence[float]) -> list[float]:
    """Each length's cost, and that of all shorter ones, longest first."""
    return [sum(gmacs[i:]) for i in range(len(gmacs))]


def pick_lengths(probabilities: Tensor, threshold: float | None) -> Tensor:
    """Position of each clip's length, `(B,)`, from the assigner's probabilities `(B, lengths)`.

    With a threshold: the shortest length that suffices with at least this probability, which is the
    sum of the probabilities of it and of all shorter ones. Without: the most probable length.
    """
    if threshold is None:
        return probabilities.argmax(dim=1)
    suffices = probabilities.flip(1).cumsum(dim=1).flip(1)
    suffices[:, 0] = torch.inf  # the longest is always enough, whatever rounding says of the sum
    return suffices.shape[1] - 1 - (suffices >= threshold).flip(1).int().argmax(dim=1)


def mean_by_video(values: Tensor, videos: Tensor) -> Tensor:
    """Replaces each clip's row of `values` `(B, K)` by the mean over the clips of its video `(B,)`."""
    _, video, counts = videos.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, video, values)
    return (sums / counts.unsqueeze(1))[video]
