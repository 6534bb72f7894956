"""Runs the tests with several versions of PyTorch, each in an environment of its own that pip makes anew.

    python tools/torch_versions.py [2.11 newest] [--tests tests/models tests/train] [--processes 2]

Without versions: the lower bound of setup.py, 2.11, and the newest that pip finds, for the processor alone
where pip finds such wheels of torch and torchvision. Everything else has the versions of constraints.txt.
Prints a table and which tests failed. Exit code 0: all passed; 1: some did not, or an environment could
not be made.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import _environment  # noqa: F401

ROOT = Path(__file__).parents[1]
EXTRAS = "test,hub,export,ray"  # what a test needs
PAIR = re.compile(r"torch(vision)?==")  # of constraints.txt: the versions that are not tested here


def lower_bound() -> str:
    """Of torch, as setup.py has it."""
    return re.search(r'"torch>=([\d.]+)"', (ROOT / "setup.py").read_text())[1]


def make_environment(folder: Path, version: str) -> Path:
    """The interpreter of a new environment with the project, its extras and this version of torch.

    Raises:
        subprocess.CalledProcessError: with what pip said.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    others = folder / "constraints.txt"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    others.write_text("\n".join(line for line in lines if not PAIR.match(line)))
    torch = "torch" if version == "newest" else f"torch=={version}.*"
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", others]
    subprocess.run([*pip, torch, "-e", f"{ROOT}[{EXTRAS}]"], check=True, capture_output=True, text=True)
    return python


def run_tests(python: Path, words: Sequence[str], folder: Path) -> tuple[dict[str, int], list[str]]:
    """How many tests passed, failed and were skipped, and the names of those that failed.

    Raises:
        ValueError: pytest ran none; with what it said.
    """
    told = folder / "tests.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={told}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    cases = list(ElementTree.parse(told).iter("testcase")) if told.is_file() else []
    if not cases:
        raise ValueError((done.stdout + done.stderr)[-2000:])
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    counts = {"passed": len(cases) - len(failed) - skipped, "failed": len(failed), "skipped": skipped}
    return counts, [f"{case.get('classname')}.{case.get('name')}" for case in failed]


def tried(version: str, words: Sequence[str]) -> bool:
    """Whether all tests pass with a version; prints its row of the table, and what failed."""
    start = time.monotonic()
    with TemporaryDirectory(prefix="torch_") as folder:
        try:
            python = make_environment(Path(folder), version)
            asked = [python, "-c", "import torch; print(torch.__version__)"]
            version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
            ready = time.monotonic()
            counts, failed = run_tests(python, words, Path(folder))
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"| {version} | | | | {(time.monotonic() - start) / 60:.1f} | |", flush=True)
            print(getattr(error, "stderr", None) or error, file=sys.stderr)
            return False
    numbers = " | ".join(map(str, counts.values()))
    minutes = f"{(ready - start) / 60:.1f} | {(time.monotonic() - ready) / 60:.1f}"
    print(f"| {version} | {numbers} | {minutes} |", flush=True)
    for name in failed:
        print(f"failed with torch {version}: {name}", file=sys.stderr)
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="2.11, or newest")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="default: all")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args()
    versions = arguments.versions or list(dict.fromkeys([lower_bound(), "2.11", "newest"]))
    print("| torch | passed | failed | skipped | minutes to install | to test |\n|---|---|---|---|---|---|")
    words = [*arguments.tests, "-n", str(arguments.processes)]
    return 0 if all([tried(version, words) for version in versions]) else 1


if __name__ == "__main__":
    sys.exit(main())
