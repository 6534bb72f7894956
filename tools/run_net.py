"""Runs the stages that a config enables: train, mine labels, train the assigner, test."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("run")
