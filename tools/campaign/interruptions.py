"""Attacks from outside on a run: signals, SIGKILL and full disks at random moments; then the same command."""

from __future__ import annotations

import random
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from campaign.toy import Attack, Changes, Ended, Toy, outcome

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}
FINISHED = 0.25  # share of the runs stopped by a signal that are finished and compared
LEAST = 200  # bytes; where less can be written, no error can be told either
LINE = 400  # bytes of an error; the log is on the same disk, and may have no room for it
LARGEST = 60_000  # bytes, about those of a checkpoint


def signals(toy: Toy, chance: random.Random) -> Iterator[Attack]:
    """Ctrl-C and SIGTERM: the right exit code and words, no traceback, no process left."""
    while True:
        changes = _division(chance)
        number = chance.choice((signal.SIGINT, signal.SIGTERM))
        group = chance.random() < 0.5
        expected, seconds = toy.straight(changes)
        process = toy.start(_empty(toy), changes)
        ended = process.ended(chance.uniform(0, 1.05 * seconds))
        if ended is None:
            process.send(number, group)
            ended = process.end()
        kind = f"{number.name} to {'all processes' if group else 'the first process'}, {_in_words(changes)}"
        if not ended.is_clean or ended.code not in (0, 128 + number):
            yield kind, "traceback, hung, or another exit code", f"{ended}"
        elif process.left_overs():
            yield kind, "left processes behind", f"{ended}"
        elif ended.code and not ended.last_line.startswith(WORDS[number]):
            yield kind, "other last words", f"{ended}"
        elif chance.random() < FINISHED:
            yield (kind, *_finished(toy, expected, changes))
        else:
            yield kind, "stopped in one line" if ended.code else "had ended", ""


def kills(toy: Toy, chance: random.Random) -> Iterator[Attack]:
    """SIGKILL, up to three times in a row: no process stays, and the same command ends with the same bits."""
    while True:
        changes = _division(chance)
        expected, seconds = toy.straight(changes)
        output, left = _empty(toy), False
        for _ in range(chance.randint(1, 3)):
            process = toy.start(output, changes)
            if process.ended(chance.uniform(0, seconds)) is None:
                process.send(signal.SIGKILL, whole_group=False)
                process.end()
            left = process.left_overs() or left
        kind = f"SIGKILL to the first process, {_in_words(changes)}"
        yield (kind, "left processes behind", "") if left else (kind, *_finished(toy, expected, changes))


def disk(toy: Toy, chance: random.Random) -> Iterator[Attack]:
    """No file may grow beyond some size: one line that names the file; then, with room, the same bits."""
    while True:
        changes = _division(chance)
        expected, _ = toy.straight(changes)
        room = int(LEAST * (LARGEST / LEAST) ** chance.random())

        def fill(room: int = room) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        output = _empty(toy)
        ended = toy.start(output, changes, fill).end()
        kind = f"files of at most {10 ** len(str(room)):,} bytes, {_in_words(changes)}"
        if not ended.is_clean or ended.code not in (0, 2):
            yield kind, "traceback, hung, or another exit code", f"{ended}"
        elif ended.code and str(output) not in ended.last_line and len(ended.said) + LINE < room:
            yield kind, "no file named", f"{ended}"
        else:
            yield (kind, *_finished(toy, expected, changes))


def _division(chance: random.Random) -> Changes:
    """Ranks and data workers."""
    return {"NUM_GPUS": chance.choice((1, 1, 1, 2)), "DATA_LOADER.NUM_WORKERS": chance.choice((0, 1, 2))}


def _in_words(changes: Changes) -> str:
    ranks, workers = changes.values()
    return f"{ranks} rank{'s' if ranks != 1 else ''}, {workers} worker{'s' if workers != 1 else ''} each"


def _empty(toy: Toy) -> Path:
    output = toy.folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    return output


def _finished(toy: Toy, expected: dict[str, str], changes: Changes) -> tuple[str, str]:
    """What becomes of the run under the same command, undisturbed."""
    output = toy.folder / "run"
    ended: Ended = toy.start(output, changes).end()
    if ended.code != 0 or not ended.is_clean:
        return "not resumed", f"{ended}"
    found = outcome(output)
    if found == expected:
        return "then the same bits", ""
    return "then other bits", ", ".join(name for name in expected if found.get(name) != expected[name])
