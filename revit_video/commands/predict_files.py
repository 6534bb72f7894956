"""`predict`: files and folders through a trained model."""

from __future__ import annotations

import io
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING

from revit_video.runtime import output_dir

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from revit_video.predict.answer_files import Answer, AnswerForm
    from revit_video.runtime.ranks import Ranks

SHIPPED = Path(__file__).parents[1] / "shipped"  # written by tools/ship_demo.py
SHARED = 64  # answers of each rank that are written at once


def predict_command(parser: ArgumentParser, words: Sequence[str]) -> int:
    """Writes an answer for each file; 1 if one of them could not be read."""
    _add_arguments(parser)
    _add_window_arguments(parser)
    arguments = parser.parse_intermixed_args(words)
    if not arguments.demo and not arguments.videos:
        parser.error("a MODEL and an INPUT are needed, or --demo")
    from revit_video.cli import clear_errors
    from revit_video.runtime.launch import first_error_only, launch, torchrun_ranks

    with clear_errors("; with --out, the same command goes on from here"), first_error_only():
        if arguments.demo:
            _take_demo(arguments)
        _check(arguments)
        if arguments.window:
            from revit_video.commands.predict_windows import classify_windows

            return 1 if classify_windows(arguments) else 0
        ranks = torchrun_ranks() or arguments.num_gpus
        unreadable = launch(classify_share, ranks, arguments)
    return 1 if unreadable else 0


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="MODEL", nargs="?", help="an OUTPUT_DIR, or a .pyth file in it")
    add(
        "videos",
        metavar="INPUT",
        nargs="*",
        help="files, folders, patterns ('*/*.mp4'), @list.txt, or - for a list on standard input",
    )
    add("--demo", action="store_true", help="the model of the package; without an INPUT, on its three clips")
    add("--top", type=int, default=3, metavar="N", help="classes to show (default: %(default)s)")
    add("--json", dest="form", action="store_const", const="json", help="write an object per line")
    add("--csv", dest="form", action="store_const", const="csv", help="write a table")
    add("--out", metavar="FILE", help="a .csv or .jsonl file; the same command continues an interrupted one")
    add("--device", default="auto", metavar="NAME", help="auto (a GPU if there is one), cpu, cuda:1, mps, …")
    add(
        "--clips",
        type=int,
        metavar="N",
        help="clips spread over each video (default: as tested; 1 reads the first window alone)",
    )
    add("--policy", metavar="P", help="longest, 14x14, budget=0.5, max_drop=0.2, … (default: as shipped)")
    add(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="views per pass (default: %(default)s)",
    )
    add("--workers", type=int, metavar="N", help="processes that decode (default: as many as pay)")
    add("--timeout", type=float, metavar="S", help="seconds that a file may take to decode (default: 60)")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks on this machine; torchrun starts its own")


def _add_window_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("long videos, decoded once from start to end").add_argument
    add("--window", metavar="TIME", help="answer for every window of so long, such as 4s, and write segments")
    add("--stride", metavar="TIME", help="from window to window (default: half a window)")
    add("--background", metavar="CLASS", help="the class that stands for nothing")
    add("--min-probability", type=float, default=0.0, metavar="P", help="less probable is nothing, too")
    add("--page", metavar="FILE", help="write a page: the video, its segments, the token length over time")
    add("--video", metavar="FILE", help="write a copy of the video that shows the answers")


def _take_demo(arguments: Namespace) -> None:
    """The package's own model in place of MODEL, and its clips where there is no INPUT."""
    model = SHIPPED / output_dir.MODEL
    if not model.is_file():
        raise ValueError(
            f"--demo: {model} is not there; `revit-video demo` trains such a model in outputs/demo"
        )
    clips = sorted(map(str, SHIPPED.glob("*.mp4")))
    inputs = [arguments.checkpoint, *arguments.videos] if arguments.checkpoint else clips
    arguments.checkpoint, arguments.videos = str(model), inputs


def _check(arguments: Namespace) -> None:
    """Raise ValueError for arguments that make no sense, and settle what `--out` says of the form."""
    for name, least in (("top", 1), ("clips", 1), ("batch_size", 1), ("workers", 0), ("num_gpus", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')}: must be at least {least}, got {value}")
    if arguments.num_gpus > 1 and arguments.device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"--device {arguments.device}: with --num-gpus, each rank has its own; use auto or cpu"
        )
    if not arguments.window and (arguments.stride or arguments.page or arguments.video):
        raise ValueError("--stride, --page and --video: need --window, such as --window 4s")
    if arguments.window and (arguments.clips or arguments.num_gpus > 1):
        raise ValueError("--window: goes without --clips and --num-gpus")
    if arguments.out:
        from revit_video.predict.answer_files import SUFFIXES

        form = next((f for suffix, f in SUFFIXES.items() if arguments.out.lower().endswith(suffix)), None)
        if form is None or arguments.form not in (None, form):
            raise ValueError(f"--out {arguments.out}: must end in .csv, or .jsonl with --json")
        arguments.form = form
    arguments.form = arguments.form or "text"


def classify_share(arguments: Namespace) -> int:
    """What a rank does: classify every n-th file; the main rank writes the answers of all.

    Returns:
        On the main rank, the number of files that could not be read; on the others 0.
    """
    import revit_video
    from revit_video.predict.answer_files import AnswerForm
    from revit_video.runtime.logging import setup
    from revit_video.runtime.ranks import init

    ranks = init(arguments.device if arguments.device in ("cpu", "cuda") else "auto")
    setup(ranks.is_main)
    device = arguments.device if ranks.world_size == 1 else str(ranks.device)
    policy = arguments.policy
    predictor = revit_video.load(arguments.checkpoint, device, clips=arguments.clips, policy=policy)
    if arguments.timeout is not None:
        predictor.timeout = arguments.timeout
    fields = {"certificate": predictor.certificate, "model": predictor.identity}
    form = AnswerForm(arguments.form, arguments.top, fields)
    left, before, target = _work(arguments, form) if ranks.is_main else ([], 0, nullcontext(sys.stdout))
    (left, *_) = ranks.gather(left)
    own = predictor.predict_many(
        left[ranks.rank :: ranks.world_size], arguments.batch_size, arguments.workers
    )
    answers = _in_order(own, len(left), ranks)
    if ranks.is_main:
        return before + _write(answers, len(left), form, target)
    return sum(0 for _ in answers)


def _work(arguments: Namespace, form: AnswerForm) -> tuple[list[str], int, AbstractContextManager[IO[str]]]:
    """The files to classify, how many could not be read before, and where the answers go."""
    from revit_video.predict.answer_files import AnswerFile
    from revit_video.predict.asked import asked_files

    files = asked_files(arguments.videos)
    if not arguments.out:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without the characters of a name
        form.begin(sys.stdout)
        return files, 0, nullcontext(sys.stdout)
    there = AnswerFile(arguments.out, form)
    return there.left(files), there.errors, there.open()


def _in_order(own: Iterator[Answer], total: int, ranks: Ranks) -> Iterator[Answer]:
    """The answers of all ranks in the order of the `total` files, on every rank.

    Args:
        own: answers for every n-th file.
    """
    if ranks.world_size == 1:
        yield from own
        return
    for _ in range(0, total, SHARED * ranks.world_size):
        shares = ranks.gather(list(islice(own, SHARED)))
        for answers in zip_longest(*shares):
            yield from (answer for answer in answers if answer is not None)


def _write(
    answers: Iterator[Answer], total: int, form: AnswerForm, target: AbstractContextManager[IO[str]]
) -> int:
    """Write the answers as they come; returns how many of them say that a file could not be read."""
    from revit_video.data.video import DecodeError
    from revit_video.runtime.logging import progress

    unreadable = 0
    with target as file:
        shown = not (file is sys.stdout and file.isatty())
        for answer in progress(answers, total, "files", active=shown):
            form.write(answer, file)
            file.flush()
            unreadable += isinstance(answer, DecodeError)
    return unreadable
