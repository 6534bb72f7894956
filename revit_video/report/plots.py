"""The figures of the report, drawn from a run's files; each raises `Missing` if there are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels
from revit_video.length import TokenLength
from revit_video.report.files import Missing, Run
from revit_video.report.lettering import axis_labels
from revit_video.report.results_table import PolicyResult, cost_unit, policy_results
from revit_video.report.style import (
    INK,
    MUTED,
    NARROW,
    PAPER,
    POLICIES,
    SHARES,
    WIDTH,
    canvas,
    length_colours,
    open_marker,
)

MAX_BARS = 20  # classes per panel; more are cut to one panel of the hardest and one of the easiest
MAX_MATRIX = 30  # classes of a legible confusion matrix


class Panel(NamedTuple):
    """One chart of a picture.

    Attributes:
        draw: on empty axes.
        height: inches.
        says: what the chart shows, for those who do not see it.
        width: share of its row.
    """

    draw: Callable[[Axes], None]
    height: float
    says: str
    width: float = 1.0


Picture = Sequence[Sequence[Panel]]
"""Rows of charts."""


def drawn_together(picture: Picture) -> Figure:
    """The picture in one piece, as wide as the page, with one legend."""
    heights = [max(panel.height for panel in row) for row in picture]
    figure = canvas(sum(heights) + 0.5)
    grid = figure.add_gridspec(len(picture), 1, height_ratios=heights)
    for place, row in enumerate(picture):
        cells = grid[place].subgridspec(1, len(row), width_ratios=[panel.width for panel in row])
        for column, panel in enumerate(row):
            panel.draw(figure.add_subplot(cells[column]))
    _legend(figure, 150)
    return figure


def drawn_alone(panel: Panel) -> Figure:
    """A chart for a narrow screen, with its own legend."""
    figure = canvas(panel.height, NARROW)
    panel.draw(figure.subplots())
    rows = _legend(figure, 75)
    figure.set_figheight(panel.height + 0.28 * rows)
    return figure


def _legend(figure: Figure, characters: int) -> int:
    """Below the charts, each label once, in lines of so many characters; the number of lines."""
    labelled: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    if not labelled:
        return 0
    columns = min(len(labelled), max(1, characters // (max(map(len, labelled)) + 6)))
    figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=columns)
    return -(-len(labelled) // columns)


def accuracy_cost(run: Run) -> Picture:
    """Top-1 of every policy against its MACs, and against its measured speed."""
    policies = list(policy_results(run.results).values())
    if not policies:
        raise Missing("results.json holds neither static lengths nor a policy")
    factor, unit = cost_unit(max(one.gmacs for one in policies))

    def cost(axes: Axes) -> None:
        adaptive = (run.results.get("adaptive") or {}).get("policy", "assigned")
        for curve, points in (run.results.get("curves") or {}).items():
            colour = POLICIES["adaptive" if curve == adaptive else curve][0]
            axes.plot(
                [factor * p["gmacs"] for p in points], [p["top1"] for p in points], color=colour, lw=1.6
            )
        _operating_points(axes, run, [(one, factor * one.gmacs) for one in policies])
        axes.set(title="Cost", xlabel=f"{unit} a view, assigner included", ylabel="test top-1, %")

    def speed(axes: Axes) -> None:
        _operating_points(axes, run, [(one, one.clips_per_sec) for one in policies if one.clips_per_sec])
        axes.set(title="Measured speed", xlabel="clips/s, without decoding", ylabel="test top-1, %")

    costs = ", ".join(f"{one.name} {one.top1:.1f} % at {factor * one.gmacs:.1f}" for one in policies)
    speeds = ", ".join(
        f"{one.name} {one.top1:.1f} % at {one.clips_per_sec:,.0f}" for one in policies if one.clips_per_sec
    )
    return [
        [
            Panel(cost, 3.9, f"Top-1 against {unit} a view: {costs}.", 1.25),
            Panel(speed, 3.9, f"Top-1 against clips/s: {speeds or 'nothing was timed'}."),
        ]
    ]


def _operating_points(axes: Axes, run: Run, places: list[tuple[PolicyResult, float]]) -> None:
    """Mark every policy at its place on the x axis and its top-1; a line joins the static lengths."""
    lengths = [str(length) for length in run.lengths]
    static = [(x, one.top1) for one, x in places if one.name in lengths]
    if static:
        axes.plot(*zip(*static, strict=True), ":o", ms=9, color=INK, mec=PAPER, label="one length for all")
    for one, x in places:
        at = (x, one.top1)
        if one.name in lengths:
            name = axes.annotate(
                one.name, at, xytext=(9, -13), textcoords="offset points", fontsize=9, zorder=6
            )
            name.set_path_effects([withStroke(linewidth=3, foreground=PAPER)])
        elif one.name in POLICIES:
            colour, marker, size = POLICIES[one.name]
            axes.plot(*at, marker, label=one.name, **open_marker(colour, size))
    axes.margins(0.1, 0.12)
    axes.set_xlim(left=0)


def lengths_per_class(run: Run) -> Picture:
    """Share of each class's test videos at each length, as chosen by the adaptive policy."""
    predictions = run.predictions
    if predictions.chosen is None:
        raise Missing("the adaptive policy was not run")
    counts = np.zeros((len(run.class_names), len(run.lengths)), dtype=int)
    np.add.at(counts, (predictions.truth, predictions.chosen), 1)
    return [_class_panels(run.lengths, counts, run.class_names, "share of the class's test videos")]


def label_histogram(mined: MinedLabels, class_names: Sequence[str]) -> Picture:
    """Token-length labels: the share of each length among all clips, and per class.

    They are those of the log: a clip that no length got right counts for the longest, or is left out.
    """
    labels, total = mined.token_lengths, len(mined.videos)
    unsolved = int((~mined.correct.any(dim=1)).sum())
    left_out = int((labels == NONE_CORRECT).sum())
    counts = [int((labels == i).sum()) for i in range(len(mined.lengths))]
    told = [
        f"{name}: {count:,} ({100 * count / total:.1f} %)"
        for name, count in zip(mined.lengths, counts, strict=True)
    ]
    none = f"none right: {unsolved:,} ({100 * unsolved / total:.1f} %)" + (
        "" if left_out else ", among the longest"
    )

    def overall(axes: Axes) -> None:
        left = 0.0
        for name, count, colour in zip(told, counts, length_colours(mined.lengths), strict=True):
            axes.barh(0, count / total, left=left, height=0.72, color=colour, label=name)
            left += count / total
        if unsolved:
            start = left if left_out else 0.0
            look: dict[str, Any] = {"fc": PAPER, "hatch": "////", "ec": MUTED, "lw": 0.6}
            axes.barh(0, unsolved / total, left=start, height=0.72, label=none, **look)
        axes.set(title=f"All {total:,} clips", xlim=(0, 1))
        axes.set_axis_off()

    says = f"Token-length labels of {total:,} clips: {'; '.join([*told, none])}."
    by_class = mined.by_class(len(class_names)).numpy()
    return [
        [Panel(overall, 0.8, says)],
        _class_panels(mined.lengths, by_class, class_names, "share of the class's labels"),
    ]


def _class_panels(
    lengths: Sequence[TokenLength], counts: np.ndarray, names: Sequence[str], share: str
) -> list[Panel]:
    """One chart of bars, or with many classes one of the hardest and one of the easiest.

    The harder of two classes has the larger share at the longest length, then at the next one.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = np.lexsort(-shares.T[::-1])
    order = order[counts[order].any(axis=1)]
    parts = [("By class", order)]
    if len(order) > MAX_BARS:
        hard = order[: min(MAX_BARS, (len(order) + 1) // 2)]
        easy = order[max(len(hard), len(order) - MAX_BARS) :]
        parts = [(f"{len(hard)} hardest of {len(order)} classes", hard), (f"{len(easy)} easiest", easy)]
    height = 0.9 + 0.3 * max(len(rows) for _, rows in parts)
    return [Panel(*_class_bars(title, lengths, shares, rows, names, share, height)) for title, rows in parts]


def _class_bars(
    title: str,
    lengths: Sequence[TokenLength],
    shares: np.ndarray,
    rows: np.ndarray,
    names: Sequence[str],
    share: str,
    height: float,
) -> Panel:
    """Stacked horizontal bars of the classes `rows`, from top to bottom."""

    def draw(axes: Axes) -> None:
        left = np.zeros(len(rows))
        for i, colour in enumerate(length_colours(lengths)):
            look: dict[str, Any] = {"color": colour, "height": 0.72, "ec": PAPER, "lw": 0.8}
            axes.barh(range(len(rows)), shares[rows, i], left=left, label=str(lengths[i]), **look)
            left += shares[rows, i]
        labels = axis_labels(names)
        axes.set_yticks(range(len(rows)), [labels[n] for n in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set(title=title, xlabel=share, xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))

    order = "/".join(map(str, lengths))
    told = "; ".join(f"{names[n]} {'/'.join(f'{100 * part:.0f}' for part in shares[n])}" for n in rows)
    return Panel(draw, height, f"{title}: {share} at {order}, in %: {told}.")


def confusion(run: Run) -> Figure:
    """Confusion matrix; `Missing` with more than `MAX_MATRIX` classes, see `confused_pairs`."""
    names = run.class_names
    if len(names) > MAX_MATRIX:
        raise Missing(f"{len(names)} classes are too many for a matrix")
    counts = confusion_counts(run)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(WIDTH, 3.2 + 0.55 * len(names))
    figure = canvas(side - 0.9, width=side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    places, labels = range(len(names)), axis_labels(names)
    slanted = len(names) > 8 or any(len(label) > 10 for label in labels)
    axes.set_xticks(places, labels, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(places, labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if shares[row, column] > 0.4 else INK
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, format=PercentFormatter(1, symbol=" %"))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def confused_pairs(run: Run, most: int = 20) -> list[tuple[str, str, int, float]]:
    """The most frequent confusions: true class, predicted class, videos, percent of the true class."""
    truth, predicted, names = run.predictions.truth, run.predictions.predicted, run.class_names
    total = np.bincount(truth, minlength=len(names))
    # Only the pairs that there are: a matrix of many classes would not fit the memory.
    pairs, counts = np.unique((truth * len(names) + predicted)[truth != predicted], return_counts=True)
    worst = np.argsort(-counts, kind="stable")[:most]
    places = [(*divmod(int(pairs[n]), len(names)), int(counts[n])) for n in worst]
    return [
        (names[true], names[taken_for], count, 100 * count / total[true]) for true, taken_for, count in places
    ]


def confusion_counts(run: Run) -> np.ndarray:
    """Test videos by true and predicted class `(classes, classes)`."""
    size = len(run.class_names)
    counts = np.zeros((size, size), dtype=int)
    np.add.at(counts, (run.predictions.truth, run.predictions.predicted), 1)
    return counts


def training(run: Run) -> Picture:
    """Loss and top-1 of each length per training step, and the assigner's loss and accuracy.

    Of heads in closed form, which have no steps: what they reach with fewer clips.
    """
    train, assigner = run.stats.get("train", []), run.stats.get("assigner", [])
    curve = learning_curve(run)
    if not train and not assigner and not curve:
        raise Missing("stats.jsonl has no line of a training")
    rows = [[_clips_panel(run, curve)]] if curve else []
    names, colours = [str(length) for length in run.lengths], length_colours(run.lengths)
    if train:
        validated = run.stats.get("val", [])

        def loss(axes: Axes) -> None:
            for name, colour in zip(names, colours, strict=True):
                _curve(axes, train, f"loss_{name}", colour, name)
            axes.set(title="Backbone: loss", xlabel="training step", ylabel="loss", ylim=(0, None))

        def top1(axes: Axes) -> None:
            for name, colour in zip(names, colours, strict=True):
                _curve(axes, train, f"top1_{name}", colour, name)
                axes.plot(*_points(validated, f"top1_{name}"), "o", ms=5, color=colour, mec=PAPER)
            axes.set(title="Backbone: top-1", xlabel="training step", ylabel="top-1, %", ylim=(None, 101))

        rows.append(
            [
                Panel(loss, 3.2, f"Loss of the backbone: {_from_to(train, 'loss', names)}."),
                Panel(top1, 3.2, f"Top-1 in training, %: {_from_to(train, 'top1', names)}."),
            ]
        )
    if assigner:
        colour = POLICIES["adaptive"][0]

        def assigners_loss(axes: Axes) -> None:
            _curve(axes, assigner, "loss", colour)
            axes.set(title="Assigner: loss", xlabel="training step", ylabel="cross-entropy")

        def accuracy(axes: Axes) -> None:
            _curve(axes, assigner, "accuracy", colour)
            axes.set(title="Assigner: accuracy", xlabel="training step", ylabel="mined labels met, %")

        rows.append(
            [
                Panel(assigners_loss, 3.2, f"Loss of the assigner: {_from_to(assigner, 'loss')}."),
                Panel(
                    accuracy, 3.2, f"Mined labels that the assigner met, %: {_from_to(assigner, 'accuracy')}."
                ),
            ]
        )
    return rows


def learning_curve(run: Run) -> list[tuple[int, float]]:
    """Top-1 of the longest length in percent by the number of clips learned from; perhaps empty."""
    try:
        return [(point["clips"], point["top1"]) for point in run.results.get("learning_curve") or []]
    except Missing:
        return []


def _clips_panel(run: Run, curve: list[tuple[int, float]]) -> Panel:
    def draw(axes: Axes) -> None:
        chance = 100 / len(run.class_names)
        axes.plot(*zip(*curve, strict=True), "-o", ms=7, lw=1.9, color=length_colours(run.lengths)[0])
        axes.axhline(chance, ls=":", color=MUTED, label="chance")
        axes.set(title=f"{run.lengths[0]}: top-1 by the number of clips")
        axes.set(xlabel="clips learned from", ylabel="top-1 out of fold, %", xlim=(0, None), ylim=(0, 101))

    told = ", ".join(f"{top1:.1f} % from {clips}" for clips, top1 in curve)
    return Panel(draw, 3.2, f"Top-1 of {run.lengths[0]} by the number of clips learned from: {told}.")


def _from_to(lines: list[dict[str, Any]], key: str, names: Sequence[str] = ("",)) -> str:
    """The first and the last logged values in words."""
    told = []
    for name in names:
        _, values = _points(lines, f"{key}_{name}" if name else key)
        if len(values):
            told.append(f"{name} from {values[0]:.3g} to {values[-1]:.3g}".strip())
    return ", ".join(told) or "not logged"


def _curve(axes: Axes, lines: list[dict[str, Any]], key: str, colour: str, label: str | None = None) -> None:
    """Plot the logged values, faint, and their running mean."""
    steps, values = _points(lines, key)
    if not len(steps):
        return
    window = max(1, len(values) // 20)
    kernel = np.ones(min(2 * window + 1, len(values)))
    # Divided by the number of values under the kernel, which is smaller at both ends.
    smooth = np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
    axes.plot(steps, values, color=colour, alpha=0.25, lw=0.9)
    mark = "o" if len(values) == 1 else None  # which makes no line
    axes.plot(steps, smooth, marker=mark, color=colour, lw=1.9, label=label)


def _points(lines: list[dict[str, Any]], key: str) -> np.ndarray:
    """The steps at which a value was logged, and the values `(2, N)`."""
    points = [(line["step"], line[key]) for line in lines if "step" in line and line.get(key) is not None]
    return np.array(points, dtype=float).reshape(-1, 2).T
