"""Opening every file once: what cannot be read, and what can but is unusual."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

from revit_video.data.images import ImageFile
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.video import DecodeError, is_image
from revit_video.prepare.parallel import Died, in_processes
from revit_video.runtime.csv_rows import csv_writer
from revit_video.runtime.logging import progress
from revit_video.runtime.output_dir import TEXT, open_to_append, write_csv

_VARIABLE = 1.5  # the longest frame's time, of the shortest's; rounded times differ by less


@dataclass(frozen=True)
class Checked:
    """What opening a file showed. `size` and `mtime_ns` are those of the file that was opened.

    Attributes:
        problem: why it cannot be read; empty if it can.
        odd: what is unusual: `damaged` at the end, `variable-rate`, `non-square` pixels; or else `rotated`.
    """

    path: str
    size: int
    mtime_ns: int
    frames: int = 0
    seconds: float = 0.0
    problem: str = ""
    odd: str = ""


def check_file(path: str) -> Checked:
    """Reads a file's packets and decodes its last frame, or its whole picture if it is an image."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Checked(path, 0, 0, problem=error.strerror or str(error))
    known = path, status.st_size, status.st_mtime_ns
    try:
        if is_image(path):
            ImageFile(path).close()
            return Checked(*known, frames=1)
        with closing(PyAVVideo(path)) as video:
            video.read([len(video.times) - 1])
            seconds = round(float(video.duration), 3)
            return Checked(*known, len(video.times), seconds, odd=" ".join(_oddities(video)))
    except DecodeError as error:
        return Checked(*known, problem=error.reason)


def _oddities(video: PyAVVideo) -> Iterator[str]:
    if video.damaged:
        yield "damaged"
    steps = [after - before for before, after in pairwise(video.times)]
    if steps and max(steps) > _VARIABLE * min(steps):
        yield "variable-rate"
    if video.packets.stream.sample_aspect_ratio not in (None, 0, 1):
        yield "non-square"
    elif not video.has_plain_pictures:
        yield "rotated"


def check_files(paths: Collection[str], cache: str, processes: int) -> Iterator[Checked]:
    """Checks files, each once: results are added to the CSV file `cache`, and hold while size and time agree.

    A check that crashed or hung is not kept there: memory may have run out, and the next call tries again.
    """
    known = {found.path: found for found in _read_cache(cache)}
    todo = [path for path in paths if path not in known or not _is_current(known[path])]
    for path in todo:
        known.pop(path, None)
    write_csv(cache, [field.name for field in fields(Checked)], map(astuple, known.values()))
    yield from (known[path] for path in paths if path in known)
    with open_to_append(cache) as file:
        rows = csv_writer(file)
        for path, result in progress(in_processes(check_file, todo, processes), len(todo), "check"):
            if isinstance(result, Died):
                yield Checked(path, 0, 0, problem=result.reason)
                continue
            rows.writerow(astuple(result))
            file.flush()
            yield result


def _is_current(found: Checked) -> bool:
    try:
        status = os.stat(found.path)
    except OSError:
        return False
    return (found.size, found.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _read_cache(cache: str) -> Iterator[Checked]:
    if not os.path.isfile(cache):
        return
    with open(cache, **TEXT) as file, suppress(csv.Error):  # what is damaged is checked again
        for row in csv.reader(file):
            with suppress(ValueError):  # the header; a line that was cut off
                path, size, mtime_ns, frames, seconds, problem, odd = row
                yield Checked(path, int(size), int(mtime_ns), int(frames), float(seconds), problem, odd)
