"""The figures of results.json as a table and as one sentence."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200  # columns; wide enough that text in a file is not folded


@dataclass(frozen=True)
class PolicyResult:
    """One policy's entry in results.json; None for what was not measured.

    Attributes:
        name: a static length ("6x6"), "adaptive" (the policy that `predict` runs), "assigned", "random",
            "cascade" or "oracle".
        top1, top5: percent.
        mAP: percent; None with one label a video.
        gmacs: GMACs per view.
        policy: which policy "adaptive" is; None for `assigned`, in results older than `hybrid`.
        speedup: clips/s over those of the longest length.
        macs_speedup: the longest length's GMACs over `gmacs`.
        length_counts: number of clips at each length.
    """

    name: str
    top1: float
    gmacs: float
    policy: str | None = None
    top5: float | None = None
    mAP: float | None = None
    clips_per_sec: float | None = None
    speedup: float | None = None
    macs_speedup: float | None = None
    length_counts: dict[str, int] | None = None

    def percent_at(self, lengths: list[str]) -> list[float]:
        """Percent of the clips at each of `lengths`."""
        counts = self.length_counts or {self.name: 1}
        total = sum(counts.values()) or 1
        return [100 * counts.get(length, 0) / total for length in lengths]


def said_of(results: dict[str, Any]) -> list[str]:
    """What makes the results too good, and what those of a small test can bear, in sentences."""
    return [*(results.get("remarks") or ()), *(results.get("verdict") or ())]


def policy_results(results: dict[str, Any]) -> dict[str, PolicyResult]:
    """By name: static lengths, longest first, then the adaptive policy and those to compare it with."""
    static = results["static"] or {}
    entries = {length: static[length] for length in results["lengths"] if length in static}
    entries |= {"adaptive": results.get("adaptive")} | (results.get("policies") or {})
    known = {field.name for field in fields(PolicyResult)}
    return {
        name: PolicyResult(name, **{key: value for key, value in entry.items() if key in known})
        for name, entry in entries.items()
        if entry
    }


def headline(results: dict[str, Any]) -> tuple[PolicyResult | None, PolicyResult | None]:
    """The result of the policy that `predict` runs (without an assigner the cascade), and the longest's."""
    policies = policy_results(results)
    return policies.get("adaptive", policies.get("cascade")), policies.get(results["lengths"][0])


def cost_unit(largest_gmacs: float) -> tuple[float, str]:
    """Factor on GMACs, and the unit, in which to show costs up to `largest_gmacs`."""
    return (1.0, "GMACs") if largest_gmacs >= 1 else (1000.0, "MMACs")


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, as text; "-" where nothing was measured."""
    policies, lengths = policy_results(results), results["lengths"]
    longest = policies.get(lengths[0])
    factor, unit = cost_unit(max((one.gmacs for one in policies.values()), default=1.0))
    several = any(one.mAP is not None for one in policies.values())
    # Of up to 5 classes, all are among the 5 most probable.
    second = "mAP" if several else "" if len(results.get("classes") or range(6)) <= 5 else "top5"
    header = [
        "",
        "right %" if several else "top-1 %",
        *([{"mAP": "mAP %", "top5": "top-5 %"}[second]] if second else []),
        f"{unit} a view",
        "% of longest",
        "clips/s",
        "speed-up",
    ]
    header.append("% of clips at " + "/".join(lengths))
    rows = [
        [
            one.name,
            _text(one.top1, "{:.1f}"),
            *([_text(getattr(one, second), "{:.1f}")] if second else []),
            _text(factor * one.gmacs, "{:.1f}"),
            _text(100 * one.gmacs / longest.gmacs if longest else None, "{:.0f}"),
            _text(one.clips_per_sec, "{:.1f}"),
            _text(one.speedup, "{:.2f}x"),
            "/".join(f"{percent:.0f}" for percent in one.percent_at(lengths)),
        ]
        for one in policies.values()
    ]
    return header, rows


def summary(results: dict[str, Any]) -> str:
    """Accuracy, cost and speed of the headline policy, in one sentence."""
    chosen, longest = headline(results)
    if chosen is None:
        return "The adaptive policy was not run."
    policy = f"{chosen.policy}, " if chosen.policy else ""
    measured = "top-1" if chosen.mAP is None else f"right, {chosen.mAP:.1f} % mAP"
    text = f"{chosen.name}: {policy}{chosen.top1:.1f} % {measured}"
    if not longest:
        return text
    points, percent = chosen.top1 - longest.top1, 100 * chosen.gmacs / longest.gmacs
    text += f" ({points:+.1f} points) at {percent:.0f} % of the longest length's MACs"
    if chosen.speedup and chosen.macs_speedup:
        text += f", {chosen.speedup:.2f}x its clips/s (MACs promise {chosen.macs_speedup:.2f}x)"
    return text


def print_table(results: dict[str, Any], file: IO[str] | None = None) -> None:
    """Print the table and the sentence: ruled and coloured on a terminal, as Markdown elsewhere."""
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
    chosen, _ = headline(results)
    for row in rows:
        grid.add_row(*row, style="bold green" if chosen and row[0] == chosen.name else None)
    console.print(grid)
    console.print(Text(summary(results), style="bold"))
    for remark in said_of(results):
        console.print(Text(remark))


def _two_lines(title: str) -> str:
    first, _, rest = title.rpartition(" ")
    return f"{first}\n{rest}" if len(title) > 8 else title


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
