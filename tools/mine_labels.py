"""Mines the token-length labels of a trained backbone."""

import _environment  # noqa: F401

from revit_video.cli import run_stages

if __name__ == "__main__":
    run_stages(__doc__, lambda cfg: ["mine"])
