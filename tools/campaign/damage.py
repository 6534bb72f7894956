"""Attacks on what a finished run left, and on files from elsewhere: told in one line, or without effect."""

from __future__ import annotations

import random
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from campaign.toy import Attack, Changes, Process, Toy, outcome

STAGES: dict[str, Changes] = {
    "test again": {"TRAIN.ENABLE": False, "MINE.ENABLE": False, "ASSIGNER.ENABLE": False},
    "assigner and test again": {"TRAIN.ENABLE": False, "MINE.ENABLE": False},
    "all again": {},
}
MEMORY = 12 << 30  # bytes of address space for hostile files, most of which PyTorch takes
FILES = 24  # hostile files in one call of predict


def damage(toy: Toy, chance: random.Random) -> Iterator[Attack]:
    """A flipped bit, a cut or a lost line in a file of a finished run; then stages that read it."""
    expected, _ = toy.straight()
    while True:
        output = toy.folder / "run"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(toy.straight_output(), output)
        files = [path for path in sorted(output.rglob("*")) if path.is_file() and path.suffix != ".png"]
        path = chance.choice(files)
        name = re.sub(r"\d+", "N", str(path.relative_to(output)))
        how = _damaged(path, chance)
        again = chance.choice(list(STAGES))
        ended = toy.start(output, STAGES[again]).end()
        kind = f"{name}: {how}, {again}"
        if not ended.is_clean or ended.code not in (0, 2):
            yield kind, "traceback, hung, or another exit code", f"{ended}"
        elif ended.code == 2:
            told = ended.last_line.startswith("error: ") and path.name in ended.last_line
            yield kind, "told, with the file" if told else "told without the file", "" if told else f"{ended}"
        elif (found := outcome(output)) == expected:
            yield kind, "the same bits", ""
        else:
            others = [name for name in expected if found.get(name) != expected[name]]
            yield kind, "silently other results", ", ".join(others)


def hostile(toy: Toy, chance: random.Random) -> Iterator[Attack]:
    """Videos, images and models with random bytes in them, given to predict."""
    toy.straight()
    model = toy.straight_output() / "model.pyth"
    videos = sorted((toy.folder / "videos" / "test").glob("*.mp4"))
    while True:
        folder = toy.folder / "hostile"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if chance.random() < 0.3:
            content = bytearray(model.read_bytes())
            _scramble(content, chance)
            (folder / "model.pyth").write_bytes(content)
            yield from _predicted(toy, "model.pyth", folder / "model.pyth", videos[:1])
        else:
            endings = (".mp4", ".avi", ".mkv", ".png", ".jpg")
            names = [folder / f"{n}{chance.choice(endings)}" for n in range(FILES)]
            for path in names:
                content = bytearray(chance.choice(videos).read_bytes())
                _scramble(content, chance)
                path.write_bytes(content)
            yield from _predicted(toy, "videos and images", model, names)


def _predicted(toy: Toy, kind: str, model: Path, files: list[Path]) -> Iterator[Attack]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    arguments = [model, *files, "--device", "cpu"]
    ended = Process("predict", arguments, toy.folder / "predict.log", limit).end()
    if not ended.is_clean or ended.code not in (0, 1, 2):
        yield kind, "traceback, hung, or another exit code", f"{ended}"
        return
    lines = ended.said.splitlines()
    for path in files:
        own = [line for line in lines if str(path) in line or ended.code == 2]
        refused = bool(own) and own[0].startswith("error: ")
        yield kind, "refused in one line" if refused else "answered" if own else "not mentioned", ""


def _damaged(path: Path, chance: random.Random) -> str:
    content = bytearray(path.read_bytes())
    how = chance.choice(("a flipped bit", "cut short", "a lost line", "removed"))
    if how == "removed" or not content:
        path.unlink()
        return "removed"
    if how == "a flipped bit":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif how == "cut short":
        del content[chance.randrange(len(content)) :]
    else:
        lines = content.splitlines(keepends=True)
        del lines[chance.randrange(len(lines))]
        content = bytearray(b"".join(lines))
    path.write_bytes(content)
    return how


def _scramble(content: bytearray, chance: random.Random) -> None:
    """Random bytes in random places, and perhaps an early end."""
    for _ in range(chance.choice((1, 3, 30, 300))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.2:
        del content[chance.randrange(len(content)) :]
