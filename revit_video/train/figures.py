"""Metrics of the iterations, which stay on the device until somebody wants to see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.runtime.ranks import Ranks

MOST_NAMED = 8  # clips in an error message


class NonFiniteLoss(ValueError):
    """The loss or a gradient is infinite or NaN; the weights were not updated by it."""


class _Iteration(NamedTuple):
    batch: int
    clips: Sequence[str]
    own: Tensor  # this rank's metrics
    means: Tensor  # over the ranks, and the norm of the gradients


class Figures:
    """Metrics of the iterations since they were last read.

    Args:
        at_once: read in every iteration, since the optimiser cannot leave out a bad step by itself.

    Attributes:
        due: whether this iteration's must be read. The first one's always, because PyTorch's fused SGD does
            not initialise its momentum in a step that is left out.
        last_is_bad: 1 if a metric or the norm of the gradients is not finite, else 0; on the device.
    """

    def __init__(self, ranks: Ranks, at_once: bool) -> None:
        self._ranks, self._at_once = ranks, at_once
        self._names: list[str] = []
        self._kept: list[_Iteration] = []
        self.due = True
        self.last_is_bad = torch.zeros((), device=ranks.device)

    def add(
        self, batch: int, clips: Sequence[str], metrics: dict[str, Tensor], norm: Tensor
    ) -> dict[str, Tensor]:
        """Keep an iteration's metrics; returns the mean of each over the ranks.

        Args:
            clips: names of this rank's clips.
            metrics: this rank's.
            norm: of the gradients, which is the same on all ranks.
        """
        self._names = [*metrics, "grad_norm"]
        own = torch.stack([value.float() for value in (*metrics.values(), norm)])
        means = self._ranks.sum(own) / self._ranks.world_size
        self.last_is_bad = means.isfinite().all().logical_not().float()
        self._kept.append(_Iteration(batch, clips, own[:-1], means))
        return dict(zip(self._names, means, strict=True))

    def read(self, title: str) -> dict[str, float]:
        """The means of the last iteration's metrics, and `grad_norm`. The host waits for the device.

        Raises:
            NonFiniteLoss: on all ranks, for the first bad iteration since the last call.
        """
        kept, self._kept, self.due = self._kept, [], self._at_once
        values: dict[str, float] = {}
        for iteration, means in zip(kept, torch.stack([each.means for each in kept]).tolist(), strict=True):
            values = dict(zip(self._names, means, strict=True))
            if not all(map(math.isfinite, means)):
                raise _non_finite(f"{title}, iteration {iteration.batch}", values, iteration, self._ranks)
        return values


def _non_finite(place: str, values: dict[str, float], iteration: _Iteration, ranks: Ranks) -> NonFiniteLoss:
    """An error that names the clips of the ranks with a non-finite loss, or of all ranks if none has one."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    is_bad = not bool(iteration.own.isfinite().all())
    shares = ranks.gather((is_bad, list(iteration.clips)))
    worst = [share for share in shares if share[0]] or shares
    clips = list(dict.fromkeys(name for _, share in worst for name in share))
    shown = ", ".join(clips[:MOST_NAMED])
    if len(clips) > MOST_NAMED:
        shown += f" and {len(clips) - MOST_NAMED} more"
    return NonFiniteLoss(
        f"{place}: {', '.join(bad)} not finite{' on ' if clips else ''}{shown}; "
        "lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENT"
    )
