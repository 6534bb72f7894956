"""A real browser for tests: Debian's chromium through playwright, with axe-core's checks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = 390, 1280  # pixels
THEMES = ("light", "dark")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser; skips the test, with the reason, where there is none."""
    if CHROMIUM is None:
        pytest.skip("no browser: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[test]'")
    pytest.importorskip("axe_playwright_python", reason="no axe-core: pip install '.[test]'")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(started: Any, address: str, width: int = DESK, theme: str = "light") -> Any:
    """A page, in which an error of a script or a request to another machine fails the test."""
    page = started.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: _note_foreign(page, request.url))
    page.goto(address)
    return page


def _note_foreign(page: Any, address: str) -> None:
    if not address.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
        page.problems.append(f"asks for {address}")


def assert_sound(page: Any) -> None:
    """Nothing is wider than the window; axe-core, the scripts and the requests show no fault."""
    from axe_playwright_python.sync_playwright import Axe

    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"], f"{width} px wide"
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.problems == []
