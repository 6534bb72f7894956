"""What a page is filled with stays text."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from revit_video.runtime.html import rendered


def test_what_is_filled_in_is_escaped_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<a title="{{ text }}">{{ text }}</a>{{ text|bdi }}{{ part }}{{ many|lines }}'
    )
    page = rendered(
        tmp_path, "page.html", text='"<b>\n\x1b\u202e', part=Markup("<i></i>"), many="a: <\nb: \x07"
    )
    shown = "&#34;&lt;b&gt;\\n\\x1b\\u202e"
    assert page == f'<a title="{shown}">{shown}</a><bdi>{shown}</bdi><i></i>a: &lt;\nb: \\x07'


def test_a_value_that_is_not_given_is_no_empty_text(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("{{ unknown }}")
    with pytest.raises(UndefinedError, match="unknown"):
        rendered(tmp_path, "page.html")
