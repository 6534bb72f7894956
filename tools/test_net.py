"""Tests every policy on the test list and draws the report."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("test")
