"""What the pictures show, read back from the drawn shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from revit_video.report import plots
from revit_video.report.files import Missing, Run
from revit_video.report.gallery import CLIPS, diverse
from revit_video.report.page import write_report
from revit_video.report.style import POLICIES, length_colours


@pytest.fixture
def run(run_dir: Path) -> Run:
    return Run(str(run_dir))


def test_accuracy_cost_marks_every_policy_at_its_result(run: Run) -> None:
    cost, speed = plots.drawn_together(plots.accuracy_cost(run)).axes
    points = {(round(x, 6), round(y, 6)) for line in cost.lines for x, y in line.get_xydata()}
    fast = {(round(x, 6), round(y, 6)) for line in speed.lines for x, y in line.get_xydata()}
    results = run.results
    for entry in [*results["static"].values(), results["adaptive"], *results["policies"].values()]:
        assert (round(1000 * entry["gmacs"], 6), round(entry["top1"], 6)) in points
        assert (round(entry["clips_per_sec"], 6), round(entry["top1"], 6)) in fast


@pytest.mark.parametrize("pair", list(combinations(POLICIES, 2)), ids="-".join)
def test_no_marker_hides_another(run_dir: Path, pair: tuple[str, str]) -> None:
    """Two policies at one place: the colours of both are seen there."""
    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    entries = {"adaptive": results["adaptive"]} | results["policies"]
    for name in pair:
        entries[name] |= {"top1": 99.9, "gmacs": 0.03, "clips_per_sec": 300.0}  # away from all others
    path.write_text(json.dumps(results))
    figure = plots.drawn_together(plots.accuracy_cost(Run(str(run_dir))))
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    pixels = np.asarray(drawn.buffer_rgba())[..., :3] / 255
    x, y = figure.axes[1].transData.transform((300.0, 99.9)).round().astype(int)
    around = pixels[::-1][y - 18 : y + 18, x - 18 : x + 18]
    for name in pair:
        near = np.abs(around - to_rgb(POLICIES[name][0])).max(axis=2) < 0.06
        assert near.sum() >= 15, name


def test_bars_add_up_and_the_hardest_class_is_on_top(run: Run) -> None:
    (axes,) = plots.drawn_together(plots.lengths_per_class(run)).axes
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(3, 6)
    np.testing.assert_allclose(widths.sum(axis=0), 1)
    assert (np.diff(widths[0]) <= 1e-9).all()
    predictions = run.predictions
    top = run.class_names.index(axes.get_yticklabels()[0].get_text())
    assert widths[0, 0] == pytest.approx(np.mean(predictions.chosen[predictions.truth == top] == 0))


def test_label_histogram_counts_what_the_log_counts(run: Run) -> None:
    """Each length's bar are the clips labelled with it; those that no length got right are hatched in it."""
    mined = run.labels
    mined.correct[:7], mined.token_lengths[:7] = False, 0
    overall, classes = plots.drawn_together(plots.label_histogram(mined, run.class_names)).axes
    counts = [*mined.histogram().values(), 7]
    assert [round(len(mined.labels) * bar.get_width()) for bar in overall.patches] == counts
    assert overall.patches[-1].get_hatch() and overall.patches[-1].get_x() == 0
    # By class they are labels like others.
    per_class = run.labels.by_class().numpy()
    names = [run.class_names.index(label.get_text()) for label in classes.get_yticklabels()]
    widths = np.array([bar.get_width() for bar in classes.patches]).reshape(3, 6).T
    np.testing.assert_allclose(widths, (per_class / per_class.sum(axis=1, keepdims=True))[names])


def test_confused_pairs(run: Run) -> None:
    pairs = plots.confused_pairs(run, most=1000)
    assert sum(count for _, _, count, _ in pairs) == np.sum(~run.predictions.correct)
    counts = [count for _, _, count, _ in pairs]
    assert counts == sorted(counts, reverse=True)


def test_many_classes_are_cut_to_both_ends(make_run: Callable[[list[str], int], Path]) -> None:
    run = Run(str(make_run([f"class {n}" for n in range(50)], 1000)))
    by_class = run.labels.by_class().numpy()
    order = sorted(range(50), key=lambda n: tuple(by_class[n] / by_class[n].sum()), reverse=True)
    _, hard, easy = plots.drawn_together(plots.label_histogram(run.labels, run.class_names)).axes
    for axes, classes in ((hard, order[: plots.MAX_BARS]), (easy, order[-plots.MAX_BARS :])):
        shown = [int(label.get_text().split()[1]) for label in axes.get_yticklabels()]
        assert [tuple(by_class[n]) for n in shown] == [tuple(by_class[n]) for n in classes]
    titles = [axes.get_title() for axes in plots.drawn_together(plots.lengths_per_class(run)).axes]
    assert titles == ["20 hardest of 50 classes", "20 easiest"]
    with pytest.raises(Missing, match="too many"):
        plots.confusion(run)


def test_training_without_an_assigner(run_dir: Path) -> None:
    path = run_dir / "stats.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["stage"] != "assigner"]
    path.write_text("\n".join(lines))
    assert len(plots.drawn_together(plots.training(Run(str(run_dir)))).axes) == 2


def test_a_training_of_one_logged_step_is_seen(run_dir: Path) -> None:
    (run_dir / "stats.jsonl").write_text('{"stage": "train", "step": 6, "loss_6x6": 1.5, "top1_6x6": 20.0}\n')
    loss, _ = plots.drawn_together(plots.training(Run(str(run_dir)))).axes
    assert any(line.get_marker() == "o" and line.get_xydata().tolist() == [[6, 1.5]] for line in loss.lines)


def test_the_learning_curve_is_drawn_where_heads_have_no_steps(run_dir: Path) -> None:
    (run_dir / "stats.jsonl").write_text('{"stage": "mine", "step": 1}\n')
    results = json.loads((run_dir / "results.json").read_text())
    points = [(14, 59.0), (27, 81.5), (54, 93.25)]
    results["learning_curve"] = [{"clips": clips, "top1": top1} for clips, top1 in points]
    (run_dir / "results.json").write_text(json.dumps(results))
    picture = plots.training(Run(str(run_dir)))
    (axes,) = plots.drawn_together(picture).axes
    curve, chance = axes.lines
    assert [tuple(point) for point in curve.get_xydata().tolist()] == points
    assert set(chance.get_ydata()) == {100 / 6}
    assert picture[0][0].says.endswith("learned from: 59.0 % from 14, 81.5 % from 27, 93.2 % from 54.")
    write_report(str(run_dir))
    told = (run_dir / "report.html").read_text().partition("<h2>Training</h2>")[2].partition("</section>")[0]
    assert "where the line still rises" in told and "Training batches" not in told


def test_longer_is_darker(run: Run) -> None:
    light = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in length_colours(run.lengths)]
    assert light == sorted(light)


def test_gallery_shows_as_many_classes_as_it_can() -> None:
    truth = np.repeat(np.arange(60), 3)
    first = list(diverse(list(range(180)), truth))[:CLIPS]
    assert [int(truth[row]) for row in first] == [0, 10, 20, 30, 40, 50]
    assert sorted(diverse(list(range(180)), truth)) == list(range(180))
    assert list(diverse([], truth)) == []
