"""Prints a YAML file of TimeSformer's or SlowFast's public code as one of this project."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("migrate")
