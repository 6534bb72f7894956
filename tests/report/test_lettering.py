"""Class names as labels in pictures."""

from __future__ import annotations

import pytest
from matplotlib.font_manager import findfont

from revit_video.report import lettering
from revit_video.report.lettering import FONT, axis_labels, families


def test_names_that_look_alike_when_shortened_are_told_apart() -> None:
    long = ["a" * 200 + middle + "z" * 100 for middle in "bc"]
    assert axis_labels([*long, "short"]) == [f"{n}: aaaaaaaaaaaa…zzzzzzzzzzz" for n in (0, 1)] + ["short"]


def test_a_class_is_numbered_where_no_font_can_show_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = lettering._characters(findfont(FONT))
    monkeypatch.setattr(lettering, "_characters", lambda path: known)  # whatever is installed
    assert "走" not in known
    assert axis_labels(["left", "走る", "naïve"]) == ["left", "class 1", "naïve"]


def test_an_installed_font_is_found_that_has_the_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    known = lettering._characters(findfont(FONT))
    elsewhere = findfont("DejaVu Serif")
    monkeypatch.setattr(
        lettering, "_characters", lambda path: known | set("走る") if path == elsewhere else known
    )
    assert families(["left", "$"]) == [FONT]
    assert families(["left", "走る"]) == [FONT, "DejaVu Serif"]
    assert axis_labels(["left", "走る"]) == ["left", "走る"]


@pytest.mark.parametrize("shapes", [True, False])
def test_right_to_left_needs_shaping(monkeypatch: pytest.MonkeyPatch, shapes: bool) -> None:
    monkeypatch.setattr(lettering, "WRITES_RIGHT_TO_LEFT", shapes)
    assert axis_labels(["up", "שלום"]) == ["up", "שלום" if shapes else "class 1"]
