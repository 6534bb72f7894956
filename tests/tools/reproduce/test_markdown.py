"""Markdown that is aligned as plain text."""

from __future__ import annotations

import pytest
from reproduce.markdown import duration, markdown_table


def test_columns_are_aligned() -> None:
    table = markdown_table(["a", "number"], [["long name", "1"], ["b", "22.5 ± 0.1"]])
    assert len({len(line) for line in table.splitlines()}) == 1
    assert table.splitlines()[2] == "| long name |          1 |"


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (700, "12 min"), (11_100, "3 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
