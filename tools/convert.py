"""Converts weights between timm's ViTs, TimeSformer, transformers and this project."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("convert")
