"""`revit-video COMMAND …`: finds the command and hands it the other words.

Data workers import this file with the program that they belong to: it must not import PyTorch.
"""

from __future__ import annotations

import argparse
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import revit_video
from revit_video.runtime.termination import leave_on_ctrl_c
from revit_video.runtime.text import printable

# Of each command: the module in this folder with its function `<name>_command`, and what it does.
COMMANDS = {
    "demo": ("make_demo", "generate videos, then train, mine, assign and test on them"),
    "run": (
        "run_stages",
        "run the stages that a config enables: train, mine labels, train the assigner, test",
    ),
    "train": ("run_stages", "train the backbone at all token lengths"),
    "mine": ("run_stages", "mine the token-length labels of a trained backbone"),
    "assign": ("run_stages", "train the Token-Length Assigner on mined labels and choose its threshold"),
    "test": ("run_stages", "test every policy on the test list and draw the report"),
    "predict": ("predict_files", "classify videos or images with a trained model"),
    "export": ("export_model", "write a model as ONNX or torch.export graphs, with its policy"),
    "web": ("serve_page", "serve a page on this machine that classifies the videos dropped on it"),
    "report": ("write_reports", "write the report of a run again from the files in its OUTPUT_DIR"),
    "flops": ("count_costs", "count multiply-accumulates and parameters at every token length"),
    "convert": ("convert_weights", "convert weights of timm, TimeSformer, transformers and this project"),
    "prepare": ("prepare_sets", "make a data folder from a data set's official files and its videos"),
    "migrate": (
        "migrate_config",
        "print a YAML file of TimeSformer's or SlowFast's code as one of this project",
    ),
    "config": ("show_config", "list the configs, print one, or tell the meaning of a key"),
}


class Parser(argparse.ArgumentParser):
    """Modifications: what it prints may hold words that others chose, such as names of files."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def main(command: str | None = None) -> None:
    """The program `revit-video`; with `command`, a tool that is this command alone."""
    leave_on_ctrl_c()
    try:
        code = _run(command)
        sys.stdout.flush()
    except BrokenPipeError:  # such as `head`, which has all it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    raise SystemExit(code)


def _run(command: str | None) -> int | None:
    """Exit code."""
    program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if command is None:
        command, words = _chosen(words)
        program = f"revit-video {command}"
    module = import_module(f"revit_video.commands.{COMMANDS[command][0]}")
    parser = Parser(program, formatter_class=argparse.RawDescriptionHelpFormatter)
    does = COMMANDS[command][1]
    parser.description = f"{does[0].upper()}{does[1:]}."
    code: int | None = getattr(module, f"{command}_command")(parser, words)
    return code


def _chosen(words: list[str]) -> tuple[str, list[str]]:
    """The command that the first word names, and the other words; else a help or an error, and the end."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {does}" for name, (_, does) in COMMANDS.items())
    if words[:1] == ["--version"]:
        print(f"revit-video {revit_video.__version__}")
        raise SystemExit(0)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: revit-video COMMAND …   (revit-video COMMAND --help tells more)\n\n{listed}")
        raise SystemExit(0 if words else 2)
    if words[0] not in COMMANDS:
        nearest = get_close_matches(words[0], COMMANDS, 1, cutoff=0)[0]
        there = ", ".join(COMMANDS)
        print(f"error: no command {words[0][:60]!r}; nearest: {nearest}; there are {there}", file=sys.stderr)
        raise SystemExit(2)
    return words[0], words[1:]
