"""Names of others on one line."""

from __future__ import annotations

import pytest

from revit_video.runtime.text import printable, shortened


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("first\u2028second", "first\\u2028second"),
        ("\u202egpj.exe", "\\u202egpj.exe"),  # reads as exe.jpg on a terminal
        ("caf\udce9", "caf\\udce9"),  # a file name that is not UTF-8
        *(
            (name, name)
            for name in (
                "$x^2$",
                "走る 👩\u200d🚀",
                "שלום",
                "می\u200cروم",
                "naïve e\u0301",
                "<b>&amp;",
                "=A1",
            )
        ),
    ],
)
def test_nothing_steers_a_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown
    shown.encode()


def test_both_ends_of_a_long_name_are_kept() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefgh", 6) == "abc…gh"
    assert shortened("走走走走走走", 6) == "走…走"
    assert shortened("e\u0301" * 6, 6) == "e\u0301" * 6
