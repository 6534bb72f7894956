"""From batches to a table and to scores: views averaged, videos in order, nothing lost, on any ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit_video import evaluate as evaluate_module
from revit_video.adaptive.calibrate import assigned_points, cascade_points
from revit_video.adaptive.policies import Assigned, Cascade, Oracle, Policy, Random, Static
from revit_video.data.batch import Batch, Sample, VideoViews, collate
from revit_video.evaluate import Evaluation, Score, Table, evaluate, mined_labels, static_top1, tabulate
from revit_video.models.revit import ReViT
from revit_video.runtime.ranks import Ranks
from tests.tiny import CLASSES, FRAMES, SIZE, random_clips, tiny_revit

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
GMACS = [8.0, 4.0, 1.0]
VIDEOS, VIEWS = 12, 3
BROKEN = {2: "no frames", 7: "truncated"}


class PixelAssigner(nn.Module):
    """Logits of the three lengths from three pixels."""

    def forward(self, clips: Tensor) -> Tensor:
        return 4 * clips[:, 0, 0, 0, :3]


@pytest.fixture(scope="module")
def model() -> ReViT:
    return tiny_revit(lengths=[8, 4, 2], drop_path=0.5)


@pytest.fixture(scope="module")
def labels(model: ReViT) -> list[int]:
    """Of each video: what a given length says of it, or (video 3) what none says."""
    model.eval()
    says = []
    for row in range(VIDEOS):
        scores = [model(clips_of(row), length).logits.softmax(dim=1).mean(dim=0) for length in model.lengths]
        says.append([int(score.argmax()) for score in scores])
    right = [says[row][row % 3] for row in range(VIDEOS)]
    right[3] = next(label for label in range(CLASSES) if label not in says[3])
    return right


def clips_of(row: int) -> Tensor:
    return random_clips(VIEWS, seed=row)


def batch_of(rows: Sequence[int], labels: list[int]) -> Batch:
    """Videos `rows`, each with two clips, the first of which has two crops; some cannot be read."""
    samples = []
    for row in rows:
        path = f"{row}.mp4"
        views = VideoViews(
            clips_of(row), torch.tensor([0.0, 0.0, 1.5]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
        )
        if row in BROKEN:
            nothing = VideoViews.none(FRAMES, SIZE)
            nothing.clips = nothing.clips.double()
            samples.append(Sample(nothing, labels[row], row, path, [(path, BROKEN[row])]))
        else:
            samples.append(Sample(views, labels[row], row, path))
    return collate(samples)


def batches(labels: list[int], shares: Sequence[Sequence[int]]) -> list[Batch]:
    return [batch_of(rows, labels) for rows in shares]


SHARES = [[0, 1, 2], [7], [3, 4, 5, 6], [8], [9, 10, 11]]  # the second one is empty
READABLE = [row for row in range(VIDEOS) if row not in BROKEN]


def policies(model: ReViT, names: str = "static assigned cascade random oracle") -> dict[str, Policy]:
    everything: dict[str, Policy] = {
        **{f"static {n}": Static(model, GMACS, n, batch_size=4) for n in model.lengths},
        "assigned": Assigned(model, GMACS, PixelAssigner(), 0.5, 0.6, batch_size=4),  # type: ignore[arg-type]
        "cascade": Cascade(model, GMACS, 0.425, batch_size=4),
        "random": Random(model, GMACS, [0.3, 0.3, 0.4], batch_size=4),
        "oracle": Oracle(model, GMACS, batch_size=4),
    }
    return {name: policy for name, policy in everything.items() if name.split()[0] in names.split()}


def video_scores(model: ReViT, row: int, i: int) -> Tensor:
    """Class probabilities of a video at one length, view by view, averaged."""
    each = [model(clip[None], model.lengths[i]).logits.softmax(dim=1)[0] for clip in clips_of(row)]
    return torch.stack(each).mean(dim=0)


# ---- The table -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(model: ReViT, labels: list[int]) -> Table:
    shuffled = [[9, 11, 10], [7], [8], [6, 4, 3, 5], [2, 0, 1]]
    asked = policies(model)["assigned"]
    assert isinstance(asked, Assigned)
    return tabulate(batches(labels, shuffled), model.train(), ALONE, asked)


def test_views_are_in_the_order_of_the_list(table: Table, model: ReViT, labels: list[int]) -> None:
    assert not model.training
    assert table.rows.tolist() == [row for row in READABLE for _ in range(VIEWS)]
    assert table.paths == [f"{row}.mp4" for row in table.rows.tolist()]
    assert table.labels.tolist() == [labels[row] for row in table.rows.tolist()]
    assert table.clip_index.tolist() == [0, 0, 1] * len(READABLE)
    assert table.crops.tolist() == [0, 1, 0] * len(READABLE)
    assert table.starts.tolist() == [0.0, 0.0, 1.5] * len(READABLE)
    assert table.skipped == [("2.mp4", "no frames"), ("7.mp4", "truncated")]


def test_scores_are_those_of_each_view_alone(table: Table, model: ReViT) -> None:
    n = 0
    for row in READABLE:
        for clip in clips_of(row):
            for i, length in enumerate(model.lengths):
                alone = model(clip[None], length).logits.softmax(dim=1)[0].float()
                torch.testing.assert_close(table.scores[n, i], alone, rtol=1e-5, atol=1e-6)
                assert table.correct[n, i] == (alone.argmax() == table.labels[n])
            n += 1
    assert len(table.scores) == n


def test_the_assigner_answers_for_the_video(table: Table) -> None:
    for n, row in enumerate(READABLE):
        expected = PixelAssigner()(clips_of(row)).softmax(dim=1).mean(dim=0).float()
        for answer in table.assigned[n * VIEWS : (n + 1) * VIEWS]:
            torch.testing.assert_close(answer, expected)


def test_scores_need_not_be_kept(table: Table, model: ReViT, labels: list[int]) -> None:
    bare = tabulate(batches(labels, SHARES), model, ALONE, keep_scores=False)
    assert bare.scores.shape == (len(table.rows), 3, 0)
    assert torch.equal(bare.correct, table.correct) and torch.equal(bare.rows, table.rows)


def test_without_an_assigner(model: ReViT, labels: list[int]) -> None:
    assert tabulate(batches(labels, [[0, 1]]), model, ALONE).assigned.shape == (2 * VIEWS, 0)


def test_top1_is_over_videos(table: Table, model: ReViT, labels: list[int]) -> None:
    for i, (length, top1) in enumerate(static_top1(table, model.lengths).items()):
        right = [int(video_scores(model, row, i).argmax()) == labels[row] for row in READABLE]
        assert (length, top1) == (str(model.lengths[i]), pytest.approx(100 * sum(right) / len(right)))


def test_mined_labels_are_of_clips(table: Table, model: ReViT) -> None:
    """Views that start alike, as in a video shorter than a clip, are one clip: the first of them."""
    mined = mined_labels(table, model.lengths, "drop", "0123")
    clips = [n for n in range(len(table.rows)) if n % VIEWS != 1]
    assert (mined.lengths, mined.checkpoints) == (model.lengths, ("0123",))
    assert mined.videos == [table.paths[n] for n in clips]
    assert len(set(zip(mined.rows.tolist(), mined.starts.tolist(), strict=True))) == len(clips)
    for correct, label in zip(table.correct[clips].tolist(), mined.labels, strict=True):
        assert label == max((i for i in range(3) if correct[i]), default=-1)
    for ours, theirs in ((mined.classes, table.labels), (mined.views, table.clip_index)):
        assert torch.equal(ours, theirs[clips])


def test_nothing_readable_is_an_error_that_names_the_first(model: ReViT, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="no video could be read; the first: 7.mp4: truncated"):
        tabulate(batches(labels, [[7], [2]]), model, ALONE)
    with pytest.raises(ValueError, match="no video could be read; the first: 7.mp4: truncated"):
        evaluate(batches(labels, [[7]]), policies(model), ALONE)


# ---- The policies ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(model: ReViT, labels: list[int]) -> Evaluation:
    return evaluate(batches(labels, SHARES), policies(model), ALONE)


def test_videos_are_those_that_could_be_read(result: Evaluation, labels: list[int]) -> None:
    assert result.videos.tolist() == READABLE
    assert result.paths == [f"{row}.mp4" for row in READABLE]
    assert result.labels.tolist() == [labels[row] for row in READABLE]
    assert result.table.skipped == [("2.mp4", "no frames"), ("7.mp4", "truncated")]


def test_static_policies_average_the_views(result: Evaluation, model: ReViT, labels: list[int]) -> None:
    for i, length in enumerate(model.lengths):
        predicted = [int(video_scores(model, row, i).argmax()) for row in READABLE]
        score = result.scores[f"static {length}"]
        assert result.predicted[f"static {length}"].tolist() == predicted
        right = [label == labels[row] for label, row in zip(predicted, READABLE, strict=True)]
        assert score.top1 == pytest.approx(100 * sum(right) / len(right))
        assert score.top5 == 100.0  # of five classes
        assert score.gmacs == GMACS[i]
        counts = {str(other): 0 for other in model.lengths}
        assert score.length_counts == counts | {str(length): VIEWS * len(READABLE)}


@pytest.mark.parametrize("name", ["assigned", "random", "oracle"])
def test_a_video_is_read_at_one_length(name: str, result: Evaluation, model: ReViT) -> None:
    """So what a policy predicts is what that length predicts, at its cost."""
    chosen = result.lengths[name].tolist()
    assert len(set(chosen)) == 3
    for n, row in enumerate(READABLE):
        assert result.predicted[name][n] == video_scores(model, row, chosen[n]).argmax()
    overhead = 0.5 if name == "assigned" else 0.0
    assert result.scores[name].gmacs == pytest.approx(sum(GMACS[i] for i in chosen) / len(chosen) + overhead)
    counts = {str(length): VIEWS * chosen.count(i) for i, length in enumerate(model.lengths)}
    assert result.scores[name].length_counts == counts


def test_the_oracle_is_right_where_any_length_is_and_never_dearer(result: Evaluation, model: ReViT) -> None:
    for n, (row, label) in enumerate(zip(READABLE, result.labels.tolist(), strict=True)):
        right = [i for i in range(3) if video_scores(model, row, i).argmax() == label]
        assert result.lengths["oracle"][n] == max(right, default=0)
        assert (result.predicted["oracle"][n] == label) == bool(right)
    scores = result.scores
    assert scores["oracle"].gmacs < scores["static 8x8"].gmacs
    assert 100 > scores["oracle"].top1 > max(scores[f"static {n}"].top1 for n in model.lengths)


def test_a_cascade_pays_for_every_pass(result: Evaluation, model: ReViT) -> None:
    paid = dict(zip(map(str, model.lengths), (13.0, 5.0, 1.0), strict=True))
    score = result.scores["cascade"]
    total = sum(paid[length] * count for length, count in score.length_counts.items())
    assert score.gmacs == pytest.approx(total / sum(score.length_counts.values()))
    assert sum(count > 0 for count in score.length_counts.values()) > 1


def test_speed_is_relative_to_the_longest(result: Evaluation) -> None:
    assert all(score.clips_per_sec > 0 for score in result.scores.values())
    score, longest = (
        Score(50.0, 80.0, gmacs, rate, {"8x8": 3}) for gmacs, rate in ((2.0, 30.0), (8.0, 10.0))
    )
    assert score.as_dict(longest) == {
        **dict(top1=50.0, top5=80.0, gmacs=2.0, clips_per_sec=30.0, length_counts={"8x8": 3}),
        **dict(speedup=3.0, macs_speedup=4.0),
    }


def test_the_table_is_that_of_a_single_pass(result: Evaluation, table: Table) -> None:
    for ours, theirs in zip(result.table, table, strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        else:
            assert ours == theirs


@pytest.mark.parametrize("per_view", [False, True])
def test_calibration_foresees_the_test(per_view: bool, model: ReViT, labels: list[int]) -> None:
    """A threshold's point, from the table, is what the policy then does with that threshold."""

    def assigned(threshold: float) -> Policy:
        return Assigned(model, GMACS, PixelAssigner(), 0.5, threshold, per_view, batch_size=4)  # type: ignore[arg-type]

    table = evaluate(
        batches(labels, SHARES), policies(model, "static") | {"assigned": assigned(0.5)}, ALONE
    ).table
    points = assigned_points(table.assigned, table.readings, GMACS, 0.5)[::4]
    sure = cascade_points(table.readings, GMACS)[::4]
    tested: dict[str, Policy] = {"static 8x8": Static(model, GMACS, "8x8", batch_size=4)}
    tested |= {f"assigned {n}": assigned(point.threshold) for n, point in enumerate(points)}
    tested |= {f"cascade {n}": Cascade(model, GMACS, p.threshold, batch_size=4) for n, p in enumerate(sure)}
    assert len(tested) > 8
    longest, *scores = evaluate(batches(labels, SHARES), tested, ALONE).scores.values()
    for point, score in zip(points + sure, scores, strict=True):
        counts = [share * VIEWS * len(READABLE) for share in point.mix]
        assert counts == pytest.approx(list(score.length_counts.values()))
        assert (point.top1, point.gmacs) == (pytest.approx(score.top1), pytest.approx(score.gmacs))
        assert point.drop == pytest.approx(longest.top1 - score.top1)


def test_the_assigner_is_asked_once_a_batch(model: ReViT, labels: list[int]) -> None:
    """And once more at first, to warm up."""
    asked: list[int] = []

    class Counting(PixelAssigner):
        def forward(self, clips: Tensor) -> Tensor:
            asked.append(len(clips))
            return super().forward(clips)

    assigned = Assigned(model, GMACS, Counting(), 0.5, 0.6, batch_size=4)  # type: ignore[arg-type]
    evaluate(batches(labels, [[0, 1], [3], [4, 5, 6]]), {"assigned": assigned}, ALONE)
    assert asked == [2 * VIEWS, 2 * VIEWS, VIEWS, 3 * VIEWS]


def test_any_policy_alone(model: ReViT, labels: list[int]) -> None:
    alone = evaluate(batches(labels, SHARES), policies(model, "random"), ALONE)
    assert list(alone.scores) == ["random"] and alone.videos.tolist() == READABLE


# ---- Ranks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shares", [([[1, 9, 7], [11, 3]], [[0, 2, 4], [6, 8, 10, 5]]), ([[7]], SHARES[:1] + SHARES[2:])]
)
def test_two_ranks_are_one(
    shares: Sequence[Any],
    model: ReViT,
    labels: list[int],
    result: Evaluation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 1 runs first, for what it tells; then rank 0 hears both. In the second case it reads nothing."""
    told: list[Any] = []

    def gather(own: Any, ranks: Ranks) -> list[Any]:
        told.insert(0, own)
        return list(told)

    monkeypatch.setattr(evaluate_module, "gather_objects", gather)
    repeatable = "static assigned cascade oracle"
    evaluate(batches(labels, shares[1]), policies(model, repeatable), ALONE)
    both = evaluate(batches(labels, shares[0]), policies(model, repeatable), ALONE)

    assert both.videos.tolist() == READABLE and both.paths == result.paths
    assert torch.equal(both.labels, result.labels) and both.table.skipped == result.table.skipped
    for name, score in both.scores.items():
        one = result.scores[name]
        assert (score.top1, score.top5, score.length_counts) == (one.top1, one.top5, one.length_counts)
        assert score.gmacs == pytest.approx(one.gmacs)
        assert torch.equal(both.predicted[name], result.predicted[name])
        assert torch.equal(both.lengths[name], result.lengths[name])
