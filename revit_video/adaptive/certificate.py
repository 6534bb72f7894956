"""A bound on the drop that holds on new videos: which operating points of a list are certified.

The videos of the list are split at random. On one half the candidates are made and put in order, the most
accurate first; on the other they are tested in that order, and testing ends at the first that fails (Learn
then Test, Angelopoulos et al., 2021; Pareto testing, Laufer-Goldenshluger et al., 2023). With a probability
of at least `confidence` over the draw of the list, no point is certified whose drop on new videos of the
same kind exceeds the one asked for. Nothing is assumed but that all videos are drawn alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from revit_video.adaptive.calibrate import Point, hybrid_points
from revit_video.adaptive.policies import Costs
from revit_video.adaptive.table import Table
from revit_video.adaptive.temperatures import fit_temperatures
from revit_video.runtime.rng import seeded_generator

SLACK = 0.1  # share of the permitted error, spent on how often the policy and the longest length differ
POWER = 0.8  # with which `videos_needed` are enough
SHARES = 8  # of differing videos that are tried, from none to the most that SLACK leaves open


class Trial(NamedTuple):
    """A candidate made on one half of a list, and how it did on the other.

    Attributes:
        videos: number of those tested.
        lost, gained: videos that the longest length alone, and the candidate alone, classifies correctly.
    """

    point: Point
    videos: int
    lost: int
    gained: int


def run_trials(table: Table, costs: Costs, per_view: bool, seed: int = 0) -> list[Trial]:
    """Points of policy `hybrid` made on a random half of the videos and tested on the others.

    The most accurate comes first; none is dearer than the longest length.
    """
    _, video = table.rows.unique(return_inverse=True)
    order = torch.randperm(int(video.max()) + 1, generator=seeded_generator(seed))
    made_on = torch.zeros(len(order), dtype=torch.bool)
    made_on[order[: len(order) // 2]] = True
    if len(order) < 2:
        return []
    ours, theirs = table.only(made_on[video]), table.only(~made_on[video])
    points = hybrid_points(ours, costs, fit_temperatures(ours.scores, ours.labels), per_view)
    longest = theirs.videos_at(torch.zeros_like(theirs.rows)).correct
    trials = []
    for point in reversed(points):
        assert point.hybrid is not None
        if point.gmacs < costs.gmacs[0]:
            right = theirs.follow(point.hybrid.policy()).videos.correct
            lost, gained = int((longest & ~right).sum()), int((right & ~longest).sum())
            trials.append(Trial(point, len(right), lost, gained))
    return trials


def certified(trials: Sequence[Trial], max_drop: float, confidence: float) -> Trial | None:
    """The cheapest certified candidate, if any.

    Args:
        max_drop: points of top-1.
    """
    found = None
    for trial in trials:
        if p_value(trial, max_drop / 100, SLACK * (1 - confidence)) > 1 - confidence:
            break
        found = trial
    return found


def p_value(trial: Trial, max_drop: float, slack: float) -> float:
    """Largest probability of so small a loss if the true drop were larger than `max_drop` (a fraction).

    A video is lost, gained or neither, so the net loss is a sum of draws of 1, -1 and 0 whose mean is the
    drop. How often they are not 0 is unknown; the worst case up to an upper confidence bound is taken, and
    the bound's own error added (Berger and Boos, 1994).

    Args:
        slack: probability that the share of videos which differ is above the bound.
    """
    videos, net = trial.videos, trial.lost - trial.gained
    bound = max(_upper_share(trial.lost + trial.gained, videos, slack), max_drop)
    differ = torch.linspace(max_drop, bound, SHARES, dtype=torch.float64)[:, None]
    lose, gain = (differ + max_drop) / 2, (differ - max_drop) / 2
    # Distribution of the net loss + videos: the coefficients of (gain + (1 - differ) z + lose z^2)^videos.
    size = 1 << (2 * videos + 1).bit_length()
    angle = torch.arange(size, dtype=torch.float64) * (-2 * math.pi / size)
    z = torch.polar(torch.ones_like(angle), angle)
    density = torch.fft.ifft((gain + (1 - differ) * z + lose * z**2) ** videos).real
    return min(1.0, density[:, : net + videos + 1].sum(dim=1).max().item() + slack)


def _upper_share(count: int, total: int, error: float) -> float:
    """Upper confidence bound of a share seen `count` times in `total` (Clopper and Pearson, 1934)."""
    if count == total:
        return 1.0
    low, high = count / total, 1.0
    seen = torch.arange(count + 1, dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        draws = torch.distributions.Binomial(total, torch.tensor(middle, dtype=torch.float64))
        if draws.log_prob(seen).exp().sum().item() > error:
            low = middle
        else:
            high = middle
    return high


def videos_needed(point: Point, videos: int, max_drop: float, confidence: float) -> int | None:
    """About how many videos a list needs, if the drop of `point` is as estimated; None if no number would do.

    Enough to certify it in four draws of five.

    Args:
        videos: number of those on which `point` was estimated, and which were too few.
    """
    if point.drop >= max_drop:
        return None
    errors = 2 * torch.tensor([confidence, POWER], dtype=torch.float64) - 1
    quantiles = math.sqrt(2) * torch.erfinv(errors).sum().item()
    tested = (quantiles * point.error / (max_drop - point.drop)) ** 2 * videos
    return max(videos + 1, 2 * math.ceil(tested))
