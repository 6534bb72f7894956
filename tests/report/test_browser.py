"""The report in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revit_video.report import write_report
from tests.browser import DESK, PHONE, THEMES, assert_sound, browser, opened


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def address(chromium: Any, finished_run: Path) -> str:
    return f"file://{write_report(str(finished_run))}"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_narrow_or_wide_light_or_dark(chromium: Any, address: str, width: int, theme: str) -> None:
    page = opened(chromium, address, width, theme)
    assert_sound(page)
    for details in page.locator("details").all()[:3] + page.locator("section > details").all():
        details.locator("summary").click()
    assert_sound(page)
    page.close()


def test_text_of_charts_can_be_read_on_a_phone(chromium: Any, address: str) -> None:
    page = opened(chromium, address, PHONE)
    sizes = page.evaluate(
        "[...document.querySelectorAll('.charts svg text')].map(text => parseFloat(getComputedStyle(text)"
        ".fontSize) * text.ownerSVGElement.getBoundingClientRect().width"
        " / text.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert len(sizes) > 50 and min(sizes) >= 8.4
    page.close()


def test_the_sliders_figures_are_those_of_the_results(
    chromium: Any, address: str, finished_run: Path
) -> None:
    results = json.loads((finished_run / "results.json").read_text())
    curve = sorted(results["curves"]["hybrid"], key=lambda point: point["gmacs"])
    page = opened(chromium, address)
    slider = page.get_by_label("From cheap to accurate")
    longest = results["static"]["6x6"]
    shown = lambda name: page.locator(f"dd[data-point={name}]").inner_text()  # noqa: E731
    for place in (0, 7, len(curve) - 1):
        slider.fill(str(place))
        point = curve[place]
        assert shown("top1").startswith(f"{point['top1']:.1f} %")
        assert shown("cost").startswith(f"{1000 * point['gmacs']:.1f} MMACs")
        assert f"{100 * point['gmacs'] / longest['gmacs']:.0f} % of 6x6" in shown("cost")
        points = float(re.match(r"[+−][\d.]+", shown("points"))[0].replace("−", "-"))  # type: ignore[index]
        assert points == pytest.approx(point["top1"] - longest["top1"], abs=0.051)
        longer = 100 * point["mix"][0]
        assert shown("mix") == f"6x6 {longer:.0f} %, 4x4 0 %, 3x3 {100 - longer:.0f} %"
        share = float(page.locator("span[data-point=policy]").inner_text().removeprefix("budget="))
        assert point["gmacs"] / longest["gmacs"] <= share + 1e-9 <= point["gmacs"] / longest["gmacs"] + 0.011
        # The ring is where the chart has this point: right of the ring of a cheaper one.
        ring = page.locator("#at").bounding_box()
        chart = page.locator("svg:has(#at)").bounding_box()
        assert chart["x"] < ring["x"] and ring["x"] + ring["width"] < chart["x"] + chart["width"]
    assert page.locator("#at").get_attribute("cx") != "-99" and not page.problems
    page.close()


def test_clips_play(chromium: Any, address: str) -> None:
    page = opened(chromium, address)
    assert len(Path(address.removeprefix("file://")).read_bytes()) < 7_000_000
    card = page.locator(".card", has=page.locator("video")).first
    card.locator("summary").click()
    page.wait_for_function("document.querySelector('.card details[open] video').currentTime > 0.1")
    page.close()
