"""What the figures of a small test can bear: floors, intervals, and what to do next, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from fvcore.common.config import CfgNode

from revit_video.adaptive.policies import SHIPPED
from revit_video.adaptive.table import Table
from revit_video.evaluate import Answers
from revit_video.meters import drop_with_margin, interval

SMALL = 1000  # tested videos; with more, chance and intervals are no question
PAYS = 2.0  # points that twice the clips must promise to be recommended


def verdict(
    cfg: CfgNode, table: Table, answers: Mapping[str, Answers], curve: Mapping[int, float]
) -> list[str]:
    """Sentences for the page, where few videos were tested; none where videos have several labels.

    Args:
        curve: top-1 in percent by the number of clips that were learned from; perhaps empty.
    """
    longest = table.videos_at(torch.zeros_like(table.rows)).correct
    if table.multi_label or len(longest) >= SMALL:
        return []
    low, high = interval(int(longest.sum()), len(longest))
    largest = 100 * int(table.labels[table.first_views].bincount().max()) / len(longest)
    words = (
        f"the longest length's top-1 lies between {low:.0f} and {high:.0f} % (95 % confidence), "
        f"chance is {100 / cfg.MODEL.NUM_CLASSES:.1f} %, always the largest class {largest:.1f} %"
    )
    if cfg.DATA.FOLDS:
        seen = "by heads and thresholds that have not seen its fold"
        words = f"each of the {len(longest)} videos was answered {seen}; {words}"
    if low <= max(largest, 100 / cfg.MODEL.NUM_CLASSES):
        return [
            words,
            "this model has not learned: always naming the largest class may be as good",
            "recommendation: do not use it; look at the labels and at some clips, and collect more of them",
        ]
    found = [words]
    more = ""
    if len(curve) > 1:
        twice = extrapolated(curve)
        steps = ", ".join(f"{top1:.0f} % from {clips}" for clips, top1 in curve.items())
        found.append(f"learning curve: {steps} clips; twice as many may give {twice:.0f} %")
        gain = twice - list(curve.values())[-1]
        more = "; more clips pay" if gain >= PAYS else "; more clips of the same kind promise little"
    return [*found, f"recommendation: {_use(answers, longest)}{more}"]


def _use(answers: Mapping[str, Answers], longest: torch.Tensor) -> str:
    """Which policy to use, with its interval against always the longest length."""
    name = next((name for name in SHIPPED if name in answers), None)
    if name is None:
        return "use it as it is"
    drop, half = drop_with_margin(longest.double() - answers[name].videos.correct.double())
    if drop > half:
        return f"use always the longest length (predict --policy longest): {name} loses {drop:.1f} points"
    range_of = f"{-drop - half:+.1f} to {half - drop:+.1f}"
    return f"use it as it is; {name} is at {0 - drop:+.1f} points ({range_of}) to always the longest length"


def extrapolated(curve: Mapping[int, float]) -> float:
    """Top-1 in percent with twice the most clips: the error as a power of their number, by least squares."""
    clips = torch.tensor(list(curve), dtype=torch.float64).log()
    errors = (100 - torch.tensor(list(curve.values()), dtype=torch.float64)).clamp(min=0.5).log()
    centred = clips - clips.mean()
    slope = ((centred * errors).sum() / centred.square().sum()).item()
    return 100 - math.exp(errors[-1].item() + min(0.0, slope) * math.log(2))
