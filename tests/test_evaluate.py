"""From batches to a table and to scores: views averaged, videos in order, nothing lost, on any ranks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revit_video import evaluate as evaluate_module
from revit_video.adaptive import policies
from revit_video.adaptive.calibrate import assigned_points, cascade_points
from revit_video.adaptive.engine import Engine, Prediction
from revit_video.adaptive.policies import Costs, Policy, mean_by_video
from revit_video.adaptive.table import COLUMNS, Table, mine_labels, static_top1
from revit_video.data.batch import Batch, Sample, collate
from revit_video.data.clips import VideoViews
from revit_video.evaluate import (
    CONTROL,
    Answers,
    Speed,
    keep_first,
    replay,
    speed_of_mix,
    tabulate,
    time_policies,
)
from revit_video.models.dvt import DVT
from revit_video.models.revit import ReViT
from revit_video.runtime.ranks import Ranks
from tests.tiny import CLASSES, FRAMES, SIZE, random_clips, tiny_dvt, tiny_revit

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
GMACS = [8.0, 4.0, 1.0]
COSTS = Costs(GMACS, assigner=0.5)
VIDEOS, VIEWS = 12, 3
BROKEN = {2: "no frames", 7: "truncated"}


class PixelAssigner(nn.Module):
    """Logits of the three lengths from three pixels."""

    def forward(self, clips: Tensor) -> Tensor:
        return 4 * clips[:, 0, 0, 0, :3]


ASSIGNER: Any = PixelAssigner()


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


POLICIES: dict[str, Policy] = {
    **{f"static {i}": policies.static(i) for i in range(3)},
    "assigned": policies.assigned(0.6),
    "per view": policies.assigned(0.6, per_view=True),
    "cascade": policies.cascade([0.425] * 3),
    "random": policies.random([0.3, 0.3, 0.4], seed=5),
    "oracle": policies.oracle(),
}


def video_scores(model: ReViT, row: int, i: int) -> Tensor:
    """Class probabilities of a video at one length, view by view, averaged."""
    each = [model(clip[None], model.lengths[i]).logits.softmax(dim=1)[0] for clip in clips_of(row)]
    return torch.stack(each).mean(dim=0)


# ---- The table -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(model: ReViT, labels: list[int]) -> Table:
    shuffled = [[9, 11, 10], [7], [8], [6, 4, 3, 5], [2, 0, 1]]
    return tabulate(batches(labels, shuffled), model.train(), ALONE, ASSIGNER)


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
    """The mean over its views; the table holds those."""
    means = mean_by_video(table.assigned, table.rows)
    for n, row in enumerate(READABLE):
        views = slice(n * VIEWS, (n + 1) * VIEWS)
        expected = PixelAssigner()(clips_of(row)).softmax(dim=1).float()
        torch.testing.assert_close(table.assigned[views], expected)
        for answer in means[views]:
            torch.testing.assert_close(answer, expected.mean(dim=0))


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


def test_mine_labels_are_of_clips(table: Table, model: ReViT) -> None:
    """Views that start alike, as in a video shorter than a clip, are one clip: the first of them."""
    mined = mine_labels(table, model.lengths, "drop", "0123")
    clips = [n for n in range(len(table.rows)) if n % VIEWS != 1]
    assert (mined.lengths, mined.checkpoints) == (model.lengths, ("0123",))
    assert mined.videos == [table.paths[n] for n in clips]
    assert len(set(zip(mined.rows.tolist(), mined.starts.tolist(), strict=True))) == len(clips)
    for correct, label in zip(table.correct[clips].tolist(), mined.token_lengths, strict=True):
        assert label == max((i for i in range(3) if correct[i]), default=-1)
    for ours, theirs in ((mined.labels, table.labels), (mined.clip_index, table.clip_index)):
        assert torch.equal(ours, theirs[clips])


def test_nothing_readable_is_an_error_that_names_the_first(model: ReViT, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="no video could be read; the first: 7.mp4: truncated"):
        tabulate(batches(labels, [[7], [2]]), model, ALONE)
    with pytest.raises(ValueError, match="no video could be read"):
        tabulate([], model, ALONE)


# ---- The policies ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(table: Table) -> dict[str, Answers]:
    return {name: replay(table, policy, COSTS) for name, policy in POLICIES.items()}


def first_lengths(answers: Answers) -> list[int]:
    """The length of each video's first view."""
    return answers.lengths[::VIEWS].tolist()


def counts(answers: Answers) -> list[int]:
    """Views at each length."""
    return answers.lengths.bincount(minlength=3).tolist()


def predicted(answers: Answers) -> list[int]:
    return answers.videos.predicted.tolist()


def streamed(engine: Engine, shares: Sequence[Batch]) -> Prediction:
    parts: list[Prediction] = []
    for batch in shares:
        if len(batch):
            parts += engine.submit(batch.clips, batch.rows)
    return Prediction.joined([*parts, *engine.flush()])


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "oracle"])
def test_a_replay_is_what_running_the_policy_gives(
    name: str, answers: dict[str, Answers], table: Table, model: ReViT, labels: list[int]
) -> None:
    engine = Engine(model, POLICIES[name], COSTS, ASSIGNER, batch_size=4)
    same_as_running(answers[name], streamed(engine, batches(labels, SHARES)), table)


@pytest.mark.parametrize("thresholds", [[0.0, 0.34, 0.3], [0.0] * 3, [0.0, 2.0, 2.0]])
@pytest.mark.parametrize("cumulative", [False, True])
def test_a_replay_of_any_start_and_thresholds_is_what_running_them_gives(
    cumulative: bool, thresholds: list[float], model: ReViT, labels: list[int]
) -> None:
    """Also where lengths continue from each other (DVT)."""
    running: ReViT | DVT = tiny_dvt() if cumulative else model
    table = tabulate(batches(labels, SHARES), running, ALONE, ASSIGNER)
    policy = Policy(policies.assigned(0.6).start, thresholds, asks_assigner=True)
    costs = Costs(GMACS, 0.5, cumulative)
    prediction = streamed(Engine(running, policy, costs, ASSIGNER, 4), batches(labels, SHARES))
    same_as_running(replay(table, policy, costs), prediction, table)
    assert torch.equal(table.follow(policy).agreed, prediction.agreed)


@pytest.mark.parametrize("averaged", [True, False])
def test_several_labels_are_replayed_as_they_are_run(averaged: bool) -> None:
    """Sigmoids instead of softmax in the table, at temperatures, for confidence, and in the engine."""
    several = tiny_revit(lengths=[8, 4, 2], multi_label=True)
    classes = torch.rand(VIDEOS, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4
    targets: Any = list(classes)
    table = tabulate(batches(targets, SHARES), several, ALONE)
    assert table.multi_label and torch.equal(table.labels[table.first_views], classes[READABLE])
    sure = table.confidence[:, 1].median().item()
    policy = policies.hybrid([0, 1, 2], sure, [1.0, 2.0, 0.5], averaged=averaged)
    for way in (policy, policies.cascade([sure] * 3)):
        replayed = replay(table, way, COSTS)
        prediction = streamed(Engine(several, way, COSTS, batch_size=4), batches(targets, SHARES))
        assert replayed.lengths.tolist() == prediction.lengths.tolist()
        assert len(set(replayed.lengths.tolist())) > 1
        means = mean_by_video(prediction.logits.sigmoid(), table.rows)[table.first_views]
        torch.testing.assert_close(replayed.videos.scores, means, rtol=1e-5, atol=1e-6)


def same_as_running(replayed: Answers, prediction: Prediction, table: Table) -> None:
    assert replayed.lengths.tolist() == prediction.lengths.tolist()
    assert replayed.gmacs.tolist() == prediction.gmacs.tolist()
    scores = table.scores[torch.arange(len(table.rows)), replayed.lengths]
    torch.testing.assert_close(scores, prediction.logits.softmax(dim=1), rtol=1e-5, atol=1e-6)
    means = mean_by_video(prediction.logits.softmax(dim=1), table.rows)[table.first_views]
    torch.testing.assert_close(replayed.videos.scores, means, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(
    ("usable", "prices"),
    [([0, 1, 2], None), ([0, 1, 2], [0.6, 0.3, 0.0]), ([0, 2], [0.5, 0.0, 0.0]), ([0, 1], None), ([1], None)],
)
def test_a_replay_of_hybrid_is_what_running_it_gives(
    usable: list[int],
    prices: list[float] | None,
    averaged: bool,
    cumulative: bool,
    model: ReViT,
    labels: list[int],
) -> None:
    """Nothing is forgotten between batches and nothing is left over; what is not usable is not paid."""
    running: ReViT | DVT = tiny_dvt() if cumulative else model
    table = tabulate(batches(labels, SHARES), running, ALONE, ASSIGNER)
    temperatures = [0.5, 1.0, 2.0]
    lowest = policies.hybrid(usable, 2.0, temperatures, prices, averaged)  # that never exits early
    confidence = lowest.answers(table.scores, lowest.start(table.known)).amax(dim=2)
    threshold = confidence[:, usable[-1]].median().item() - 1e-5
    policy = policies.hybrid(usable, threshold, temperatures, prices, averaged)
    costs = Costs(GMACS, 0.5, cumulative)
    engine = Engine(running, policy, costs, ASSIGNER, batch_size=4)
    replayed, prediction = replay(table, policy, costs), streamed(engine, batches(labels, SHARES))
    assert replayed.lengths.tolist() == prediction.lengths.tolist()
    assert set(replayed.lengths.tolist()) <= set(usable)
    assert len(usable) == 1 or len(set(replayed.lengths.tolist())) > 1
    assert replayed.gmacs.tolist() == pytest.approx(prediction.gmacs.tolist())
    means = mean_by_video(prediction.logits.softmax(dim=1), table.rows)[table.first_views]
    torch.testing.assert_close(replayed.videos.scores, means, rtol=1e-5, atol=1e-6)


def test_videos_are_those_that_could_be_read(table: Table, answers: dict[str, Answers]) -> None:
    assert [table.paths[n] for n in table.first_views.tolist()] == [f"{row}.mp4" for row in READABLE]
    for each in answers.values():
        assert each.videos.rows.tolist() == READABLE
        assert torch.equal(each.videos.labels, table.labels[table.first_views])


def test_static_policies_average_the_views(
    answers: dict[str, Answers], model: ReViT, labels: list[int]
) -> None:
    for i in range(3):
        expected = [int(video_scores(model, row, i).argmax()) for row in READABLE]
        each = answers[f"static {i}"]
        assert predicted(each) == expected
        right = [label == labels[row] for label, row in zip(expected, READABLE, strict=True)]
        assert each.videos.topk(1) == pytest.approx(100 * sum(right) / len(right))
        assert each.videos.topk(5) == 100.0  # of five classes
        assert each.mean_gmacs == GMACS[i]
        assert counts(each) == [VIEWS * len(READABLE) * (k == i) for k in range(3)]


@pytest.mark.parametrize("name", ["assigned", "random", "oracle"])
def test_a_video_is_run_at_one_length(name: str, answers: dict[str, Answers], model: ReViT) -> None:
    """So the policy's answer is that length's, at its cost."""
    chosen = first_lengths(answers[name])
    assert len(set(chosen)) == 3
    for n, row in enumerate(READABLE):
        assert predicted(answers[name])[n] == video_scores(model, row, chosen[n]).argmax()
    overhead = 0.5 if name == "assigned" else 0.0
    assert answers[name].mean_gmacs == pytest.approx(sum(GMACS[i] for i in chosen) / len(chosen) + overhead)
    assert counts(answers[name]) == [VIEWS * chosen.count(i) for i in range(3)]


def test_the_oracle_is_right_where_any_length_is_and_never_dearer(
    answers: dict[str, Answers], model: ReViT, labels: list[int]
) -> None:
    oracle = answers["oracle"]
    for n, row in enumerate(READABLE):
        right = [i for i in range(3) if video_scores(model, row, i).argmax() == labels[row]]
        assert first_lengths(oracle)[n] == max(right, default=0)
        assert (predicted(oracle)[n] == labels[row]) == bool(right)
    assert oracle.mean_gmacs < answers["static 0"].mean_gmacs
    assert 100 > oracle.videos.topk(1) > max(answers[f"static {i}"].videos.topk(1) for i in range(3))


def test_a_cascade_pays_for_every_pass(answers: dict[str, Answers]) -> None:
    number = counts(answers["cascade"])
    total = sum(paid * count for paid, count in zip((13.0, 5.0, 1.0), number, strict=True))
    assert answers["cascade"].mean_gmacs == pytest.approx(total / sum(number))
    assert sum(count > 0 for count in number) > 1


@pytest.mark.parametrize("per_view", [False, True])
def test_calibration_foresees_the_test(per_view: bool, table: Table) -> None:
    """The point of a threshold is what the policy with that threshold gives on the same table."""
    points = assigned_points(table, COSTS, per_view)[::4]
    sure = cascade_points(table, COSTS)[::4]
    tested = [policies.assigned(point.threshold, per_view) for point in points]
    tested += [policies.cascade([point.threshold] * 3) for point in sure]
    assert len(tested) > 7
    longest = replay(table, policies.static(0), COSTS)
    for point, policy in zip(points + sure, tested, strict=True):
        each = replay(table, policy, COSTS)
        assert [share * VIEWS * len(READABLE) for share in point.mix] == pytest.approx(counts(each))
        assert (point.top1, point.gmacs) == (
            pytest.approx(each.videos.topk(1)),
            pytest.approx(each.mean_gmacs),
        )
        assert point.drop == pytest.approx(longest.videos.topk(1) - each.videos.topk(1))


class Counting(PixelAssigner):
    """Records how many clips it was asked about at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.asked.append(len(clips))
        return super().forward(clips)


def test_the_assigner_is_asked_once_a_batch(model: ReViT, labels: list[int]) -> None:
    shares, assigner = batches(labels, [[0, 1], [3], [4, 5, 6]]), Counting()
    tabulate(shares, model, ALONE, assigner)  # type: ignore[arg-type]
    assert assigner.asked == [2 * VIEWS, VIEWS, 3 * VIEWS]
    running = Counting()
    streamed(Engine(model, policies.assigned(0.6), COSTS, running, batch_size=4), shares)  # type: ignore[arg-type]
    assert running.asked == assigner.asked


def test_policies_without_an_assigner_need_none(model: ReViT, labels: list[int]) -> None:
    table = tabulate(batches(labels, SHARES), model, ALONE)
    for name in ("random", "cascade", "oracle"):
        assert replay(table, POLICIES[name], COSTS).videos.rows.tolist() == READABLE


# ---- The clock -------------------------------------------------------------------------------------------


def test_the_first_batches_are_kept(labels: list[int]) -> None:
    shares = batches(labels, SHARES)
    size = shares[0].clips.nbytes
    for max_batches, max_bytes, kept in [
        (2, 10 * size, [0, 2]),  # the second one is empty
        (10, 10 * size, [0, 2, 3, 4]),
        (10, int(2.5 * size), [0, 3]),  # what does not fit is left out
        (0, 0, [0]),
    ]:
        found: list[Batch] = []
        passed = keep_first(iter(shares), found, max_batches, max_bytes)
        assert [id(batch) for batch in passed] == [id(batch) for batch in shares]
        assert [id(batch) for batch in found] == [id(shares[n]) for n in kept]


def test_policies_are_timed_in_one_rotation(
    model: ReViT, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds are those of a clock on which each pass over the batches takes as long as its policy says."""
    now, ran = [0.0], []
    took = {"longest": 4.0, "short": 1.0}

    class Timed(Engine):
        name = ""

        def flush(self) -> list[Prediction]:
            ran.append(self.name)
            now[0] += took[self.name]
            return super().flush()

    def timed(name: str, i: int) -> Engine:
        engine = Timed(model, policies.static(i), COSTS, batch_size=4)
        engine.name = name
        return engine

    monkeypatch.setattr(evaluate_module.time, "perf_counter", lambda: now[0])
    engines = {"longest": timed("longest", 0), "short": timed("short", 2)}
    speeds = time_policies(engines, batches(labels, [[0, 1], [3]]), ALONE, rounds=3)
    assert ran == [
        *("longest", "longest", "short", "short", "longest", "longest"),  # warm-up before each
        *("short", "longest", "longest"),
        *("longest", "longest", "short"),
    ]
    views = 3 * VIEWS
    assert speeds["longest"].speedup == speeds[CONTROL].speedup == (1, 1, 1)
    assert speeds["longest"].clips_per_sec == (views / 4,) * 3
    assert speeds["short"].speedup == (4, 4, 4) and speeds["short"].clips_per_sec == (views,) * 3


def test_rounds_start_at_evenly_spaced_policies(
    model: ReViT, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are more policies than rounds, the places in the rotation are shared out."""
    timed: list[str] = []
    engines = {f"{n}": Engine(model, policies.static(2), COSTS, batch_size=4) for n in range(5)}
    names = {id(engine): name for name, engine in engines.items()}

    def note(engine: Engine, _: object) -> float:
        timed.append(names[id(engine)])
        return 1.0

    monkeypatch.setattr(evaluate_module, "_seconds", note)
    time_policies(engines, batches(labels, [[0]]), ALONE, rounds=3)
    assert [timed[n] for n in (0, 6, 12)] == ["0", "2", "4"]


def test_quartiles_are_over_the_rounds() -> None:
    assert evaluate_module._quartiles(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])) == (2, 3, 4)


# ---- Ranks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shares", [([[1, 9, 7], [11, 3]], [[0, 2, 4], [6, 8, 10, 5]]), ([[7]], SHARES[:1] + SHARES[2:])]
)
def test_two_ranks_are_one(
    shares: Sequence[Any],
    model: ReViT,
    labels: list[int],
    table: Table,
    answers: dict[str, Answers],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 1 runs first, for its part; then rank 0 gathers both. In the second case it has no video."""
    told: list[Any] = []
    sent: list[Any] = []  # to the main rank

    def gather(ranks: Ranks, own: Any) -> list[Any]:
        told.insert(0, own)
        return list(told)

    def gather_on_main(ranks: Ranks, parts: list[Any]) -> list[Any]:
        sent[:0] = parts
        return list(sent)

    monkeypatch.setattr(Ranks, "gather", gather)
    monkeypatch.setattr(Ranks, "gather_on_main", gather_on_main)
    with suppress(ValueError):  # rank 1 of the second case, which is then told nothing else
        tabulate(batches(labels, shares[1]), model, ALONE, ASSIGNER)
    both = tabulate(batches(labels, shares[0]), model, ALONE, ASSIGNER)
    assert all(part.scores.shape[-1] == 0 for own in told for part in own), "scores go to one rank alone"
    assert (both.paths, both.skipped) == (table.paths, table.skipped)
    for name in COLUMNS:
        torch.testing.assert_close(getattr(both, name), getattr(table, name), rtol=1e-5, atol=1e-6)
    for name, policy in POLICIES.items():
        each, one = replay(both, policy, COSTS), answers[name]
        assert (each.videos.topk(1), each.videos.topk(5), counts(each)) == (
            one.videos.topk(1),
            one.videos.topk(5),
            counts(one),
        )
        assert each.mean_gmacs == pytest.approx(one.mean_gmacs)
        assert predicted(each) == predicted(one)
        assert torch.equal(each.lengths, one.lengths)


def test_the_clock_counts_the_views_of_all_ranks(
    model: ReViT, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slowest rank decides; a rank without videos does not take part."""
    others = {"only": [2.0, 1.0], CONTROL: [2.0, 1.0]}
    idle: dict[str, list[float]] = {"only": [], CONTROL: []}
    monkeypatch.setattr(Ranks, "gather", lambda ranks, own: [(9, others), (3, _all_at(1.5)), (0, idle)])
    engine = Engine(model, policies.static(0), COSTS, batch_size=4)
    speeds = time_policies({"only": engine}, batches(labels, [[0]]), ALONE, rounds=2)
    low, median, high = speeds["only"].clips_per_sec
    assert median == pytest.approx((12 / 2.0 + 12 / 1.5) / 2) and 6 < low < median < high < 8


def test_a_clock_on_the_cpu_leaves_a_gpu_alone(
    model: ReViT, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("the GPU was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", touched)
    engine = Engine(model, policies.static(0), COSTS, batch_size=4)
    assert set(time_policies({"only": engine}, batches(labels, [[0]]), ALONE, rounds=1)) == {"only", CONTROL}


def _all_at(seconds: float) -> dict[str, list[float]]:
    return {"only": [seconds] * 2, CONTROL: [seconds] * 2}


@pytest.mark.parametrize(
    ("cumulative", "usable", "seconds"),
    [(True, [0, 1, 2], 0.625), (False, [0, 1, 2], 1.0), (False, [0, 2], 0.75)],
)
def test_the_speed_of_a_mix(cumulative: bool, usable: list[int], seconds: float) -> None:
    """1, 1/2 and 1/4 s a view; half of the views go on from the shortest length to the longest."""
    alone = [Speed((rate, rate, rate), (rate, rate, rate)) for rate in (1.0, 2.0, 4.0)]
    starts, stops = torch.tensor([2, 2]), torch.tensor([0, 2])
    answers = Answers(starts, stops, torch.zeros(2), None)  # type: ignore[arg-type]
    found = speed_of_mix(answers, alone, cumulative, usable)
    assert found.clips_per_sec == found.speedup == pytest.approx((1 / seconds,) * 3)
