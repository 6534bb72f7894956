"""The suites by name: functions of device and effort that return the lines of a table."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.decode import decode
from benchmarks.estimate import estimate
from benchmarks.forward import adaptive, backbones, forward, lengths
from benchmarks.growth import growth
from benchmarks.kinetics import kinetics
from benchmarks.loader import loader
from benchmarks.many_files import many_files
from benchmarks.timing import Measurement
from benchmarks.training import replicas, training

Suite = Callable[..., list[Measurement]]

SUITES: dict[str, Suite] = {
    "kinetics": kinetics,
    "decode": decode,
    "loader": loader,
    "forward": forward,
    "lengths": lengths,
    "backbones": backbones,
    "adaptive": adaptive,
    "train": training,
    "replicas": replicas,
    "growth": growth,
    "estimate": estimate,
    "many_files": many_files,
}
