"""Certificates hold as often as they say, on new draws of lists."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from revit_video.adaptive import calibrate, certificate, temperatures
from revit_video.adaptive.calibrate import Point
from revit_video.adaptive.certificate import Trial, certified, p_value, run_trials, videos_needed
from revit_video.adaptive.policies import Costs
from tests.tables import table_of_scores


def point(drop: float = 0.0, error: float = 0.0) -> Point:
    return Point(threshold=0.5, top1=90 - drop, gmacs=1.0, drop=drop, error=error, mix=[])


@pytest.fixture
def each_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of lists, many have the same counts; their p-value is computed once."""

    @cache
    def of_counts(videos: int, lost: int, gained: int, max_drop: float, slack: float) -> float:
        return p_value(Trial(point(), videos, lost, gained), max_drop, slack)

    def of_trial(trial: Trial, max_drop: float, slack: float) -> float:
        return of_counts(trial.videos, trial.lost, trial.gained, max_drop, slack)

    monkeypatch.setattr(certificate, "p_value", of_trial)


def test_without_differences_it_is_the_probability_of_seeing_none() -> None:
    """Of 100 videos, each lost with probability 3 %; the bound is spent on the share that differs."""
    value = p_value(Trial(point(), 100, 0, 0), 0.03, slack=0.005)
    assert value >= 0.97**100
    assert p_value(Trial(point(), 1000, 0, 0), 0.03, slack=0.005) == pytest.approx(0.005, abs=1e-6)


def test_only_losses_make_it_a_binomial_test() -> None:
    """With the share that differs known (nothing is gained): P(at most 2 of 50 are lost), at 20 % each."""
    expected = sum(math.comb(50, k) * 0.2**k * 0.8 ** (50 - k) for k in range(3))
    assert p_value(Trial(point(), 50, 2, 0), 0.2, slack=0.2) == pytest.approx(expected + 0.2, abs=1e-9)


@pytest.mark.usefixtures("each_count_once")
@pytest.mark.parametrize(("drop", "differ"), [(0.01, 0.01), (0.01, 0.05), (0.0, 0.1), (0.05, 0.3)])
def test_a_drop_at_the_limit_is_rarely_certified(drop: float, differ: float) -> None:
    """At most in 5 % of 1,000 lists of 200 videos."""
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([(differ + drop) / 2, (differ - drop) / 2, 1 - differ])
    draws = torch.multinomial(chances, 200 * 1000, replacement=True, generator=generator).view(1000, 200)
    found = [
        certified([Trial(point(), 200, lost, gained)], 100 * drop, 0.95)
        for lost, gained in zip(
            (draws == 0).sum(dim=1).tolist(), (draws == 1).sum(dim=1).tolist(), strict=True
        )
    ]
    assert sum(trial is not None for trial in found) <= 50


@pytest.mark.usefixtures("each_count_once")
def test_coverage_of_the_whole_choice() -> None:
    """Of 1,000 lists drawn from known candidates, the cheapest certified keeps its promise in 95 %."""
    generator = torch.Generator().manual_seed(1)
    drops = [-0.02, -0.01, 0.0, 0.008, 0.012, 0.02, 0.04]  # of ever cheaper candidates; 1 point is promised
    differ = [0.06 + drop for drop in (0.0, 0.0, 0.0, 0.008, 0.012, 0.02, 0.04)]
    broken = useful = 0
    for _ in range(1000):
        trials = []
        for drop, share in zip(drops, differ, strict=True):
            chances = torch.tensor([(share + drop) / 2, (share - drop) / 2, 1 - share])
            draws = torch.multinomial(chances, 300, replacement=True, generator=generator)
            lost, gained = int((draws == 0).sum()), int((draws == 1).sum())
            trials.append(Trial(point(100 * drop), 300, lost, gained))
        found = certified(trials, max_drop=1.0, confidence=0.95)
        broken += found is not None and found.point.drop > 1.0
        useful += found is not None
    assert broken <= 50 and useful > 100


@pytest.mark.usefixtures("each_count_once")
def test_coverage_of_resampled_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 lists of 200 videos that are drawn from 4,000, in 95 %: what is made and certified on the list
    loses no more on all 4,000 than was asked for."""
    monkeypatch.setattr(calibrate, "HYBRID_THRESHOLDS", calibrate.HYBRID_THRESHOLDS[::12])  # for speed
    monkeypatch.setattr(temperatures, "TEMPERATURES", temperatures.TEMPERATURES[::40])
    generator, max_drop, costs = torch.Generator().manual_seed(0), 6.0, Costs([4.0, 1.0])
    labels, hard = torch.randint(4, (4000,), generator=generator), torch.rand(4000, 1, generator=generator)
    true = F.one_hot(labels, 4)
    noise = 1.1 * torch.randn(4000, 2, 4, generator=generator)
    scores = (torch.stack([3 * true, (3 - 2.2 * hard) * true], dim=1) + noise).softmax(dim=2)
    every = table_of_scores(scores, labels, torch.arange(4000))
    longest = every.correct[:, 0].double().mean()
    broken = useful = 0
    for seed in range(1000):
        drawn = torch.randint(4000, (200,), generator=generator)
        listed = table_of_scores(scores[drawn], labels[drawn], torch.arange(200))
        found = certified(run_trials(listed, costs, per_view=False, seed=seed), max_drop, confidence=0.95)
        if found is not None and found.point.hybrid is not None:
            useful += 1
            top1 = every.follow(found.point.hybrid.policy()).videos.correct.double().mean()
            broken += 100 * (longest - top1).item() > max_drop
    assert broken <= 50 and useful > 100


def test_testing_ends_at_the_first_that_fails() -> None:
    good, bad = Trial(point(), 1000, 0, 0), Trial(point(), 1000, 100, 0)
    cheapest = Trial(point(), 1000, 0, 1)
    assert certified([good, cheapest, bad], 1.0, 0.95) is cheapest
    assert certified([good, bad, cheapest], 1.0, 0.95) is good
    assert certified([bad, good], 1.0, 0.95) is None and certified([], 1.0, 0.95) is None


def test_candidates_are_made_on_one_half_and_tested_on_the_other() -> None:
    """Views of a video stay together; the most accurate comes first, and none costs more than the longest."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(120, 1, 4, generator=generator)
    noise = torch.randn(120, 3, 4, generator=generator) * torch.tensor([0.3, 0.8, 1.2])[:, None]
    rows, labels = torch.arange(120) // 2, logits[::2, 0].argmax(dim=1).repeat_interleave(2)
    table = table_of_scores((2 * logits + 2 * noise).softmax(dim=2), labels, rows)
    trials = run_trials(table, Costs([8.0, 4.0, 1.0]), per_view=False)
    assert {trial.videos for trial in trials} == {30}
    top1 = [trial.point.top1 for trial in trials]
    assert top1 == sorted(top1, reverse=True) and all(trial.point.gmacs < 8 for trial in trials)


def test_the_list_that_would_do() -> None:
    """A standard deviation of 14 points, 0.5 below the limit: (1.645 + 0.842)^2 * 14^2 / 0.5^2, twice."""
    estimate = point(drop=0.0, error=14 / 10)
    assert videos_needed(estimate, 100, 0.5, 0.95) == pytest.approx(2 * (2.487 * 14 / 0.5) ** 2, rel=1e-3)
    assert videos_needed(point(drop=0.6, error=1.0), 100, 0.5, 0.95) is None
    assert videos_needed(point(), 100, 0.5, 0.95) == 101
