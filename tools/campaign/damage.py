"""Attacks on what a finished run left, and on files from elsewhere: told in one line, or without effect."""

from __future__ import annotations

import random
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.toy import Attack, Changes, Ended, Process, Toy, outcome
from revit_video.runtime import output_dir

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
            page = (output / output_dir.REPORT).read_text()
            if others == [path.name] and f"Left out: {path.name}" in page:  # nothing else depends on it
                yield kind, "left out of the page, with the file", ""
            else:
                yield kind, "silently other results", ", ".join(others)


def hostile(toy: Toy, chance: random.Random) -> Iterator[Attack]:
    """Files with random bytes in them: videos, images and models; weights and configs of others."""
    toy.straight()
    theirs = toy.folder / "theirs"
    arguments = [toy.straight_output() / "model.pyth", theirs, "--to", "transformers"]
    _ended(toy, "convert", arguments)
    model = toy.straight_output() / "model.pyth"
    videos = sorted((toy.folder / "videos" / "test").glob("*.mp4"))
    while True:
        folder = toy.folder / "hostile"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind = chance.random()
        if kind < 0.15:
            source = folder / "theirs"
            shutil.copytree(theirs, source)
            _scramble_file(chance.choice(sorted(source.iterdir())), chance)
            arguments = [source, folder / "out.pyth", "--to", "revit", "MODEL.NUM_HEADS", 2]
            yield _told("weights of others", _ended(toy, "convert", arguments))
        elif kind < 0.2:
            config = shutil.copy(toy.straight_output() / "config.yaml", folder)
            _scramble_file(Path(config), chance)
            yield _told("configs", _ended(toy, "migrate_config", [config]))
        elif kind < 0.4:
            shutil.copy(model, folder)
            _scramble_file(folder / "model.pyth", chance)
            yield from _predicted(toy, "model.pyth", folder / "model.pyth", videos[:1])
        else:
            endings = (".mp4", ".avi", ".mkv", ".png", ".jpg")
            names = [folder / f"{n}{chance.choice(endings)}" for n in range(FILES)]
            for path in names:
                shutil.copy(chance.choice(videos), path)
                _scramble_file(path, chance)
            yield from _predicted(toy, "videos and images", model, names)


def _ended(toy: Toy, tool: str, arguments: list[Any]) -> Ended:
    """How a tool ended in limited memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    return Process(tool, arguments, toy.folder / f"{tool}.log", limit).end()


def _told(kind: str, ended: Ended) -> Attack:
    """What a command came to that answers, or refuses in one message."""
    if not ended.is_clean or ended.code not in (0, 2):
        return kind, "traceback, hung, or another exit code", f"{ended}"
    if ended.code == 2 and not any(line.startswith("error: ") for line in ended.said.splitlines()):
        return kind, "refused without a reason", f"{ended}"
    return kind, "refused in one line" if ended.code else "answered", ""


def _predicted(toy: Toy, kind: str, model: Path, files: list[Path]) -> Iterator[Attack]:
    arguments = [model, *files, "--device", "cpu"]
    ended = _ended(toy, "predict", arguments)
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


def _scramble_file(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    _scramble(content, chance)
    path.write_bytes(content)


def _scramble(content: bytearray, chance: random.Random) -> None:
    """Random bytes in random places, and perhaps an early end."""
    for _ in range(chance.choice((1, 3, 30, 300))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.2:
        del content[chance.randrange(len(content)) :]
