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
        self._rows: list[list[str]] = []
        self._numbers: list[int] = []
        try:
            self.columns = [(renamed or {}).get(name, name) for name in next(reader, [])]
            for row in reader:
                if not row:
                    continue
                number = reader.line_num + first - 1
                if len(row) != len(self.columns):
                    raise ValueError(f"{path}:{number}: {len(row)} fields, not {len(self.columns)}")
                self._rows.append(row)
                self._numbers.append(number)
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num + first - 1}: {error}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def parsed(self, column: str, parse: Callable[[str], T], kind: str = "text") -> list[T]:
        """`parse` of every field of a column; it raises LookupError or ValueError for other than `kind`."""
        if column not in self.columns:
            raise ValueError(f"{self.path}: no column {column}")
        place, values = self.columns.index(column), []
        for number, row in zip(self._numbers, self._rows, strict=True):
            try:
                values.append(parse(row[place]))
            except (LookupError, ValueError):
                field = row[place] if len(row[place]) <= 60 else f"{row[place][:57]}..."
                raise ValueError(f"{self.path}:{number}: {column} is not {kind}: {field!r}") from None
        return values

    def texts(self, column: str) -> list[str]:
        """A column as it is."""
        return self.parsed(column, str)

    def whole(self, column: str, high: int) -> list[int]:
        """A column of whole numbers from 0 to `high`."""

        def parse(field: str) -> int:
            if not 0 <= (value := int(field)) <= high:
                raise ValueError
            return value

        return self.parsed(column, parse, f"a whole number from 0 to {high}")

    def finite(self, column: str) -> list[float]:
        """A column of finite numbers."""

        def parse(field: str) -> float:
            if not math.isfinite(value := float(field)):
                raise ValueError
            return value

        return self.parsed(column, parse, "a finite number")
