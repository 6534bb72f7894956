"""What every key means: the comments in `defaults.py`, which are the only place where it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from revit_video.config import defaults
from revit_video.config.rules import get

_LINE = re.compile(
    r"# ---- (?P<title>.+?) -+$|_C\.(?P<key>[\w.]+) = .*?(?:  # (?P<comment>.*))?$|#   (?P<more>.*)$"
)


class KeyEntry(NamedTuple):
    """A key, its default and its meaning; or with `name` empty, the title of a section."""

    name: str
    default: Any
    meaning: str


def key_entries() -> Iterator[KeyEntry]:
    """All keys in the order of the defaults, after the titles of their sections."""
    cfg = defaults.get_cfg()
    for name, comment in _comments(Path(defaults.__file__).read_text(encoding="utf-8")):
        default = get(cfg, name) if name else None
        if not isinstance(default, CfgNode):
            yield KeyEntry(name, default, comment)


def _comments(source: str) -> list[tuple[str, str]]:
    """("", title) for a section, (key, comment) for a key or a group."""
    found: list[tuple[str, str]] = []
    for line in source.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        if match["title"]:
            found.append(("", match["title"]))
        elif match["key"]:
            found.append((match["key"], match["comment"] or ""))
        else:
            key, comment = found.pop()
            found.append((key, f"{comment} {match['more']}"))
    return found
