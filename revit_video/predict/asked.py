"""The files that a command line names: files, folders, patterns, lists, and those that come from a pipe."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator

from revit_video.data.folders import find_videos
from revit_video.runtime.output_dir import TEXT

STDIN = 0


def asked_files(words: Iterable[str]) -> list[str]:
    """The files that `words` stand for, in their order.

    Args:
        words: of files; folders, for the videos in them and their sub-folders; patterns such as `*/*.mp4`;
            `@list.txt`, for what its lines name; `-`, for what the lines of standard input name.

    Raises:
        ValueError: a folder without videos, or a pattern that no file matches.
        OSError: a list cannot be read.
    """
    return [file for word in words for file in _files_of(os.path.expanduser(word))]


def _files_of(word: str) -> list[str]:
    if word == "-":
        return [file for line in _lines(STDIN) for file in find_videos([line])]
    if word.startswith("@") and not os.path.exists(word):
        path = os.path.expanduser(word[1:])
        named = (_named(line, os.path.dirname(path)) for line in _lines(path))
        return [file for name in named for file in find_videos([name])]
    if glob.has_magic(word) and not os.path.exists(word):
        found = sorted(glob.glob(word, recursive=True))
        if not found:
            raise ValueError(f"{word}: no file matches")
        return [file for path in found for file in find_videos([path])]
    return find_videos([word])


def _lines(file: str | int) -> Iterator[str]:
    """The lines of a text file that are not blank, without their ends."""
    with open(file, **TEXT | {"newline": "\n"}, closefd=file != STDIN) as lines:
        yield from (text for line in lines if (text := line.rstrip("\r\n")).strip())


def _named(line: str, folder: str) -> str:
    """The path in a line of a list, which may have a class label behind it.

    A relative path is looked for from the current folder on, then from the list's.
    """
    names = [line, *([match[1]] if (match := re.fullmatch(r"(.+?)[ \t,]+\d+\s*", line)) else [])]
    for name in names:
        for path in (name, os.path.join(folder, name)):
            if os.path.exists(path):
                return path
    return names[-1]
