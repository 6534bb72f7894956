"""Names that others chose (classes, files), as one line that can be shown anywhere."""

from __future__ import annotations

import re
import unicodedata

# Characters that end a line, steer a terminal or turn the direction of what follows.
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """`text` with control characters as their escapes (`\\n`, `\\x1b`), so that it is one harmless line."""
    return "".join(_escaped(c) if _is_unseen(c) else c for c in text)


def printable_lines(text: str) -> str:
    """`printable`, but for our own line breaks, which two spaces follow: no name of others forges a line."""
    return "\n".join(map(printable, re.split(r"\n(?=  )", text)))


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN or character in _TURNS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """Of an error's message; the error's name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def time_in_words(seconds: float) -> str:
    """`40 s`, `12 minutes` or `3.5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def shortened(text: str, columns: int) -> str:
    """`text`, of which the middle is left out where it is wider than `columns`; a CJK character takes two."""
    if sum(map(_width, text)) <= columns:
        return text
    room = columns - 1
    head = _fitting(text, (room + 1) // 2)
    tail = _fitting(text[::-1], room // 2)[::-1]
    return f"{head}…{tail}"


def _fitting(text: str, columns: int) -> str:
    used = 0
    for n, character in enumerate(text):
        used += _width(character)
        if used > columns:
            return text[:n]
    return text


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
