"""Trains the Token-Length Assigner on mined labels and chooses its threshold."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("assign")
