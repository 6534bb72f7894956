"""The suites by name. A suite takes the device and the number of rounds, and returns rows."""

from __future__ import annotations

from collections.abc import Callable

from revit_video.benchmark.decode import decode
from revit_video.benchmark.inference import adaptive, forward, lengths
from revit_video.benchmark.kinetics import kinetics
from revit_video.benchmark.timing import Row
from revit_video.benchmark.training import growth, replicas, train

Suite = Callable[..., list[Row]]

SUITES: dict[str, Suite] = {
    "kinetics": kinetics,
    "decode": decode,
    "forward": forward,
    "lengths": lengths,
    "adaptive": adaptive,
    "train": train,
    "replicas": replicas,
    "growth": growth,
}
