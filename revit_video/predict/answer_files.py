"""Answers as text, JSON lines or CSV; a file of them is continued where it was left."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import simplejson

from revit_video.data.video import DecodeError
from revit_video.predict import VideoPrediction
from revit_video.runtime.output_dir import TEXT, replacing
from revit_video.runtime.text import printable

SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "json"}
Answer = VideoPrediction | DecodeError


@dataclass(frozen=True)
class AnswerForm:
    """How answers are written.

    Attributes:
        form: `text`, `json` (an object per line) or `csv`.
        top: number of classes in an answer.
        fields: written with every answer, the same each time; `text` leaves them out.
    """

    form: str
    top: int
    fields: Mapping[str, Any]

    @property
    def header(self) -> list[str]:
        """Columns of a CSV file."""
        classes = [
            f"{name}{n or ''}" for n in (0, *range(2, self.top + 1)) for name in ("class", "probability")
        ]
        return ["path", *classes, "length", "gmacs", "longest_gmacs", *self.fields, "error"]

    def begin(self, file: IO[str]) -> None:
        """Write what stands before the first answer."""
        if self.form == "csv":
            csv.writer(file, lineterminator="\n").writerow(self.header)

    def write(self, answer: Answer, file: IO[str]) -> None:
        """Append an answer. In `text` an error goes to standard error."""
        if self.form == "text":
            if isinstance(answer, DecodeError):
                print(printable(f"error: {answer}"), file=sys.stderr)
            else:
                print(self._text(answer), file=file)
        elif self.form == "json":
            print(simplejson.dumps(self._object(answer)), file=file)
        else:
            csv.writer(file, lineterminator="\n").writerow(self._row(answer))

    def _text(self, answer: VideoPrediction) -> str:
        """The most probable classes, the token length and its cost."""
        named = ", ".join(f"{name} {100 * share:.1f} %" for name, share in answer.classes[: self.top])
        scale, unit = (1, "GMACs") if answer.longest_gmacs >= 1 else (1000, "MMACs")
        change = f"{abs(answer.saved):.0f} % {'less' if answer.saved >= 0 else 'more'} than at the longest"
        cost = f"{scale * answer.gmacs:.1f} {unit}, {change}"
        return printable(f"{answer.path}: {named} | token length {answer.length}, {cost}")

    def _object(self, answer: Answer) -> dict[str, Any]:
        if isinstance(answer, DecodeError):
            return {"path": answer.path, **self.fields, "error": answer.reason}
        return {
            "path": answer.path,
            "classes": [{"class": name, "probability": share} for name, share in answer.classes[: self.top]],
            "length": str(answer.length),
            "gmacs": answer.gmacs,
            "longest_gmacs": answer.longest_gmacs,
            **self.fields,
        }

    def _row(self, answer: Answer) -> list[Any]:
        if isinstance(answer, DecodeError):
            unknown = [""] * (len(self.header) - len(self.fields) - 2)
            return [answer.path, *unknown, *self.fields.values(), answer.reason]
        classes = [value for pair in answer.classes[: self.top] for value in pair]
        classes += [""] * (2 * self.top - len(classes))
        costs = [str(answer.length), answer.gmacs, answer.longest_gmacs]
        return [answer.path, *classes, *costs, *self.fields.values(), ""]


class AnswerFile:
    """A CSV or JSON-lines file of answers, which grows by whole lines.

    Attributes:
        done: how often each path has an answer in it.
        errors: how many of those say that the file could not be read.

    Raises:
        ValueError: the file holds something else, or answers of another model or other settings.
    """

    def __init__(self, path: str, form: AnswerForm) -> None:
        self.path, self._form = path, form
        rows = list(self._whole_rows()) if os.path.isfile(path) else []
        own = {name: str(value) for name, value in form.fields.items()}
        for row in rows:
            if any(str(row.get(name)) != value for name, value in own.items()):
                raise ValueError(f"{path}: these answers are of another model or settings; name another file")
        self.done = Counter(row["path"] for row in rows)
        self.errors = sum(bool(row.get("error")) for row in rows)

    def left(self, paths: Sequence[str]) -> list[str]:
        """Those of `paths` that have no answer yet; the last ones, of a path that is asked for repeatedly."""
        done, left = self.done.copy(), []
        for path in paths:
            if done[path]:
                done[path] -= 1
            else:
                left.append(path)
        return left

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """The file, to append answers to."""
        with open(self.path, "a", **TEXT) as file:
            if file.tell() == 0:
                self._form.begin(file)
            yield file

    def _whole_rows(self) -> Iterator[dict[str, Any]]:
        """The answers; an end that was cut off is removed from the file."""
        with open(self.path, **TEXT) as file:
            text = file.read()
        if text and not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            with replacing(self.path, "w") as file:
                file.write(text)
        if self._form.form == "csv":
            reader = csv.DictReader(io.StringIO(text, newline=""))
            if text and reader.fieldnames != self._form.header:
                raise ValueError(f"{self.path}: has other columns than {', '.join(self._form.header)}")
            yield from reader
            return
        for n, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                yield dict(simplejson.loads(line))
            except (ValueError, TypeError):
                raise ValueError(f"{self.path}:{n}: not an answer of this command; name another") from None
