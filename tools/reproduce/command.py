"""From the command line to a page: the rows to run, the page itself, and a record of how it was made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
from fvcore.common.config import CfgNode

from reproduce import fig5, fig6, fig7, rows, tables
from reproduce.markdown import Page, duration, write_page
from reproduce.runs import Runs, Seconds
from revit_video.cli import command_line
from revit_video.report.files import Missing
from revit_video.report.style import RC
from revit_video.runtime import output_dir
from revit_video.runtime.launch import torchrun_ranks
from revit_video.runtime.logging import setup

HIGH_RESOLUTION = "hr"  # subfolder of the runs of the second config
KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


class Study(NamedTuple):
    """One table or figure of the paper.

    Attributes:
        needs: names of its rows for a config; raises ValueError for a config that does not fit.
        page: the page from finished runs, of one config or two.
        configs: the most configs that it takes.
    """

    needs: Callable[[CfgNode], list[str]]
    page: Callable[[Sequence[Runs]], Page]
    configs: int = 1


STUDIES = {
    "table1": Study(rows.needs_table1, tables.table1, 2),
    "table2": Study(rows.needs_table2, tables.table2),
    "table3": Study(rows.needs_table3, tables.table3),
    "fig5": Study(rows.needs_fig5, fig5.fig5),
    "fig6": Study(rows.needs_fig6, fig6.fig6),
    "fig7": Study(rows.needs_fig7, fig7.fig7),
}


def reproduce(what: str, paths: Sequence[str], seeds: Sequence[int], options: Sequence[str]) -> list[str]:
    """Runs the rows of a table or figure and writes it to OUTPUT_DIR; returns the paths of its files.

    Args:
        what: a name of `STUDIES`.
        paths: YAML files; the second is for table1's models at high resolution.
        options: `KEY VALUE` pairs that override each of them.

    Raises:
        ValueError: unknown name, wrong number of configs, or a config that does not fit.
    """
    study = _study(what, paths)
    command = command_line()
    subfolders = ("", HIGH_RESOLUTION)
    runs = [
        Runs(path, options, seeds, command, folder) for path, folder in zip(paths, subfolders, strict=False)
    ]
    needed = [study.needs(each.cfg) for each in runs]
    folder = runs[0].cfg.OUTPUT_DIR
    setup()
    output_dir.ensure_writable(folder)
    for each, names in zip(runs, needed, strict=True):
        each.run(names)
    try:
        with matplotlib.rc_context(RC):
            page = study.page(runs)
            return write_page(page, folder, what, how_made(runs, needed, command))
    except Missing as missing:
        raise ValueError(f"{folder}: {missing}; delete the run's results.json and start again") from None


def _study(what: str, paths: Sequence[str]) -> Study:
    if what not in STUDIES:
        raise ValueError(f"{what}: not a table or figure that is made here; there are {', '.join(STUDIES)}")
    study = STUDIES[what]
    if not 1 <= len(paths) <= study.configs:
        wanted = "one file" if study.configs == 1 else "one file, or two"
        raise ValueError(f"--cfg: {what} takes {wanted}, got {len(paths)}")
    if torchrun_ranks():
        raise ValueError("start it without torchrun: NUM_GPUS gives the ranks of each run")
    return study


def how_made(runs: Sequence[Runs], needed: Sequence[Sequence[str]], command: str) -> list[str]:
    """Lines on command, data, seeds, epochs and time."""
    seeds = runs[0].seeds
    lines = [f"command: `{command}`"]
    if any(needed):
        lines += dict.fromkeys(each.data(names[0]) for each, names in zip(runs, needed, strict=True))
        lines += [
            f"seeds: {len(seeds)} ({', '.join(map(str, seeds))}); ± is one standard deviation over them"
            if len(seeds) > 1
            else f"seeds: 1 ({seeds[0]}), so there are no deviations and each verdict rests on one run",
            _time_line(
                [time for each, names in zip(runs, needed, strict=True) for time in each.seconds(names)]
            ),
        ]
    return lines


def _time_line(times: Sequence[Seconds]) -> str:
    known = [time.seconds for time in times if time.seconds is not None]
    line = f"total time of the {len(times)} runs: {duration(sum(known))}"
    if partly := sum(not time.whole for time in times):
        line += f"; {partly} of them were run by other commands and count by their logged training alone"
    return line


def split_at_key(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the words after an option into its own and the `KEY VALUE` pairs that follow them."""
    first = next((n for n, word in enumerate(words) if KEY.fullmatch(word)), len(words))
    return list(words[:first]), list(words[first:])


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Different whole numbers, at least one; else ValueError."""
    if wrong := [word for word in words if not word.isdecimal()]:
        raise ValueError(f"--seeds: give whole numbers from 0 on, got {' '.join(wrong)}")
    seeds = [int(word) for word in words]
    if not seeds or len(set(seeds)) < len(seeds):
        given = " ".join(words) or "none"
        raise ValueError(f"--seeds: give different whole numbers, at least one of them; got {given}")
    return seeds
