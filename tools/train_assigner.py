"""Trains the Token-Length Assigner on mined labels and chooses its threshold."""

import _environment  # noqa: F401

from revit_video.cli import run_stages

if __name__ == "__main__":
    run_stages(__doc__, lambda cfg: ["assigner"])
