"""Runs the stages that a config enables: train, mine labels, train the assigner, test."""

import _environment  # noqa: F401

from revit_video.cli import run_stages

if __name__ == "__main__":
    run_stages(__doc__)
