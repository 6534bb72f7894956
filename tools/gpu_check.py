"""Checks on one GPU what no CPU can show, and measures it: `python tools/gpu_check.py outputs/gpu`.

Exit code 0: all checks hold; 1: some do not, or a section failed; 2: a mistake in the command.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

import _environment  # noqa: F401
import torch
from gpu_checks import speed, values
from gpu_checks.report import Report

from revit_video.cli import clear_errors
from revit_video.runtime.output_dir import write_json
from revit_video.runtime.ranks import init

SECTIONS = {  # in the order of value
    section.__name__: section
    for section in (
        *(values.environment, values.logits_and_gradients, values.pipeline, values.waits, values.exchange),
        *(
            speed.temporal_attention,
            speed.graphed,
            speed.training,
            speed.reading,
            speed.patches,
            speed.compiled,
        ),
        *(values.demo_model, speed.suites),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="DIR", help="where check.json and longer outputs are written")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="small models, one round: a dry run")
    parser.add_argument("--seconds", type=float, default=540, help="no section begins later (default: 540)")
    parser.add_argument(
        "--only", nargs="+", default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    arguments = parser.parse_args()
    with clear_errors():
        if unknown := [name for name in arguments.only if name not in SECTIONS]:
            raise ValueError(f"--only: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
        folder = Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        report = Report(init(arguments.device).device, arguments.tiny, folder, arguments.seconds)
        for name in arguments.only:
            _run(name, report)
    print("\nleft out:", ", ".join(report.left_out) or "nothing")
    print("\n".join(["FAILED", *report.failed]) if report.failed else "all checks hold")
    sys.exit(bool(report.failed))


def _run(name: str, report: Report) -> None:
    if report.left < 0:
        report.left_out.append(name)
        return
    report.section, start = name, time.monotonic()
    print(f"{name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
    try:
        SECTIONS[name](report)
    except Exception:  # the others are still worth their time
        report.failed.append(f"{name}: {traceback.format_exc(limit=-3)}")
        traceback.print_exc(limit=-4)
    report.figure("section", seconds=time.monotonic() - start)
    if report.is_gpu:
        torch.cuda.empty_cache()
    write_json(str(report.folder / "check.json"), report.found | {"failed": report.failed})


if __name__ == "__main__":
    main()
