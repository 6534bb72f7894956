"""Writes the report of a run again from the files in its OUTPUT_DIR."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("report")
