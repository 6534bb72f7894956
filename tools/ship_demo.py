"""Puts the demo's trained model, three of its test clips and a model card into the package, from a run."""

import argparse
import csv
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import _environment  # noqa: F401
import simplejson

import revit_video
from revit_video.cli import clear_errors
from revit_video.commands.predict_files import SHIPPED
from revit_video.runtime import output_dir

CLIPS = 3
CARD = """# The demo's model

A ReViT-TimeSformer of {params:,} parameters for six motions (left, right, up, down, grow, shrink) of one
object in generated videos, at {lengths} tokens per frame. It is there to try the software; it has seen
nothing else.

| | top-1, percent | cost, percent of the longest |
|---|---|---|
{rows}

Measured on the {videos:,} test videos of the demo; docs/results.md has other seeds and policies.

- command: `{command}`
- seed: {seed}
- commit: {commit}
- revit_video {version}; licence: Apache 2.0, as the package

`revit-video predict --demo` classifies the clips beside this card.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "output_dir", metavar="OUTPUT_DIR", help="of `make demo` (or revit-video demo), finished"
    )
    arguments = parser.parse_args()
    with clear_errors():
        print(ship(arguments.output_dir, SHIPPED))


def ship(run: str, target: Path) -> Path:
    """Write model, clips and card to `target`; returns it."""
    with open(os.path.join(run, output_dir.RESULTS), encoding="utf-8") as file:
        results = simplejson.load(file)
    with open(os.path.join(run, output_dir.FLOPS), encoding="utf-8") as file:
        costs = simplejson.load(file)
    new = target.with_name(f"{target.name}.new")  # what was shipped before stays until all is there
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    shutil.copy(os.path.join(run, output_dir.MODEL), new)
    for path in clips_of_each_length(os.path.join(run, output_dir.PREDICTIONS)):
        shutil.copy(path, new)
    (new / "MODEL_CARD.md").write_text(card(results, costs), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    return new.replace(target)


def clips_of_each_length(predictions: str) -> list[str]:
    """The first test videos that are answered correctly at a token length that none before was."""
    with open(predictions, encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    first: dict[str, str] = {}
    for row in rows:
        if row["adaptive_prediction"] == row["label"]:
            first.setdefault(row["adaptive_length"], row["video"])
    others = [row["video"] for row in rows if row["video"] not in first.values()]
    return [*first.values(), *others][:CLIPS]


def card(results: dict[str, Any], costs: dict[str, Any]) -> str:
    """The text of the model card."""
    longest = results["lengths"][0]
    entries = {f"always {longest}": results["static"][longest], "adaptive": results["adaptive"]}
    price = results["static"][longest]["gmacs"]
    rows = [f"| {n} | {e['top1']:.1f} | {100 * e['gmacs'] / price:.0f} |" for n, e in entries.items()]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return CARD.format(
        params=costs["lengths"][longest]["params"],
        lengths=", ".join(results["lengths"]),
        rows="\n".join(rows),
        videos=results["videos"],
        command=results["command"],
        seed=results["seed"],
        commit=commit or "unknown",
        version=revit_video.__version__,
    )


if __name__ == "__main__":
    main()
