"""Fig. 5: top-1 against measured speed for all policies, timed in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from reproduce import paper
from reproduce.claims import Claim, PerSeed
from reproduce.drawing import BAR
from reproduce.markdown import Page, markdown_table
from reproduce.rows import DVT, OWN, can_be_dvt
from reproduce.runs import Runs
from revit_video.adaptive import policies
from revit_video.adaptive.calibrate import (
    Point,
    assigned_points,
    cascade_points,
    exit_thresholds,
    hybrid_points,
)
from revit_video.adaptive.engine import Engine
from revit_video.adaptive.policies import Policy
from revit_video.data.batch import Batch
from revit_video.evaluate import Answers, keep_first, replay, time_policies
from revit_video.length import TokenLength
from revit_video.report.style import DVT_MARK, INK, POLICIES, canvas, length_colours, open_marker
from revit_video.runtime.launch import launch
from revit_video.runtime.logging import setup
from revit_video.runtime.ranks import init
from revit_video.stages.calibration import cascade_threshold
from revit_video.stages.comparison import Comparison, compare
from revit_video.stages.job import Job

POINTS = 5  # along each curve, besides the calibrated point of the run
ALL_POLICIES = ("TEST.POLICIES", ["static", "hybrid", "assigned", "random", "cascade", "oracle"])
STATIC_ALONE = ("TEST.POLICIES", ["static"])
# Series -> its title in the table.
SERIES = {
    "static": "always",
    "adaptive": "adaptive (hybrid)",
    "assigned": "assigner alone, the paper's",
    "cascade": "cascade over ReViT's lengths",
    "random": "random, same mix as the assigner",
    "oracle": "oracle",
    "DVT, static": "DVT up to",
    "DVT": "DVT, early exit",
}
LOOKS = POLICIES | {"DVT": DVT_MARK, "DVT, static": (DVT_MARK[0], "o", 6)}
LABELS = {
    "adaptive": "adaptive (hybrid)",
    "assigned": "assigner alone",
    "DVT": "DVT, early exit",
    "DVT, static": "DVT, all clips up to a stage",
}

CLOCK_BATCHES, CLOCK_BYTES = 16, 2 << 30  # of the test list, kept for the clock

Series = dict[str, list[Policy]]
Scores = dict[str, list[dict[str, float]]]  # series -> points with top1, gmacs and, if timed, speed


def fig5(sources: Sequence[Runs]) -> Page:
    """Every policy at several operating points, timed with the models of each seed."""
    (runs,) = sources
    with_dvt = can_be_dvt(runs.cfg)
    scores = []
    for seed in runs.seeds:
        own = runs.row_cfg(OWN, seed, *ALL_POLICIES)
        dvt = runs.row_cfg(DVT, seed, *STATIC_ALONE) if with_dvt else None
        scores.append(launch(operating_points, runs.cfg.NUM_GPUS, own, dvt, runs.command))
    return speed_page(scores, runs.lengths)


# ---- Measuring -------------------------------------------------------------------------------------------


def operating_points(cfg: CfgNode, dvt: CfgNode | None, command: str) -> Scores:
    """All policies on the test list, timed in one rotation; speed is relative to the longest length's."""
    ranks = init(cfg.DEVICE)
    setup(ranks.is_main)
    job = Job.of(cfg, ["test"], ranks, command)
    batches, kept = job.test_batches(cfg.TEST.SPLIT), list[Batch]()
    answers, engines = _replayed(job, _revit_series, keep_first(batches, kept, CLOCK_BATCHES, CLOCK_BYTES))
    if dvt is not None:
        dvt_job = Job.of(dvt, ["test"], ranks, command)
        theirs = _replayed(dvt_job, _dvt_series, dvt_job.test_batches(cfg.TEST.SPLIT))
        answers, engines = answers | theirs[0], engines | theirs[1]
    timed = {f"{name} {n}": engine for name, some in engines.items() for n, engine in enumerate(some)}
    speeds = time_policies(timed, kept, ranks)
    scores: Scores = {}
    for name, some in answers.items():
        scores[name] = [{"top1": each.videos.topk(1), "gmacs": each.mean_gmacs} for each in some]
        for n, score in enumerate(scores[name]):
            if speed := speeds.get(f"{name} {n}"):
                score["speed"] = speed.speedup[1]
    return scores


def _replayed(
    job: Job, series: Callable[[Job, Comparison], Series], batches: Iterable[Batch]
) -> tuple[dict[str, list[Answers]], dict[str, list[Engine]]]:
    """Answers and engines of a job's series of policies; the oracle has no engine."""
    compared = compare(job, job.trained)
    table = job.tabulate(compared.model, "test", batches, compared.reading_assigner)
    found = series(job, compared)
    answers = {name: [replay(table, each, compared.costs) for each in some] for name, some in found.items()}
    engines = {
        name: [compared.engine(each) for each in some] for name, some in found.items() if name != "oracle"
    }
    return answers, engines


def _revit_series(job: Job, compared: Comparison) -> Series:
    """The policies of a ReViT; the first of each series is the calibrated one."""
    costs, own, per_view = compared.costs, compared.policies, compared.settings.per_view
    shipped = compared.settings.hybrid
    assert shipped is not None
    table = job.tabulate(compared.model, "val", job.test_batches("val"), compared.reading_assigner)
    assigned = along(assigned_points(table, costs, per_view), POINTS)
    worthwhile = [point for point in cascade_points(table, costs) if point.gmacs <= costs.gmacs[0]]
    hybrid = along(hybrid_points(table, costs, shipped.temperatures, per_view), POINTS)
    count = len(costs.gmacs)
    exits = [policies.cascade([point.threshold] * count) for point in along(worthwhile, POINTS)]
    return {
        "static": [own[str(length)] for length in compared.model.lengths],
        "adaptive": [own["hybrid"], *(point.hybrid.policy() for point in hybrid if point.hybrid)],
        "assigned": [own["assigned"], *(policies.assigned(point.threshold, per_view) for point in assigned)],
        "cascade": [own["cascade"], *exits],
        "random": [own["random"]],
        "oracle": [own["oracle"]],
    }


def _dvt_series(job: Job, compared: Comparison) -> Series:
    """The policies of a DVT: all clips up to each stage, and early exits for several budgets."""
    table = job.tabulate(compared.model, "val", job.test_batches("val"))
    calibrated = cascade_threshold(job.cfg, table, compared.costs)
    assert isinstance(calibrated, list)
    points = along(cascade_points(table, compared.costs), POINTS)
    thresholds = [calibrated, *(exit_thresholds(table.confidence, point.threshold) for point in points)]
    return {
        "DVT, static": list(compared.policies.values()),
        "DVT": [policies.cascade(each) for each in thresholds],
    }


def along(points: Sequence[Point], count: int) -> list[Point]:
    """The `count` points of a curve nearest to evenly spaced costs between its ends."""
    low, high = points[0].gmacs, points[-1].gmacs
    costs = [low + (high - low) * (n + 1) / (count + 1) for n in range(count)]
    return [min(points, key=lambda point: abs(point.gmacs - cost)) for cost in costs]


# ---- Writing ---------------------------------------------------------------------------------------------


def speed_page(measured: Sequence[Scores], lengths: Sequence[TokenLength]) -> Page:
    """The points as a table and a picture, means over the seeds."""
    points = {name: _points([scores[name] for scores in measured]) for name in measured[0]}
    longest, chosen, random = points["static"][0], points["assigned"][0], points["random"][0]
    rows = []
    for name, some in points.items():
        for n, point in enumerate(some):
            speed = f"{point['speed'].text(2, exact=True)}x" if "speed" in point else "-"
            cost = point["gmacs"].by(longest["gmacs"], lambda a, b: 100 * a / b)
            rows.append(
                [
                    point_title(name, n, lengths),
                    point["top1"].text(),
                    point["top1"].by(longest["top1"], lambda a, b: a - b).text(),
                    speed,
                    f"{cost.text(0, exact=True)} %",
                    f"{cost.by(cost, lambda c, _: 100 / c).text(2, exact=True)}x",
                ]
            )
    header = ["", "top-1 %", "points", "speed", "MACs", "MACs promise"]
    one = PerSeed.of(1.0 for _ in measured)
    claims = [
        Claim("the assigner is faster than always the longest", "1.50 > 1", chosen["speed"], one, 2),
        Claim("always the longest is a little better, top-1", "by 0.3", longest["top1"], chosen["top1"]),
        Claim("the assigner beats random lengths, top-1", "no figures", chosen["top1"], random["top1"]),
    ]
    return Page(
        "Fig. 5: accuracy against speed",
        [
            "Top-1 on the test list, and clips/s of policy and model without decoding, relative to the same "
            f"seed's ReViT always at {lengths[0]}. All policies ran in turn on the same batches, in one "
            f"process; the oracle cannot be timed. Accuracy and speed are {_of_seeds(len(measured))}. "
            "Thresholds are from the validation list: the calibrated ones, and others evenly spaced in cost.",
            markdown_table(header, rows),
            "The paper's points, on ImageNet-1K with an RTX 3090 at batch 32:",
            "\n".join(f"- {point}" for point in paper.OPERATING_POINTS),
        ],
        claims,
        speed_figure(points, lengths),
    )


def _points(seeds: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, PerSeed]]:
    """The points of a series over the seeds, without repetitions of the same top-1 and cost."""
    points: dict[tuple[PerSeed, PerSeed], dict[str, PerSeed]] = {}
    for each in zip(*seeds, strict=True):
        point = {key: PerSeed.of(score[key] for score in each) for key in each[0]}
        points.setdefault((point["top1"], point["gmacs"]), point)
    return list(points.values())


def _of_seeds(count: int) -> str:
    return f"means over the {count} seeds" if count > 1 else "one seed's"


def point_title(series: str, n: int, lengths: Sequence[TokenLength]) -> str:
    """`always 6x6`, `adaptive (hybrid), calibrated`, `adaptive (hybrid), point 2`."""
    title = SERIES[series]
    if series.endswith("static"):
        return f"{title} {lengths[n]}"
    if series in ("random", "oracle"):
        return title
    return f"{title}, calibrated" if n == 0 else f"{title}, point {n}"


def speed_figure(
    points: Mapping[str, Sequence[Mapping[str, PerSeed]]], lengths: Sequence[TokenLength]
) -> Figure:
    """Top-1 against relative speed; calibrated points are large, with bars of one standard deviation."""
    figure = canvas(4.8)
    axes = figure.subplots()
    points = {name: some for name, some in points.items() if "speed" in some[0]}
    for name, some in points.items():
        colour, marker, size = LOOKS.get(name, (INK, "", 0))
        curve = sorted(some, key=lambda point: point["speed"].mean)
        alike: Any = {"color": colour, "lw": 1.2, "zorder": 2}
        xs, ys = ([point[key].mean for point in curve] for key in ("speed", "top1"))
        if name.endswith("static"):
            axes.plot(xs, ys, ":", **alike)
        else:
            axes.plot(xs, ys, "-", marker=marker, ms=0.5 * size, mec="white", **alike)
    for name in (name for name in LOOKS if name in points):
        chosen = points[name] if name.endswith("static") else points[name][:1]
        for n, point in enumerate(chosen):
            label = LABELS.get(name, name) if n == 0 else None
            _spot(axes, point, *LOOKS[name], label)
    for point, length, colour in zip(points["static"], lengths, length_colours(lengths), strict=True):
        _spot(axes, point, colour, "o", 9, "static, one length for all" if length == lengths[0] else None)
        at = point["speed"].mean, point["top1"].mean
        text = axes.annotate(
            str(length), at, xytext=(10, 7), textcoords="offset points", fontsize=9, zorder=6
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    axes.set(
        title="Accuracy and speed",
        xlabel=f"clips/s without decoding, relative to always {lengths[0]}",
        ylabel="test top-1, %",
    )
    axes.margins(x=0.08, y=0.1)
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _spot(
    axes: Axes, point: Mapping[str, PerSeed], colour: str, marker: str, size: int, label: str | None
) -> None:
    """Draws a large point with bars of one standard deviation over the seeds."""
    x, y = point["speed"], point["top1"]
    look = BAR | {"fmt": marker} | open_marker(colour, size)
    axes.errorbar(x.mean, y.mean, y.deviation, x.deviation, label=label, **look)
