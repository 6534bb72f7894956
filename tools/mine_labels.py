"""Mines the token-length labels of a trained backbone."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("mine")
