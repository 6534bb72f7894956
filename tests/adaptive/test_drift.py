"""The guard is silent on videos like those of the validation list, and finds others soon."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from revit_video.adaptive.drift import ALARMS, BLOCK, Seen, Watch, same_distribution, same_mix
from revit_video.adaptive.policies import Settings
from revit_video.meters import VideoScores

Stream = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def stream(count: int, generator: torch.Generator, hard: float = 0.2, disagree: float = 0.3) -> Stream:
    """Confidence, length and agreement of `count` videos, a share of which is hard: long and unsure.

    Lengths disagree on a share of the hard ones.
    """
    is_hard = torch.rand(count, generator=generator) < hard
    draws = torch.rand(count, generator=generator)
    confidence = torch.where(is_hard, 0.4 + 0.5 * draws, 0.9 + 0.1 * draws)
    agreed = ~is_hard | (torch.rand(count, generator=generator) >= disagree)
    return confidence, torch.where(is_hard & (draws < 0.7), 0, torch.where(is_hard, 1, 2)), agreed


def reference(generator: torch.Generator, count: int) -> Seen:
    confidence, length, agreed = stream(count, generator)
    scores = torch.stack([confidence, 1 - confidence], dim=1)
    videos = VideoScores(scores, torch.zeros(count, dtype=torch.long), torch.arange(count))
    return Seen.of(videos, length, agreed, 3)


def alarm(watch: Watch, videos: Stream) -> int | None:
    """Videos until the first alarm."""
    for n, video in enumerate(zip(*(each.tolist() for each in videos), strict=True), 1):
        if watch.see(*video):
            return n
    return None


@pytest.mark.parametrize("count", [150, 2400])
def test_false_alarms_are_rare(count: int) -> None:
    """At most in 5 % of 300 streams of 1,000 videos, each against another draw of the validation list."""
    generator = torch.Generator().manual_seed(count)
    alarms = [alarm(Watch(reference(generator, count)), stream(1000, generator)) for _ in range(300)]
    assert sum(found is not None for found in alarms) <= ALARMS * 300


def test_drift_is_found_within_200_videos() -> None:
    """From the first video on, and after 2,000 videos like those of the list."""
    generator = torch.Generator().manual_seed(1)
    before = reference(generator, 600)
    found = [alarm(Watch(before), stream(200, generator, hard=0.45)) for _ in range(100)]
    assert sum(n is not None for n in found) >= 98
    watch = Watch(before)
    assert alarm(watch, stream(2000, generator)) is None
    assert alarm(watch, stream(200, generator, hard=0.6)) in (BLOCK, 2 * BLOCK)


def test_lengths_that_disagree_more_often_are_a_drift() -> None:
    """Where nothing else differs; statistics of earlier versions do not know it."""
    generator = torch.Generator().manual_seed(3)
    before = reference(generator, 2400)
    videos = stream(200, generator, disagree=1.0)
    assert alarm(Watch(before), videos) in (BLOCK, 2 * BLOCK)
    assert alarm(Watch(replace(before, disagreed=None)), videos) is None


def test_what_earlier_versions_saw_stays_as_it_is() -> None:
    """A model of theirs has the settings of its assigner, so that a test need not warn of other ones."""
    kept = {"seen": {"videos": 3, "confidence": [0.5, 0.9], "lengths": [1, 2]}}
    assert Settings.of(kept).to_dict() == kept


def test_it_warns_once_and_says_what_differs() -> None:
    generator = torch.Generator().manual_seed(2)
    watch = Watch(reference(generator, 600))
    videos = zip(*(each.tolist() for each in stream(300, generator, hard=1.0)), strict=True)
    words = [text for video in videos if (text := watch.see(*video))]
    assert len(words) == 1
    assert "the last 100 videos are not like the validation list: mean confidence 0.6" in words[0]
    assert re.search(r"lengths disagree on [23]\d % \(there \d %\)", words[0])


def test_p_values() -> None:
    """Equal samples: 1. The critical values of tables: D = 1.358 sqrt(2 / n), and 3.841 for 2 x 2 counts."""
    values = [n / 200 for n in range(200)]
    assert same_distribution(values, values, 200) == 1
    shifted = [value + 0.1349 for value in values]  # D = 0.135
    assert same_distribution(values, shifted, 200) == pytest.approx(0.05, abs=0.005)
    assert same_mix([50, 50], [500, 500]) == 1 and same_mix([100, 0], [1000, 0]) == 1
    assert same_mix([50, 50], [50 + 13, 50 - 13]) == pytest.approx(0.0630, abs=1e-3)
