"""Counts multiply-accumulates and parameters at every token length; writes flops.json to OUTPUT_DIR."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("flops")
