"""What a run is about to work on, in a few lines of its log."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.folders import DataFolder
from revit_video.data.lists import labelled_files
from revit_video.from_cfg.overlaps import groups_in

SIDES = {"left": "right", "right": "left"}
MOST_NAMED = 12  # classes whose clips are counted one by one
FEW = 4  # clips of a class to learn from, below which that is said

logger = logging.getLogger(__name__)


def say_lists(cfg: CfgNode, data: DataFolder, splits: Sequence[str]) -> None:
    """Logs the clips of each list, by class, and their groups; warns of classes that are hard to learn.

    Those are classes of few clips, and classes that mirror images mix up.
    """
    for split in splits:
        logger.info("%s: %s", split, _in_words(cfg, data, data.videos(split)))
    if "train" in splits:
        counts = _counts(data.videos("train"))
        few = [name for n, name in enumerate(data.shown_names) if counts[n] < FEW]
        if few:
            shown = ", ".join(few[:MOST_NAMED]) + (" …" if len(few) > MOST_NAMED else "")
            logger.warning("train: fewer than %d clips of %s; expect little of them", FEW, shown)
        if cfg.DATA.RANDOM_FLIP and (pair := mirrored(data.shown_names)):
            logger.warning(
                "classes %s and %s: training sees mirror images under the same name (DATA.RANDOM_FLIP True); "
                "if left and right tell them apart, give DATA.RANDOM_FLIP False",
                *pair,
            )


def mirrored(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two classes whose names differ by left and right; None if there are none."""
    known = {name.lower(): name for name in names}
    for name in names:
        other = re.sub("left|right", lambda side: SIDES[side[0]], name.lower())
        if other != name.lower() and other in known:
            return name, known[other]
    return None


def _in_words(cfg: CfgNode, data: DataFolder, videos: LabeledVideoPaths) -> str:
    """`36 clips in 6 groups: handshake 6, hug 6, …`."""
    words, counts = f"{len(videos):,} clips", _counts(videos)
    if cfg.DATA.GROUP:
        groups = groups_in(cfg, [path for path, _ in labelled_files(videos)])
        words += f" in {len(set(groups)):,} groups"
    names = data.shown_names
    if len(names) <= MOST_NAMED:
        return f"{words}: " + ", ".join(f"{name} {counts[n]}" for n, name in enumerate(names))
    per_class = [counts[n] for n in range(len(names))]
    return f"{words} of {len(names):,} classes, {min(per_class):,} to {max(per_class):,} of each"


def _counts(videos: LabeledVideoPaths) -> Counter[int]:
    labels = (label for _, label in labelled_files(videos))
    return Counter(n for label in labels for n in (label if isinstance(label, tuple) else (label,)))
