"""Class names in pictures: fonts that have their characters, and labels short enough for an axis."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib import ft2font
from matplotlib.font_manager import findfont, fontManager

from revit_video.runtime.text import printable, shortened

FONT = "DejaVu Sans"  # comes with matplotlib
PLACEHOLDERS = "Last Resort"  # a font of boxes for every character
COLUMNS = 24  # of a label
# Older matplotlib draws characters in the order in which they are stored, each in its isolated form.
WRITES_RIGHT_TO_LEFT = hasattr(ft2font, "__libraqm_version__")


def families(names: Iterable[str]) -> list[str]:
    """Font families for `names`: `FONT`, then installed ones that have the characters it lacks."""
    chosen = [FONT]
    missing = _drawn("".join(names)) - _characters(findfont(FONT))
    for font in fontManager.ttflist if missing else ():
        if (
            font.style == "normal"
            and font.weight in (400, "normal")
            and not font.name.startswith(PLACEHOLDERS)
        ):
            found = missing & _characters(font.fname)
            if found:
                chosen.append(font.name)
                missing = missing - found
    return chosen


def axis_labels(names: Sequence[str]) -> list[str]:
    """A label for each class: its name, shortened; `class 7` where no installed font can show it.

    Names that are the same when shortened get the class label in front.
    """
    characters = frozenset[str]().union(*(_characters(findfont(name)) for name in families(names)))
    labels = [shortened(printable(name), COLUMNS) for name in names]
    return [
        f"class {n}"
        if not _can_be_drawn(label, characters)
        else label
        if labels.count(label) == 1
        else f"{n}: {label}"
        for n, label in enumerate(labels)
    ]


def _can_be_drawn(text: str, characters: frozenset[str]) -> bool:
    if not WRITES_RIGHT_TO_LEFT and any(unicodedata.bidirectional(c) in ("R", "AL") for c in text):
        return False
    return _drawn(text) <= characters


def _drawn(text: str) -> frozenset[str]:
    """The characters of `text` that a font must have; joiners and variation selectors shape others."""
    return frozenset(
        c for c in printable(text) if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f"
    )


@cache
def _characters(path: str) -> frozenset[str]:
    """All that the font file at `path` has."""
    return frozenset(map(chr, ft2font.FT2Font(path).get_charmap()))
