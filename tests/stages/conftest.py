"""Runs of stages compose every chart of their report, but do not render it, which takes most of the time."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from revit_video.report import page


@pytest.fixture(autouse=True)
def charts_are_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of each picture one of a pixel, and on the page none. The shared toy run's are whole."""
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "png")
    monkeypatch.setattr(page, "png", lambda figure: pixel.getvalue())
    monkeypatch.setattr(page, "inline_svg", lambda *_: "")
