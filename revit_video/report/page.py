"""report.html: one self-contained page."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels
from revit_video.report import plots
from revit_video.report.files import Missing, Run
from revit_video.report.gallery import gallery
from revit_video.report.lettering import families
from revit_video.report.results_table import cost_unit, headline, summary, table
from revit_video.report.style import RC, png
from revit_video.report.template import as_html, framed
from revit_video.runtime import output_dir
from revit_video.runtime.text import printable
from revit_video.runtime.yaml_file import dump_yaml


def write_report(folder: str, data_folder: str = "") -> str:
    """Write report.html and its pictures from the files in `folder`; returns the page's path.

    A section whose files are missing is replaced by a line that says why.

    Args:
        data_folder: the only one whose videos are shown; empty for the one that the run's config names.

    Raises:
        FileNotFoundError: there is no such folder, or it is no OUTPUT_DIR.
    """
    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder")
    files = output_dir.RESULTS, output_dir.STATS
    if not any(os.path.isfile(os.path.join(folder, name)) for name in files):
        raise FileNotFoundError(f"{folder}: no run's folder, it has neither {' nor '.join(files)}")
    run = Run(folder, data_folder)
    with matplotlib.rc_context(RC | {"font.family": families(run.class_names)}):
        body = "".join(_section(run, title, content) for title, content in SECTIONS)
    path = os.path.join(folder, output_dir.REPORT)
    output_dir.atomic_write_text(path, framed(_title(run), body))
    return path


def _section(run: Run, title: str, content: Callable[[Run], str]) -> str:
    heading = f"<h2>{title}</h2>"
    try:
        return f"<section>{heading}{content(run)}</section>"
    except Missing as why:
        reason = str(why).replace(os.path.join(run.directory, ""), "")
        return f'<section class="absent">{heading}<p>Left out: {escape(printable(reason))}.</p></section>'


def _title(run: Run) -> str:
    try:
        return f"{run.results['dataset']}: adaptive token lengths"
    except (Missing, KeyError):
        return "Adaptive token lengths"


def write_labels_picture(folder: str, mined: MinedLabels, class_names: Sequence[str]) -> str:
    """Write labels.png, the histogram of mined token-length labels; returns its path."""
    path = os.path.join(folder, output_dir.LABELS_PICTURE)
    with matplotlib.rc_context(RC | {"font.family": families(class_names)}):
        _write(path, png(plots.label_histogram(mined, class_names)))
    return path


def _write(path: str, data: bytes) -> None:
    with output_dir.replacing(path, "wb") as file:
        file.write(data)


def _picture(run: Run, name: str, draw: Callable[[Run], Figure], caption: str) -> str:
    """Draw a picture, write it as `name`, and return it as HTML."""
    figure = draw(run)
    data = png(figure)
    _write(os.path.join(run.directory, name), data)
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    width = round(100 * figure.get_figwidth())
    return (
        f'<figure><img class="picture" width="{width}" alt="{escape(caption)}" src="{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _headline(run: Run) -> str:
    results = run.results
    chosen, longest = headline(results)
    name = results["lengths"][0]
    cards = []
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
    html = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(what)}</span><small>{escape(more)}</small></div>"
        for what, value, more in cards
    )
    figures = _table(*table(results), chosen.name if chosen else None)
    texts = [summary(results), *(results.get("remarks") or ()), clock_in_words(results)]
    words = "".join(f"<p>{escape(text)}</p>" for text in texts if text)
    return f'<div class="headline">{html}</div>{figures}{words}{_hybrid(run)}'


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


def _hybrid(run: Run) -> str:
    """The operating point of policy `hybrid`, its certificate, and the share of clips on each path."""
    entry = run.results.get("adaptive")
    if not entry or entry.get("policy") != "hybrid":
        return ""
    total = sum(entry["path_counts"].values()) or 1
    rows = [
        [" → ".join(path.split()), f"{count:,}", f"{100 * count / total:.0f}"]
        for path, count in entry["path_counts"].items()
    ]
    start = "the assigner picks the first length" if entry["assigner_gmacs"] else "no assigner is asked"
    answer = "the mean of the lengths run" if entry["averaged"] else "the last length's"
    facts = f"{start}, confidence {entry['threshold']:.3f} is enough, the answer is {answer}"
    words = f"{facts[0].upper()}{facts[1:]}. {certificate_in_words(entry['certificate'])}"
    if entry["lengths"] == run.results["lengths"][:1]:
        words = f"Adapting does not pay here: what is shipped is always {entry['lengths'][0]}."
    return f"{_table(['lengths run', 'clips', '%'], rows)}<p class=caption>{escape(words)}</p>"


def certificate_in_words(certificate: Mapping[str, Any] | None) -> str:
    """What is known of the drop on new videos, in one sentence."""
    if certificate is None:
        return "No drop was promised."
    promise = f"a drop of at most {certificate['max_drop']:g} points on new videos of the same kind"
    sure = f"{100 * certificate['confidence']:g} % confidence, {certificate['videos']:,} videos of val"
    if certificate["holds"]:
        return f"Certified: {promise} ({sure})."
    needed = certificate["needed"]
    more = f"about {needed:,} videos would do" if needed else "the estimated drop is too large for any number"
    return f"Not certified: {promise} ({sure}; {more})."


def _table(header: list[str], rows: list[list[str]], chosen: str | None = None) -> str:
    head = "".join(f"<th>{as_html(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=chosen' if row[0] == chosen else ''}>"
        + "".join(f"<td>{as_html(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _mined_labels(run: Run) -> str:
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


def _confusion(run: Run) -> str:
    by = "the adaptive policy" if run.predictions.chosen is not None else f"always {run.predictions.by}"
    if len(run.class_names) <= plots.MAX_MATRIX:
        caption = f"Test videos by true and predicted class, {by}."
        return _picture(run, output_dir.CONFUSION_PICTURE, plots.confusion, caption)
    confused = plots.confused_pairs(run)
    pairs = [[true, predicted, f"{n:,}", f"{share:.0f}"] for true, predicted, n, share in confused]
    rows = _table(["true class", "predicted class", "videos", "% of the class"], pairs)
    return f"{rows}<p class=caption>The pairs of classes confused most often, {escape(by)}.</p>"


def _gallery(run: Run) -> str:
    caption = "Three frames of test videos by the length chosen for them; mistakes are marked in red."
    return f"{gallery(run)}<p class=caption>{caption}</p>"


def _made_by(run: Run) -> str:
    results = run.results
    parts = [f"<pre>{as_html(command_without_places(str(results.get('command') or 'unknown')))}</pre>"]
    facts = [f"seed {results.get('seed')}", f"{results.get('views')} views a video"]
    assigned = (results.get("policies") or {}).get("assigned", results.get("adaptive"))
    if assigned and "assigner_gmacs" in assigned:
        facts.append(f"threshold of the assigner {assigned.get('threshold')}")
    parts.append(f"<p>{escape(', '.join(facts))}.</p>")
    try:
        text = dump_yaml(_without_places(run.config))
        parts.append(f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>")
    except Missing as why:
        parts.append(f"<p>Configuration left out: {escape(str(why))}.</p>")
    return "".join(parts)


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


def _figure(name: str, draw: Callable[[Run], Figure], caption: str) -> Callable[[Run], str]:
    """A section that is one picture."""
    return lambda run: _picture(run, name, draw, caption)


COST = (
    "Top-1 of every policy against its cost and its measured speed. Lines: all thresholds; markers: the "
    "policies that were run. The oracle knows which lengths are right."
)
LENGTHS = "Share of each class's test videos at each length, as chosen by the adaptive policy."
TRAINING = "Training batches: faint as logged, strong their running mean. Dots: the validation list."

SECTIONS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("In short", _headline),
    ("Accuracy and cost", _figure(output_dir.ACCURACY_COST_PICTURE, plots.accuracy_cost, COST)),
    ("Lengths chosen", _figure(output_dir.LENGTHS_PICTURE, plots.lengths_per_class, LENGTHS)),
    ("Easy, medium and hard clips", _gallery),
    ("Mined labels", _mined_labels),
    ("Confusion", _confusion),
    ("Training", _figure(output_dir.TRAINING_PICTURE, plots.training, TRAINING)),
    ("How it was made", _made_by),
)
