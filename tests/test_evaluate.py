"""From batches to a table and to scores: views averaged, videos in order, nothing lost, on any ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit_video import evaluate as evaluate_module
from revit_video.adaptive.policies import Assigned, Cascade, Oracle, Policy, Random, Static
from revit_video.data.batch import Batch, Sample, Views, collate
from revit_video.evaluate import Evaluation, Score, Table, evaluate, mined_labels, static_top1, tabulate
from revit_video.models.revit import ReViT
from revit_video.runtime.distributed import Ranks
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
        views = Views(
            clips_of(row), torch.tensor([0.0, 0.0, 1.5]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
        )
        if row in BROKEN:
            nothing = Views.none(FRAMES, SIZE)
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


def test_without_an_assigner(model: ReViT, labels: list[int]) -> None:
    assert tabulate(batches(labels, [[0, 1]]), model, ALONE).assigned.shape == (2 * VIEWS, 0)


def test_top1_is_over_videos(table: Table, model: ReViT, labels: list[int]) -> None:
    for i, (length, top1) in enumerate(static_top1(table, model.lengths).items()):
        right = [int(video_scores(model, row, i).argmax()) == labels[row] for row in READABLE]
        assert (length, top1) == (str(model.lengths[i]), pytest.approx(100 * sum(right) / len(right)))


def test_mined_labels_are_of_views(table: Table, model: ReViT) -> None:
    mined = mined_labels(table, model.lengths, "drop", "0123")
    assert (mined.lengths, mined.checkpoint, mined.videos) == (model.lengths, "0123", table.paths)
    for n, correct in enumerate(table.correct.tolist()):
        expected = max((i for i in range(3) if correct[i]), default=-1)
        assert mined.labels[n] == expected
    assert torch.equal(mined.classes, table.labels) and torch.equal(mined.views, table.clip_index)


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
