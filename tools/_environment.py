"""Imported first by every tool: ends with one line where this Python lacks the package or what it needs.

Only looks packages up: data workers import the tool as well, and should not wait for PyTorch.
"""

import sys
from importlib.util import find_spec

if not (find_spec("revit_video") and find_spec("fvcore")):
    sys.exit(
        f"error: {sys.executable} has no revit_video installed; "
        f"run `make .venv` once, then .venv/bin/python {sys.argv[0]}"
    )

from revit_video.runtime.termination import leave_on_ctrl_c  # noqa: E402

leave_on_ctrl_c()
