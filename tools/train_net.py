"""Trains the backbone at all token lengths."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("train")
