"""`flops`: what each token length of a config's model costs; flops.json in OUTPUT_DIR."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from revit_video.commands.run_stages import config_arguments


def flops_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints a table and writes flops.json."""
    config_arguments(parser)
    arguments = parser.parse_args(words)
    from revit_video import flops
    from revit_video.cli import clear_errors
    from revit_video.from_cfg.model import build_assigner, build_model, views_per_video
    from revit_video.from_cfg.resolve import load_checked, resolved
    from revit_video.runtime import output_dir
    from revit_video.runtime.text import printable

    with clear_errors():
        cfg = resolved(load_checked(arguments.cfg, arguments.opts))
        output_dir.ensure_writable(cfg.OUTPUT_DIR)
        # A single length needs no assigner.
        assigner = build_assigner(cfg, random=True) if len(cfg.REVIT.TOKEN_LENGTHS) > 1 else None
        costs = flops.cost_table(build_model(cfg), views_per_video(cfg), assigner)
        path = os.path.join(cfg.OUTPUT_DIR, output_dir.FLOPS)
        output_dir.write_json(path, costs)
        print(costs_as_text(costs))
        print(printable(path))


def costs_as_text(costs: dict[str, Any]) -> str:
    """`cost_table` as text: a line for each length, and one for the assigner."""
    from revit_video.report.results_table import cost_unit

    largest = max(length["gmacs"] for length in costs["lengths"].values())
    factor, unit = cost_unit(largest)
    views = f"x {costs['views']} views"
    lines = [f"{'':>10} {unit + ' a view':>14} {'products only':>14} {views:>14} {'parameters':>12}"]
    for name, length in costs["lengths"].items():
        figures = [length["gmacs"], length["matmul_gmacs"], costs["views"] * length["gmacs"]]
        cells = " ".join(f"{factor * figure:14.2f}" for figure in figures)
        lines.append(f"{name:>10} {cells} {length['params']:12,}")
    if "assigner_gmacs" in costs:
        share = 100 * costs["assigner_gmacs"] / largest
        lines.append(
            f"{'assigner':>10} {factor * costs['assigner_gmacs']:14.3f} {'':29} "
            f"{costs['assigner_params']:12,}   {share:.2f} % of the longest length"
        )
    return "\n".join(lines)
