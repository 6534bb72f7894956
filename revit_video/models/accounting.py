"""What became of every weight that a model started from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Report:
    """The fate of every weight; `str()` is a few lines."""

    source: str
    notes: tuple[str, ...] = ()
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {
            verb: Counter() for verb in ("copied", "resampled", "initialised", "ignored")
        }
    )

    def add(self, verb: str, name: str, remark: str = "") -> None:
        """`verb` is `copied`, `resampled`, `initialised` or `ignored`; `remark` says from what, or why."""
        parts = name.split(".")
        group = parts[0]
        if group == "blocks":
            group = f"blocks.*.{parts[2]}"
        elif group in ("patch_embed", "pos_embed") and len(parts) > 1:
            group = ".".join(parts[:2])
        self.counts[verb][f"{group} ({remark})" if remark else group] += 1

    def __str__(self) -> str:
        lines = [f"weights of {self.source}"]
        for verb, groups in self.counts.items():
            if groups:
                lines.append(f"  {verb} {groups.total()}: {', '.join(groups)}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def patterns(names: Iterable[str], most: int = 8) -> str:
    """`blocks.*.ls1.gamma (12), norm_pre.bias`: names, those of all blocks in one."""
    counts = Counter(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names)
    shown = [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
    more = [f"{len(shown) - most} more"] if len(shown) > most else []
    return ", ".join(shown[:most] + more) or "nothing"
