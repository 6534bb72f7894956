"""Classifies videos or images, each at the token length chosen by the assigner."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("predict")
