"""The suites by name. A suite takes the device and the number of rounds, and returns rows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from revit_video.benchmark.timing import Row

Suite = Callable[[torch.device, int], list[Row]]

SUITES: dict[str, Suite] = {}
