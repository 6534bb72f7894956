"""The assigner's batches are the mined clips, whichever way they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from revit_video.adaptive.kept import read_calibration
from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels
from revit_video.adaptive.table import Table, mine_labels
from revit_video.from_cfg.inputs import data_folder, eval_batches, mined_batches
from revit_video.from_cfg.model import build_assigner
from revit_video.length import token_lengths
from revit_video.models import checkpoint
from revit_video.runtime.ranks import Ranks
from revit_video.stages.assign import assigner_training
from revit_video.train.mined import MinedBatches, class_weights
from revit_video.train.steps import AssignerStep
from tests.toy import run_toy, table_of, toy_cfg

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
LABELS = [0, 1, 1, 0, -1, 1, 0, 0, 1, -1, 0, 1]  # of the 12 videos of the mining list
SIZES = ("ASSIGNER.INPUT_SIZE", 8, "ASSIGNER.NUM_FRAMES", 2, "ASSIGNER.BATCH_SIZE", 4)
STREAMED = ("ASSIGNER.CACHE_GB", 0)
TWO_CLIPS = ("MINE.NUM_CLIPS", 2, "DATA.SAMPLING_RATE", 2)
STARTS = torch.tensor([0.0, 0.25])  # two clips of 0.5 s in a video of 1 s


def mined(videos: Path, tmp_path: Path, clips: int = 1) -> MinedLabels:
    """`LABELS`, for the first clip of each video; the other clips have the other label."""
    listed = data_folder(toy_cfg(videos, tmp_path)).videos("mine")
    rows = torch.arange(12).repeat_interleave(clips)
    views = torch.arange(clips).repeat(12)
    labels = torch.tensor(LABELS).repeat_interleave(clips)
    labels = torch.where((views > 0) & (labels != NONE_CORRECT), 1 - labels, labels)
    correct = torch.ones(len(rows), 2).bool()
    paths = [listed[row][0] for row in rows.tolist()]
    columns = (rows, STARTS[views], views, torch.zeros(len(rows)), correct, labels)
    return MinedLabels(token_lengths([4, 2]), paths, *columns, ("0" * 16,))


def batches_of(cfg: CfgNode, labels: MinedLabels, ranks: Ranks = ALONE) -> MinedBatches:
    return mined_batches(cfg, data_folder(cfg), labels, ranks)


def clips_of(batches: MinedBatches, epoch: int = 0) -> list[tuple[int, Tensor]]:
    """Label and frames of each clip of an epoch, mirrored ones turned back to what both have in common."""
    return [
        (int(label), frames + frames.flip(3))
        for batch in batches(epoch)
        for frames, label in zip(*batch, strict=True)
    ]


def same_clips(one: list[tuple[int, Tensor]], other: list[tuple[int, Tensor]]) -> bool:
    """Whether two lists hold the same clips with the same labels, in any order."""
    keys = [
        sorted((label, round(float(x.sum()), 2), round(float(x.std()), 4)) for label, x in each)
        for each in (one, other)
    ]
    return keys[0] == keys[1]


def test_frames_are_those_of_the_mined_clips(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path, *SIZES, "ASSIGNER.INPUT_SIZE", 32, "ASSIGNER.BATCH_SIZE", 10)
    found = clips_of(batches_of(cfg, mined(videos, tmp_path), ALONE))
    (batch,) = eval_batches(cfg, data_folder(cfg).videos("mine"), ALONE, 1, 1, 12)
    wanted = [
        (label, clip.half().float() + clip.half().float().flip(3))
        for label, clip in zip(LABELS, batch.clips, strict=True)
        if label != NONE_CORRECT
    ]
    assert same_clips(found, wanted)


@pytest.mark.parametrize("kept", [(), STREAMED], ids=["cached", "streamed"])
def test_batches(kept: tuple[object, ...], videos: Path, tmp_path: Path) -> None:
    batches = batches_of(
        toy_cfg(videos, tmp_path, *SIZES, *kept),
        mined(videos, tmp_path),
        ALONE,
    )
    for epoch in range(2):
        shapes = [(frames.shape, frames.dtype, len(labels)) for frames, labels in batches(epoch)]
        assert shapes == [((4, 3, 2, 8, 8), torch.float, 4)] * len(batches) and len(batches) == 2


@pytest.mark.parametrize(("clips", "more"), [(1, ()), (2, TWO_CLIPS)])
def test_streamed_clips_are_the_cached_ones(
    clips: int, more: tuple[object, ...], videos: Path, tmp_path: Path
) -> None:
    labels = mined(videos, tmp_path, clips)
    # One batch holds all ten labelled videos' clips, so that none is left over.
    sizes = (*SIZES, *more, "ASSIGNER.BATCH_SIZE", 5)
    cached = batches_of(toy_cfg(videos, tmp_path, *sizes), labels, ALONE)
    streamed = batches_of(
        toy_cfg(videos, tmp_path, *sizes, *STREAMED),
        labels,
        ALONE,
    )
    assert len(cached) == len(streamed) == 2 * clips
    for epoch in range(2):
        assert same_clips(clips_of(cached, epoch), clips_of(streamed, epoch))
    assert cached._cache is not None and streamed._cache is None


def test_epochs_come_in_different_orders(videos: Path, tmp_path: Path) -> None:
    for kept in ((), STREAMED):
        cfg = toy_cfg(videos, tmp_path, *SIZES, *kept, "ASSIGNER.BATCH_SIZE", 10)
        batches = batches_of(cfg, mined(videos, tmp_path), ALONE)
        orders = [[float(x.sum()) for _, x in clips_of(batches, epoch)] for epoch in (0, 1, 0)]
        assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("kept", [(), STREAMED], ids=["cached", "streamed"])
@pytest.mark.parametrize(("clips", "more"), [(1, ()), (2, TWO_CLIPS)])
def test_ranks_share_the_clips(
    clips: int, more: tuple[object, ...], kept: tuple[object, ...], videos: Path, tmp_path: Path
) -> None:
    labels = mined(videos, tmp_path, clips)
    cfg = toy_cfg(videos, tmp_path, *SIZES, *more, *kept, "ASSIGNER.BATCH_SIZE", 10 * clips)
    pair = [batches_of(cfg, labels, Ranks(rank, 2, CPU)) for rank in range(2)]
    assert len(pair[0]) == len(pair[1])
    whole = batches_of(cfg, labels, ALONE)
    assert same_clips([clip for share in pair for clip in clips_of(share)], clips_of(whole))


@pytest.mark.parametrize("kept", [(), STREAMED], ids=["cached", "streamed"])
def test_ranks_take_equally_many_steps_whatever_was_dropped_or_lost(
    kept: tuple[object, ...], own_videos: Path, tmp_path: Path
) -> None:
    """Rank 0 has labels of one clip a video, rank 1 of both; then it loses a video."""
    labels = mined(own_videos, tmp_path, 2)
    dropped = (labels.rows % 2 == 0) & (labels.clip_index == 1)
    labels = replace(labels, token_lengths=torch.where(dropped, NONE_CORRECT, labels.token_lengths.abs()))
    for name in labels.videos[8:10]:
        Path(name).write_bytes(b"")
    cfg = toy_cfg(own_videos, tmp_path, *SIZES, *TWO_CLIPS, *kept, "DATA.MAX_SKIPPED_FRACTION", 0.5)
    sizes = [
        [len(labels) for _, labels in batches_of(cfg, labels, Ranks(rank, 2, CPU))(epoch)]
        for rank in range(2)
        for epoch in range(2)
    ]
    assert sizes == [sizes[0]] * 4 and len(sizes[0]) == 3


def test_labels_of_other_clips_are_refused(videos: Path, tmp_path: Path) -> None:
    """Mined with another number of clips a video, or with clips of another duration."""
    labels = mined(videos, tmp_path, 2)
    fewer, longer = ("MINE.NUM_CLIPS", 1, "DATA.SAMPLING_RATE", 2), ("MINE.NUM_CLIPS", 2)
    more = ("MINE.NUM_CLIPS", 3, "DATA.SAMPLING_RATE", 2)
    for other in (fewer, longer, more):
        with pytest.raises(ValueError, match="labels.csv is of other clips .* mine them again"):
            list(
                batches_of(
                    toy_cfg(videos, tmp_path, *SIZES, *other),
                    labels,
                    ALONE,
                )(0)
            )


def test_labels_of_other_videos_are_refused(videos: Path, tmp_path: Path) -> None:
    cfg, labels = toy_cfg(videos, tmp_path, *SIZES), mined(videos, tmp_path)
    renamed = replace(labels, videos=["elsewhere.mp4", *labels.videos[1:]])
    beyond = replace(labels, rows=labels.rows + 4)  # the last, unlabelled ones included
    for wrong in (renamed, beyond):
        with pytest.raises(ValueError, match="mined from another list"):
            batches_of(cfg, wrong, ALONE)


def test_no_labels_and_too_few_for_the_ranks(videos: Path, tmp_path: Path) -> None:
    cfg, labels = toy_cfg(videos, tmp_path, *SIZES), mined(videos, tmp_path)
    nothing = torch.full((12,), NONE_CORRECT)
    with pytest.raises(ValueError, match="classified no clip correctly"):
        batches_of(cfg, replace(labels, token_lengths=nothing), ALONE)
    one = nothing.clone()
    one[3] = 0
    with pytest.raises(ValueError, match="1 mined clips are too few for 2 ranks"):
        batches_of(cfg, replace(labels, token_lengths=one), Ranks(0, 2, CPU))


def test_targets_are_what_each_length_is(videos: Path, tmp_path: Path) -> None:
    """Of the clips that have a label, turned and shifted: the same pixels elsewhere."""
    right = torch.tensor([[n % 2, n % 3 > 0] for n in range(12)]).bool()
    labels = replace(mined(videos, tmp_path), correct=right)
    own = ("ASSIGNER.OBJECTIVE", "sufficiency", "ASSIGNER.BATCH_SIZE", 10)
    found = []
    for augment in ("mirror", "turn"):
        cfg = toy_cfg(videos, tmp_path, *SIZES, *own, "ASSIGNER.AUGMENT", augment)
        (batch,) = batches_of(cfg, labels)(0)
        pixels = [frames.flatten().sort().values for frames in batch[0]]
        found.append(sorted(zip(batch[1].tolist(), [x.tolist() for x in pixels], strict=True)))
    assert found[0] == found[1]
    kept = [n for n, label in enumerate(LABELS) if label != NONE_CORRECT]
    assert sorted(targets for targets, _ in found[0]) == sorted(right[kept].tolist())


def test_an_assigner_of_sufficiency_trains_and_survives_its_checkpoint(videos: Path, tmp_path: Path) -> None:
    own = ("ASSIGNER.OBJECTIVE", "sufficiency", "ASSIGNER.AUGMENT", "turn")
    run = run_toy(videos, tmp_path / "run", *own)
    saved = checkpoint.read(str(run / "model.pyth")).assigner()
    assert saved is not None and saved.objective == "sufficiency"
    kept = read_calibration(str(run / "calibration.pyth"))
    assert kept is not None
    suffices = kept.table.assigned.flip(1).cumsum(dim=1)
    assert bool(((suffices > 0) & (suffices < 1)).all())


def test_class_weights_are_one_on_average(videos: Path, tmp_path: Path) -> None:
    labels = replace(
        mined(videos, tmp_path), token_lengths=torch.tensor([0] * 8 + [1] * 2 + [NONE_CORRECT] * 2)
    )
    weights = class_weights(labels)
    assert weights.tolist() == pytest.approx([10 / 16, 10 / 4])
    assert (8 * weights[0] + 2 * weights[1]) / 10 == pytest.approx(1)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_configs_weights_decay_and_warmup_act(videos: Path, tmp_path: Path, weighted: bool) -> None:
    rates = ("ASSIGNER.BASE_LR", 0.5, "ASSIGNER.WARMUP_EPOCHS", 2, "ASSIGNER.MAX_EPOCH", 4)
    own = (*rates, "ASSIGNER.CLASS_WEIGHTS", weighted, "ASSIGNER.WEIGHT_DECAY", 0.25)
    cfg = toy_cfg(videos, tmp_path, *SIZES, *own)
    labels = mined(videos, tmp_path)
    training = assigner_training(cfg, ALONE, build_assigner(cfg), labels, batches_of(cfg, labels, ALONE))
    assert {group["weight_decay"] for group in training.optimizer.param_groups} == {0.0, 0.25}
    # A line from 0 to the full rate, then the cosine, which is halfway down in the middle of what is left.
    rates = [training.learning_rate(epoch) for epoch in (0, 1, 2, 3, 4)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.25, 0])
    assert isinstance(training.step, AssignerStep)
    frames, targets = torch.rand(2, 3, 2, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        logits = training.model(frames)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    factors = class_weights(labels) if weighted else torch.ones(2)
    assert float(training.step(frames, targets)["loss"]) == pytest.approx(float((factors * loss).mean()))


def test_where_nothing_is_labelled_the_longest_length_is_learned(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weak model's run goes on, and says what it means."""

    def nothing_right(table: Table, *rest: Any) -> MinedLabels:
        return mine_labels(replace(table, correct=torch.zeros_like(table.correct)), *rest)

    monkeypatch.setattr("revit_video.stages.mine.mine_labels", nothing_right)
    run = run_toy(videos, tmp_path / "run", "MINE.NONE_CORRECT", "drop")
    assert {row["token_length"] for row in table_of(run / "labels.csv")} == {""}
    said = capsys.readouterr().err
    assert "no length is right on 100.0 %, from which the assigner does not learn" in said
    assert (
        "no length is right on any of the 12 mined clips, so the assigner learns to take always 4x4" in said
    )
    assert (run / "results.json").is_file()
