"""Measures speed against targets: `python tools/benchmark.py SUITE`."""

import argparse
import math
import platform

import _environment  # noqa: F401
import torch
from benchmarks.suites import SUITES
from benchmarks.timing import Effort, as_json, format_rows

from revit_video.cli import clear_errors
from revit_video.runtime.output_dir import write_json
from revit_video.runtime.ranks import init


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=list(SUITES), metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="M", help="end in time; default: no limit"
    )
    parser.add_argument("--video", metavar="FILE", help="decode: this file, not a generated one")
    parser.add_argument("--png", metavar="FILE", help="growth: draw it there")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    arguments = parser.parse_args()
    with clear_errors():
        if arguments.rounds < 1:
            raise ValueError(f"--rounds: must be at least 1, got {arguments.rounds}")
        if not arguments.minutes > 0:
            raise ValueError(f"--minutes: must be more than 0, got {arguments.minutes:g}")
        if arguments.video and arguments.suite != "decode":
            raise ValueError(f"--video: {arguments.suite} generates its own videos")
        if arguments.png and arguments.suite != "growth":
            raise ValueError(f"--png: {arguments.suite} draws nothing")
        options = {"video": arguments.video} if arguments.video else {}
        options |= {"picture": arguments.png} if arguments.png else {}
        device = init(arguments.device).device
        print(f"{arguments.suite} on {device_title(device)}, {arguments.rounds} rounds\n")
        effort = Effort(arguments.rounds, 60 * arguments.minutes)
        rows = SUITES[arguments.suite](device, effort, **options)
        print(format_rows(rows))
        if effort.left_out:
            print(f"\nleft out, for lack of time: {', '.join(effort.left_out)}")
        if arguments.json:
            found = {"suite": arguments.suite, "device": device_title(device), "rows": as_json(rows)}
            write_json(arguments.json, found | {"left_out": effort.left_out})


def device_title(device: torch.device) -> str:
    """Device, number of threads, version of torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads), torch {torch.__version__}"


if __name__ == "__main__":
    main()
