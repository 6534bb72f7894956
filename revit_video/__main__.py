"""`python -m revit_video COMMAND …`."""

import sys
from importlib.util import find_spec

from revit_video.commands.main import main

if __name__ == "__main__":
    if not find_spec("fvcore"):  # a checkout, run by another Python than its environment's
        sys.exit(
            f"error: {sys.executable} lacks what revit_video needs; "
            "run `make .venv` once, then .venv/bin/python -m revit_video"
        )
    main()
