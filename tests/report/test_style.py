"""Colours that can be told apart from their ground and from each other, also without red-green vision."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from revit_video.length import token_lengths
from revit_video.report.style import POLICIES, THEMES, inline_svg, length_colours

# Linear RGB as seen by deuteranopes (Machado, Oliveira and Fernandes, 2009).
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """As WCAG has it."""
    dark, light = sorted(float(linear(colour) @ TO_XYZ[1]) for colour in (first, second))
    return (light + 0.05) / (dark + 0.05)


def difference(first: str, second: str) -> float:
    """Delta E 1976 under deuteranopia."""
    labs = []
    for colour in (first, second):
        x, y, z = np.cbrt(TO_XYZ @ np.clip(DEUTERANOPIA @ linear(colour), 1e-3, 1) / [0.9505, 1, 1.089])
        labs.append(np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)]))
    return float(np.linalg.norm(labs[0] - labs[1]))


@pytest.mark.parametrize("dark", [False, True])
def test_marks_and_text_stand_out(dark: bool) -> None:
    paper = THEMES["paper"][dark]
    for count in (2, 3, 4):
        lengths = token_lengths([f"{n}x{n}" for n in range(count + 1, 1, -1)])
        assert min(contrast(colour, paper) for colour in length_colours(lengths, dark)) >= 3
    assert min(contrast(THEMES[name][dark], paper) for name in POLICIES) >= 3
    assert min(contrast(THEMES[name][dark], paper) for name in ("ink", "muted")) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_colours_of_one_chart_differ_without_red_green_vision(dark: bool) -> None:
    marks = [THEMES[name][dark] for name in ("ink", *POLICIES)]
    assert min(difference(*pair) for pair in combinations(marks, 2)) >= 20
    for count in (2, 3):
        lengths = token_lengths([f"{n}x{n}" for n in range(count + 1, 1, -1)])
        assert min(difference(*pair) for pair in pairwise(length_colours(lengths, dark))) >= 20


def test_a_chart_takes_the_colours_of_the_page_and_keeps_its_text() -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots().set_title('<script>alert("#1f2933")</script>', color=THEMES["ink"][0])
    svg = inline_svg(figure, "name", THEMES)
    assert "<script" not in svg and "&lt;script&gt;" in svg
    assert "fill: var(--ink)" in svg and "#1f2933)" not in svg.replace('"#1f2933")', "")
    assert "font-family" not in svg and 'id="name-axes_1"' in svg
