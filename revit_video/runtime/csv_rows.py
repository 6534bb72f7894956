"""CSV tables whose fields may hold anything: file names of all kinds, and what a damaged file holds."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, TypeVar

T = TypeVar("T")


def csv_writer(file: IO[str]) -> Any:
    """A `csv.writer` whose rows end in a line feed.

    Line breaks of all kinds are quoted. The csv module quotes a carriage return only where rows end in one.
    """
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")


class _LineFeeds:
    """The file to which a `csv.writer` gives whole rows."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


class CsvRows:
    """The rows of a table, by column. Every problem is a ValueError that names the file and the line.

    Args:
        path: for messages.
        lines: of a file opened with `newline=""`, or the part that follows a comment.
        first: number of the first of them in the file.
        renamed: today's name of columns of earlier files.
    """

    def __init__(
        self, path: str, lines: Iterable[str], first: int = 1, renamed: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        reader = csv.reader(lines)
        self._numbers: list[int] = []
        try:
            self.columns = [(renamed or {}).get(name, name) for name in next(reader, [])]
            # By column: a list for each row would take three times the memory.
            self._fields: list[list[str]] = [[] for _ in self.columns]
            for row in reader:
                if not row:
                    continue
                number = reader.line_num + first - 1
                if len(row) != len(self.columns):
                    raise ValueError(f"{path}:{number}: {len(row)} fields, not {len(self.columns)}")
                for fields, field in zip(self._fields, row, strict=True):
                    fields.append(field)
                self._numbers.append(number)
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num + first - 1}: {error}") from None

    def __len__(self) -> int:
        return len(self._numbers)

    def texts(self, column: str) -> list[str]:
        """A column as it is."""
        if column not in self.columns:
            raise ValueError(f"{self.path}: no column {column}")
        return self._fields[self.columns.index(column)]

    def parsed(self, column: str, parse: Callable[[str], T], kind: str) -> list[T]:
        """`parse` of every field of a column; it raises LookupError or ValueError for other than `kind`."""
        values: list[T] = []
        try:
            values.extend(map(parse, self.texts(column)))
        except (LookupError, ValueError):
            raise self._odd(column, len(values), kind) from None
        return values

    def whole(self, column: str, high: int) -> list[int]:
        """A column of whole numbers from 0 to `high`."""
        kind = f"a whole number from 0 to {high}"
        values = self.parsed(column, int, kind)
        if values and not 0 <= min(values) <= max(values) <= high:
            odd = next(n for n, value in enumerate(values) if not 0 <= value <= high)
            raise self._odd(column, odd, kind)
        return values

    def finite(self, column: str) -> list[float]:
        """A column of finite numbers."""
        values = self.parsed(column, float, "a finite number")
        for n, value in enumerate(values):
            if not math.isfinite(value):
                raise self._odd(column, n, "a finite number")
        return values

    def _odd(self, column: str, row: int, kind: str) -> ValueError:
        field = self.texts(column)[row]
        text = field if len(field) <= 60 else f"{field[:57]}..."
        return ValueError(f"{self.path}:{self._numbers[row]}: {column} is not {kind}: {text!r}")
