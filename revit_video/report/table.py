"""The figures of `results.json` as a table and as one sentence."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200  # columns; text that goes to a file is not folded


class Row(NamedTuple):
    """One way to read the test clips: a name ("6x6", "adaptive", "random" …) and its entry in the results."""

    name: str
    entry: dict[str, Any]


def rows_of(results: dict[str, Any]) -> list[Row]:
    """Static lengths, longest first, then the adaptive policy and the others it is compared with."""
    static = results["static"] or {}
    rows = [Row(length, static[length]) for length in results["lengths"] if length in static]
    if results.get("adaptive"):
        rows.append(Row("adaptive", results["adaptive"]))
    return rows + [Row(name, entry) for name, entry in (results.get("policies") or {}).items() if entry]


def cost_unit(largest_gmacs: float) -> tuple[float, str]:
    """Factor on GMACs and name of the unit in which costs up to `largest_gmacs` read well."""
    return (1.0, "GMACs") if largest_gmacs >= 1 else (1000.0, "MMACs")


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, as text; "-" is what was not measured."""
    rows = rows_of(results)
    factor, unit = cost_unit(max((row.entry["gmacs"] for row in rows), default=1.0))
    longest = longest_entry(results)
    header = ["", "top-1 %", "top-5 %", f"{unit} a view", "% of longest", "clips/s", "speed-up"]
    header.append("% read at " + "/".join(results["lengths"]))
    cells = []
    for name, entry in rows:
        cost = entry["gmacs"]
        share = 100 * cost / longest["gmacs"] if longest else None
        cells.append(
            [
                name,
                _text(entry.get("top1"), "{:.1f}"),
                _text(entry.get("top5"), "{:.1f}"),
                _text(factor * cost, "{:.1f}"),
                _text(share, "{:.0f}"),
                _text(entry.get("clips_per_sec"), "{:.1f}"),
                _text(entry.get("speedup"), "{:.2f}x"),
                "/".join(f"{share:.0f}" for share in _mix(name, entry, results["lengths"])),
            ]
        )
    return header, cells


def longest_entry(results: dict[str, Any]) -> dict[str, Any] | None:
    """Results of always reading the longest length, if that was measured."""
    return (results["static"] or {}).get(results["lengths"][0])


def headline_row(results: dict[str, Any]) -> Row | None:
    """The adaptive policy, or a cascade where there is no assigner, as in DVT; None with neither."""
    rows = {row.name: row for row in rows_of(results)}
    return rows.get("adaptive") or rows.get("cascade")


def summary(results: dict[str, Any]) -> str:
    """What adaptive inference gives, in one sentence."""
    row, longest = headline_row(results), longest_entry(results)
    if row is None:
        return "The adaptive policy was not run."
    name, entry = row
    text = f"{name}: {entry['top1']:.1f} % top-1"
    if not longest:
        return text
    points, share = entry["top1"] - longest["top1"], 100 * entry["gmacs"] / longest["gmacs"]
    text += f" ({points:+.1f} points) at {share:.0f} % of the longest length's MACs"
    if entry.get("speedup"):
        text += f", {entry['speedup']:.2f}x its clips/s (MACs promise {entry['macs_speedup']:.2f}x)"
    return text


def print_table(results: dict[str, Any], file: IO[str] | None = None) -> None:
    """Prints the table and the sentence: ruled and coloured on a terminal, Markdown anywhere else."""
    console = Console(file=file, highlight=False, markup=False)
    header, rows = table(results)
    if console.is_terminal:
        grid = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        header = [_two_lines(title) for title in header]
    else:
        console.width = PLAIN_WIDTH
        grid = Table(box=box.MARKDOWN)
    for n, title in enumerate(header):
        grid.add_column(title, justify="right" if n else "left")
    headline = headline_row(results)
    for row in rows:
        grid.add_row(*row, style="bold green" if headline and row[0] == headline.name else None)
    console.print(grid)
    console.print(Text(summary(results), style="bold"))


def _two_lines(title: str) -> str:
    first, _, rest = title.rpartition(" ")
    return f"{first}\n{rest}" if len(title) > 8 else title


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _mix(name: str, entry: dict[str, Any], lengths: list[str]) -> list[float]:
    """Percent of the clips read at each length."""
    counts = entry.get("length_counts") or {name: 1}
    total = sum(counts.values()) or 1
    return [100 * counts.get(length, 0) / total for length in lengths]
