"""report.html: one page that needs no network and no other file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels
from revit_video.meters import interval
from revit_video.report import plots
from revit_video.report.files import Missing, Run
from revit_video.report.gallery import gallery
from revit_video.report.lettering import families
from revit_video.report.operating_points import operating_points
from revit_video.report.per_class import MOST_CLASSES, class_results, mistakes, paired_points
from revit_video.report.results_table import (
    PolicyResult,
    cost_unit,
    headline,
    policy_results,
    said_of,
    summary,
    table,
)
from revit_video.report.style import RC, THEMES, inline_svg, png, themes
from revit_video.runtime import output_dir
from revit_video.runtime.html import rendered
from revit_video.runtime.text import printable
from revit_video.runtime.yaml_file import dump_yaml

TEMPLATES = Path(__file__).with_name("templates")
FILES = (output_dir.RESULTS, output_dir.PREDICTIONS, output_dir.LABELS, output_dir.SKIPPED)


def write_report(folder: str, data_folder: str = "", own: bool = False) -> str:
    """Write report.html and its pictures from the files in `folder`; returns the page's path.

    A section whose files are missing is replaced by a line that says why.

    Args:
        data_folder: the only one whose videos are shown; empty for what is below the one that the run's
            config names, links not followed.
        own: this process has made the run: its lists and links are followed.

    Raises:
        FileNotFoundError: there is no such folder, or it is no OUTPUT_DIR.
    """
    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder")
    files = output_dir.RESULTS, output_dir.STATS
    if not any(os.path.isfile(os.path.join(folder, name)) for name in files):
        raise FileNotFoundError(f"{folder}: no run's folder, it has neither {' nor '.join(files)}")
    run = Run(folder, data_folder, own)
    with matplotlib.rc_context(RC | {"font.family": families(run.class_names)}):
        body = Markup("").join(_section(run, title, content) for title, content in SECTIONS)
    path = os.path.join(folder, output_dir.REPORT)
    page = rendered(TEMPLATES, output_dir.REPORT, title=_title(run), colours=_colours(run), body=body)
    output_dir.atomic_write_text(path, page)
    return path


def _section(run: Run, title: str, content: Callable[[Run], Markup]) -> Markup:
    try:
        return Markup("<section><h2>{}</h2>{}</section>").format(title, content(run))
    except Missing as why:
        reason = printable(str(why).replace(os.path.join(run.directory, ""), ""))
        absent = '<section class="absent"><h2>{}</h2><p>Left out: {}.</p></section>'
        return Markup(absent).format(title, reason)


def _title(run: Run) -> str:
    try:
        return f"{run.results['dataset']}: adaptive token lengths"
    except (Missing, KeyError):
        return "Adaptive token lengths"


def _colours(run: Run) -> dict[str, tuple[str, str]]:
    try:
        return themes(run.lengths)
    except Missing:
        return THEMES


def write_labels_picture(folder: str, mined: MinedLabels, class_names: Sequence[str]) -> str:
    """Write labels.png, the histogram of mined token-length labels; returns its path."""
    path = os.path.join(folder, output_dir.LABELS_PICTURE)
    with matplotlib.rc_context(RC | {"font.family": families(class_names)}):
        _write(path, plots.drawn_together(plots.label_histogram(mined, class_names)))
    return path


def _write(path: str, figure: Figure) -> None:
    data = png(figure)
    with output_dir.replacing(path, "wb") as file:
        file.write(data)


class Chart(NamedTuple):
    """One `<svg>` of the page.

    Attributes:
        says: what it shows.
        width, height: of its coordinates.
        content: what is drawn.
        place: from the data's x and y to its coordinates, (origin, scale) each; None where the slider marks
            nothing in it.
    """

    says: str
    width: float
    height: float
    content: Markup
    place: tuple[float, float, float, float] | None


def _picture(run: Run, name: str, draw: Callable[[Run], plots.Picture], caption: str) -> Markup:
    """Draw a picture, write it as `name`, and return its charts as HTML."""
    picture, stem = draw(run), name.partition(".")[0]
    _write(os.path.join(run.directory, name), plots.drawn_together(picture))
    rows = [
        [_chart(run, panel, f"{stem}-{i}-{j}") for j, panel in enumerate(row)]
        for i, row in enumerate(picture)
    ]
    return rendered(TEMPLATES, "figure.html", rows=rows, caption=caption)


def _chart(run: Run, panel: plots.Panel, name: str) -> Chart:
    with matplotlib.rc_context({"font.size": 12, "axes.titlesize": 13}):
        figure = plots.drawn_alone(panel)
        content = Markup(inline_svg(figure, name, _colours(run)))
    width, height = (round(72 * inches, 2) for inches in figure.get_size_inches())
    place = None
    if name == COST_CHART:
        (x0, y0), (x1, y1) = figure.axes[0].transData.transform([(0, 0), (1, 1)]) * 72 / figure.dpi
        place = (x0, x1 - x0, height - y0, y0 - y1)
    return Chart(panel.says, width, height, content, place)


def _headline(run: Run) -> Markup:
    results = run.results
    chosen, longest = headline(results)
    header, rows = table(results)
    texts = [summary(results), _paired(run), *said_of(results), clock_in_words(results)]
    return rendered(
        TEMPLATES,
        "headline.html",
        cards=_cards(results, chosen, longest),
        header=["policy", *header[1:2], "95 % interval", *header[2:]],
        rows=[
            [*row[:2], interval_in_words(one.top1, results), *row[2:]]
            for row, one in zip(rows, policy_results(results).values(), strict=True)
        ],
        chosen=chosen.name if chosen else None,
        texts=[text for text in texts if text],
        **_hybrid(run),
    )


def _cards(
    results: dict[str, Any], chosen: PolicyResult | None, longest: PolicyResult | None
) -> list[tuple[str, str, str]]:
    """The figures that are shown large: what, its value, and more about it."""
    name, cards = results["lengths"][0], []
    if chosen and longest:
        points = f"{chosen.top1 - longest.top1:+.1f}".replace("-", "−")
        factor, unit = cost_unit(longest.gmacs)
        cost, full = factor * chosen.gmacs, factor * longest.gmacs
        costs = f"{cost:.1f} of {full:.1f} {unit} a view"
        cards += [
            (
                f"top-1, {chosen.policy or chosen.name}",
                f"{chosen.top1:.1f} %",
                f"{points} points to always {name}",
            ),
            (f"of the MACs of {name}", f"{100 * cost / full:.0f} %", costs),
        ]
        if chosen.speedup and chosen.macs_speedup:
            promise = f"its MACs promise {chosen.macs_speedup:.2f}×"
            cards.append((f"clips/s of {name}", f"{chosen.speedup:.2f}×", promise))
    elif longest:
        cards.append((f"top-1, always {name}", f"{longest.top1:.1f} %", "the adaptive policy was not run"))
    videos, skipped = results.get("videos") or 0, results.get("skipped") or 0
    cards.append((f"{results.get('split', 'test')} videos", f"{videos:,}", f"{skipped:,} could not be read"))
    return cards


def interval_in_words(top1: float, results: dict[str, Any]) -> str:
    """Between which percentages a top-1 lies in truth (95 %); "-" where videos are not counted."""
    videos = results.get("videos")
    if not videos:
        return "-"
    low, high = interval(round(top1 / 100 * videos), videos)
    return f"{low:.1f} to {high:.1f}"


def _paired(run: Run) -> str:
    """What adapting gains on the same videos, with its interval."""
    try:
        mean, low, high = paired_points(run)
    except Missing:
        return ""
    signed = [f"{value:+.1f}".replace("-", "−") for value in (mean, low, high)]
    return (
        f"Against always {run.lengths[0]}, on the same videos: {signed[0]} points, 95 % interval "
        f"{signed[1]} to {signed[2]}; the intervals in the table are each policy's own."
    )


def clock_in_words(results: dict[str, Any]) -> str:
    """How exact the clock was: the speed-up of the longest length over itself."""
    control = (results.get("clock") or {}).get("control")
    if not control:
        return ""
    low, high = control["speedup_quartiles"]
    return (
        f"The longest length, timed a second time in each round: {control['speedup']:.2f}x, quartiles "
        f"{low:.2f} to {high:.2f}; what differs from 1 by no more has not been shown."
    )


def _hybrid(run: Run) -> dict[str, Any]:
    """The operating point of policy `hybrid`, its certificate, and the share of clips on each path."""
    entry = run.results.get("adaptive")
    if not entry or entry.get("policy") != "hybrid":
        return {"paths": [], "point": ""}
    total = sum(entry["path_counts"].values()) or 1
    rows = [
        [" → ".join(path.split()), f"{count:,}", f"{100 * count / total:.0f}"]
        for path, count in entry["path_counts"].items()
    ]
    start = "the assigner picks the first length" if entry["assigner_gmacs"] else "no assigner is asked"
    answer = "the mean of the lengths run" if entry["averaged"] else "the last length's"
    facts = f"{start}, confidence {entry['threshold']:.3f} is enough, the answer is {answer}"
    where = "train (out of fold)" if run.results.get("split") == "out-of-fold" else "val"
    words = f"{facts[0].upper()}{facts[1:]}. {certificate_in_words(entry['certificate'], where)}"
    if entry["lengths"] == run.results["lengths"][:1]:
        words = f"Adapting does not pay here: what is shipped is always {entry['lengths'][0]}."
    return {"paths": rows, "point": words}


def certificate_in_words(certificate: Mapping[str, Any] | None, where: str) -> str:
    """What is known of the drop on new videos, in one sentence; it was estimated on the list `where`."""
    if certificate is None:
        return "No drop was promised."
    promise = f"a drop of at most {certificate['max_drop']:g} points on new videos of the same kind"
    sure = f"{100 * certificate['confidence']:g} % confidence, {certificate['videos']:,} videos of {where}"
    if certificate["holds"]:
        return f"Certified: {promise} ({sure})."
    needed = certificate["needed"]
    more = f"about {needed:,} videos would do" if needed else "the estimated drop is too large for any number"
    return f"Not certified: {promise} ({sure}; {more})."


def _slider(run: Run) -> Markup:
    points, chosen = operating_points(run)
    names = ("top1", "points", "cost", "speed", "mix", "keys")
    rows = [[point[name] for name in names] for point in points]
    folder = without_place(run.directory)
    return rendered(TEMPLATES, "slider.html", points=points, chosen=chosen, rows=rows, folder=folder)


def _classes(run: Run) -> Markup:
    classes, longest = class_results(run), run.lengths[0]
    losing = sum(one.points < 0 for one in classes)
    gaining = sum(one.points > 0 for one in classes)
    text = f"Against always {longest}, {losing} of {len(classes)} classes lose top-1, and {gaining} gain."
    if len(classes) > MOST_CLASSES:
        text += f" The {MOST_CLASSES} that lose most:"
    return rendered(
        TEMPLATES, "classes.html", text=text, classes=classes[:MOST_CLASSES], longest=str(longest)
    )


def _mined_labels(run: Run) -> Markup:
    wrong = ~run.labels.correct.any(dim=1)
    dropped = bool((run.labels.token_lengths[wrong] == NONE_CORRECT).all())
    fate = "have no label, so that the assigner does not learn from them" if dropped else "have the longest"
    share = 100 * wrong.double().mean().item()
    caption = (
        "Mined token-length labels: the shortest length that was right. Hatched: no length was right, "
        f"{int(wrong.sum()):,} of {len(wrong):,} clips ({share:.0f} %); they {fate}."
    )
    return _picture(
        run, output_dir.LABELS_PICTURE, lambda _: plots.label_histogram(run.labels, run.class_names), caption
    )


def _confusion(run: Run) -> Markup:
    by = "the adaptive policy" if run.predictions.chosen is not None else f"always {run.predictions.by}"
    names, counts, pairs = run.class_names, None, []
    if len(names) <= plots.MAX_MATRIX:
        counts = plots.confusion_counts(run).tolist()
        _write(os.path.join(run.directory, output_dir.CONFUSION_PICTURE), plots.confusion(run))
    else:
        confused = plots.confused_pairs(run)
        pairs = [[true, predicted, f"{n:,}", f"{share:.0f}"] for true, predicted, n, share in confused]
    return rendered(TEMPLATES, "confusion.html", names=names, counts=counts, pairs=pairs, by=by)


def _training(run: Run) -> Markup:
    told = [CLIPS] if plots.learning_curve(run) else []
    told += [TRAINING] if {"train", "assigner"} & run.stats.keys() else []
    return _picture(run, output_dir.TRAINING_PICTURE, plots.training, " ".join(told))


def _gallery(run: Run) -> Markup:
    return rendered(TEMPLATES, "gallery.html", groups=gallery(run))


def _mistakes(run: Run) -> Markup:
    wrong, rows = mistakes(run)
    return rendered(TEMPLATES, "mistakes.html", wrong=wrong, rows=rows)


def _made_by(run: Run) -> Markup:
    results, config, why = run.results, "", ""
    facts = [f"seed {results.get('seed')}", f"{results.get('views')} views a video"]
    assigned = (results.get("policies") or {}).get("assigned", results.get("adaptive"))
    if assigned and "assigner_gmacs" in assigned:
        facts.append(f"threshold of the assigner {assigned.get('threshold')}")
    try:
        config = dump_yaml(_without_places(run.config))
    except Missing as missing:
        why = str(missing)
    return rendered(
        TEMPLATES,
        "made_by.html",
        command=command_without_places(str(results.get("command") or "unknown")),
        facts=facts,
        environment=[[name, str(value)] for name, value in (results.get("environment") or {}).items()],
        files=[name for name in FILES if os.path.isfile(os.path.join(run.directory, name))],
        config=config,
        why=why,
    )


def _without_places(value: Any) -> Any:
    """A tree of plain values in which absolute paths do not tell where this machine keeps things."""
    if isinstance(value, dict):
        return {name: _without_places(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    return without_place(value) if isinstance(value, str) else value


def command_without_places(command: str) -> str:
    """A command line, likewise."""
    try:
        return shlex.join(map(without_place, shlex.split(command)))
    except ValueError:  # no command line
        return "unknown"


def without_place(text: str) -> str:
    """An absolute path relative to the working folder, or else its last name; any other text as it is."""
    path = os.path.expanduser(text)
    if not os.path.isabs(path):
        return text
    inside = os.path.relpath(path)
    return f"…/{os.path.basename(os.path.normpath(path))}" if inside.startswith(os.pardir) else inside


def _figure(name: str, draw: Callable[[Run], plots.Picture], caption: str) -> Callable[[Run], Markup]:
    """A section that is one picture."""
    return lambda run: _picture(run, name, draw, caption)


COST = (
    "Top-1 of every policy against its cost and its measured speed. Lines: all thresholds, of adaptive the "
    "best settings at each cost on the validation list; markers: the policies that were run; ring: the "
    "slider's point. The oracle knows which lengths are right."
)
LENGTHS = "Share of each class's test videos at each length, as chosen by the adaptive policy."
TRAINING = "Training batches: faint as logged, strong their running mean. Dots: the validation list."
CLIPS = "What heads reach that were solved on fewer clips: where the line still rises, more clips pay."
COST_CHART = "accuracy_cost-0-0"

SECTIONS: tuple[tuple[str, Callable[[Run], Markup]], ...] = (
    ("In short", _headline),
    ("Accuracy and cost", _figure(output_dir.ACCURACY_COST_PICTURE, plots.accuracy_cost, COST)),
    ("Other operating points", _slider),
    ("Lengths chosen", _figure(output_dir.LENGTHS_PICTURE, plots.lengths_per_class, LENGTHS)),
    ("Classes that gain and lose", _classes),
    ("Easy, medium and hard clips", _gallery),
    ("Mistakes", _mistakes),
    ("Mined labels", _mined_labels),
    ("Confusion", _confusion),
    ("Training", _training),
    ("How it was made", _made_by),
)
