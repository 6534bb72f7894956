"""The figures of the report, drawn from a run's files; each raises `Missing` if there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from revit_video.adaptive.labels import MinedLabels
from revit_video.length import TokenLength
from revit_video.report.files import Missing, Run
from revit_video.report.lettering import axis_labels
from revit_video.report.results_table import PolicyResult, cost_unit, policy_results
from revit_video.report.style import INK, MUTED, POLICIES, SHARES, WIDTH, canvas, length_colours, open_marker

MAX_BARS = 20  # classes per panel; more are cut to one panel of the hardest and one of the easiest
MAX_MATRIX = 30  # classes of a legible confusion matrix


def accuracy_cost(run: Run) -> Figure:
    """Top-1 of every policy against its MACs, and against its measured speed."""
    policies = list(policy_results(run.results).values())
    if not policies:
        raise Missing("results.json holds neither static lengths nor a policy")
    factor, unit = cost_unit(max(one.gmacs for one in policies))
    figure = canvas(4.4)
    cost, speed = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))

    adaptive = (run.results.get("adaptive") or {}).get("policy", "assigned")
    for curve, points in (run.results.get("curves") or {}).items():
        colour = POLICIES["adaptive" if curve == adaptive else curve][0]
        cost.plot([factor * p["gmacs"] for p in points], [p["top1"] for p in points], color=colour, lw=1.6)
    _operating_points(cost, run, [(one, factor * one.gmacs) for one in policies])
    _operating_points(speed, run, [(one, one.clips_per_sec) for one in policies if one.clips_per_sec])
    cost.set(title="Cost", xlabel=f"{unit} a view, assigner included", ylabel="test top-1, %")
    speed.set(title="Measured speed", xlabel="clips/s, without decoding")
    cost.set_xlim(left=0)
    speed.set_xlim(left=0)
    handles, names = cost.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _operating_points(axes: Axes, run: Run, places: list[tuple[PolicyResult, float]]) -> None:
    """Mark every policy at its place on the x axis and its top-1; a line joins the static lengths."""
    lengths = [str(length) for length in run.lengths]
    static = [(x, one.top1) for one, x in places if one.name in lengths]
    axes.plot([x for x, _ in static], [y for _, y in static], ":", color=INK)
    for one, x in places:
        at = (x, one.top1)
        if one.name in lengths:
            colour = length_colours(run.lengths)[lengths.index(one.name)]
            label = "static, one length for all" if at == static[0] else None
            axes.plot(*at, "o", ms=9, color=colour, mec="white", label=label)
            name = axes.annotate(
                one.name, at, xytext=(9, -13), textcoords="offset points", fontsize=9, zorder=6
            )
            name.set_path_effects([withStroke(linewidth=3, foreground="white")])
        elif one.name in POLICIES:
            colour, marker, size = POLICIES[one.name]
            axes.plot(*at, marker, label=one.name, **open_marker(colour, size))
    axes.margins(0.1, 0.12)


def lengths_per_class(run: Run) -> Figure:
    """Share of each class's test videos at each length, as chosen by the adaptive policy."""
    predictions = run.predictions
    if predictions.chosen is None:
        raise Missing("the adaptive policy was not run")
    counts = np.zeros((len(run.class_names), len(run.lengths)), dtype=int)
    np.add.at(counts, (predictions.truth, predictions.chosen), 1)
    columns = _columns(counts)
    figure = canvas(1.3 + _bars_height(columns))
    for axes, (title, rows) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        _class_bars(axes, run.lengths, counts, rows, run.class_names)
        axes.set(title=title, xlabel="share of the class's test videos")
    _length_legend(figure, run)
    return figure


def label_histogram(mined: MinedLabels, class_names: Sequence[str]) -> Figure:
    """Token-length labels: the share of each length among all clips, and per class."""
    solved, total = mined.correct.any(dim=1), len(mined.videos)
    names = ["none right", *map(str, mined.lengths)]
    counts = [int((~solved).sum())]
    counts += [int((solved & (mined.token_lengths == i)).sum()) for i in range(len(mined.lengths))]
    looks: list[dict[str, Any]] = [{"fc": "white", "hatch": "////", "ec": MUTED, "lw": 0.6}]
    looks += [{"color": colour} for colour in length_colours(mined.lengths)]

    by_class = mined.by_class(len(class_names)).numpy()
    columns = _columns(by_class)
    figure = canvas(2.0 + _bars_height(columns))
    grid = figure.add_gridspec(2, len(columns), height_ratios=(0.3, _bars_height(columns)))
    overall = figure.add_subplot(grid[0, :])
    for n, (count, look) in enumerate(zip(counts, looks, strict=True)):
        overall.barh(0, count / total, left=sum(counts[:n]) / total, height=0.72, **look)
    overall.set(title=f"All {total:,} clips", xlim=(0, 1))
    overall.set_axis_off()
    for place, (title, rows) in enumerate(columns):
        axes = figure.add_subplot(grid[1, place])
        _class_bars(axes, mined.lengths, by_class, rows, class_names)
        axes.set(title=title, xlabel="share of the class's labels")
    handles = [
        Patch(**look, label=f"{name}: {count:,} ({100 * count / total:.1f} %)")
        for name, count, look in zip(names, counts, looks, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _columns(counts: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Titles and classes of the panels for `counts` `(classes, lengths)`, hardest class first.

    The harder of two classes has the larger share at the longest length, then at the next one.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = np.lexsort(-shares.T[::-1])
    order = order[counts[order].any(axis=1)]
    if len(order) <= MAX_BARS:
        return [("By class", order)]
    hard = order[: min(MAX_BARS, (len(order) + 1) // 2)]
    easy = order[max(len(hard), len(order) - MAX_BARS) :]
    return [(f"{len(hard)} hardest of {len(order)} classes", hard), (f"{len(easy)} easiest", easy)]


def _bars_height(columns: list[tuple[str, np.ndarray]]) -> float:
    """In inches."""
    return 0.3 * max(len(rows) for _, rows in columns)


def _class_bars(
    axes: Axes, lengths: Sequence[TokenLength], counts: np.ndarray, rows: np.ndarray, names: Sequence[str]
) -> None:
    """Stacked horizontal bars of the classes `rows`, from top to bottom."""
    shares = counts[rows] / counts[rows].sum(axis=1, keepdims=True)
    left = np.zeros(len(rows))
    for i, colour in enumerate(length_colours(lengths)):
        axes.barh(range(len(rows)), shares[:, i], left=left, color=colour, height=0.72, ec="white", lw=0.8)
        left += shares[:, i]
    labels = axis_labels(names)
    axes.set_yticks(range(len(rows)), [labels[n] for n in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _length_legend(figure: Figure, run: Run) -> None:
    colours = length_colours(run.lengths)
    patches = [Patch(color=c, label=str(length)) for c, length in zip(colours, run.lengths, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))


def confusion(run: Run) -> Figure:
    """Confusion matrix; `Missing` with more than `MAX_MATRIX` classes, see `confused_pairs`."""
    names = run.class_names
    if len(names) > MAX_MATRIX:
        raise Missing(f"{len(names)} classes are too many for a matrix")
    counts = _confusion_counts(run)
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


def _confusion_counts(run: Run) -> np.ndarray:
    size = len(run.class_names)
    counts = np.zeros((size, size), dtype=int)
    np.add.at(counts, (run.predictions.truth, run.predictions.predicted), 1)
    return counts


def training(run: Run) -> Figure:
    """Loss and top-1 of each length per training step, and the assigner's loss and accuracy."""
    train, assigner = run.stats.get("train", []), run.stats.get("assigner", [])
    if not train and not assigner:
        raise Missing("stats.jsonl has no line of a training")
    stages = [stage for stage in (train, assigner) if stage]
    figure = canvas(3.2 * len(stages) + 0.4)
    panels = iter(figure.subplots(len(stages), 2, squeeze=False))
    if train:
        loss, top1 = next(panels)
        validated = run.stats.get("val", [])
        for length, colour in zip(run.lengths, length_colours(run.lengths), strict=True):
            _curve(loss, train, f"loss_{length}", colour, str(length))
            _curve(top1, train, f"top1_{length}", colour)
            points = _points(validated, f"top1_{length}")
            top1.plot(*points, "o", ms=5, color=colour, mec="white")
        loss.set(title="Backbone: loss", xlabel="training step", ylabel="loss", ylim=(0, None))
        top1.set(title="Backbone: top-1", xlabel="training step", ylabel="top-1, %", ylim=(None, 101))
        _length_legend(figure, run)
    if assigner:
        loss, accuracy = next(panels)
        colour = POLICIES["adaptive"][0]
        _curve(loss, assigner, "loss", colour)
        _curve(accuracy, assigner, "accuracy", colour)
        loss.set(title="Assigner: loss", xlabel="training step", ylabel="cross-entropy")
        accuracy.set(title="Assigner: accuracy", xlabel="training step", ylabel="mined labels met, %")
    return figure


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
    axes.plot(steps, smooth, color=colour, lw=1.9, label=label)


def _points(lines: list[dict[str, Any]], key: str) -> np.ndarray:
    """The steps at which a value was logged, and the values `(2, N)`."""
    points = [(line["step"], line[key]) for line in lines if "step" in line and line.get(key) is not None]
    return np.array(points, dtype=float).reshape(-1, 2).T
