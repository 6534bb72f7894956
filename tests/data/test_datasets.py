from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import DataLoader

from revit_video.data.batch import Batch, Sample, collate, with_reversed
from revit_video.data.clips import ClipSampling, VideoViews, ViewGrid, open_video
from revit_video.data.datasets import EvalClips, TrainClips
from revit_video.data.order import TrainOrder, epoch_order, eval_rows
from revit_video.data.sampling import segment_frames
from revit_video.data.transforms import TrainTransform
from revit_video.runtime.rng import seeded_generator

SPEC = ClipSampling(num_frames=4, duration=Fraction(1, 2))
TRANSFORM = TrainTransform((34, 44), 32, flip=True, brightness=0.3, contrast=0.3)


@pytest.fixture
def videos(write_video) -> LabeledVideoPaths:
    return LabeledVideoPaths([(write_video(f"{i}.mp4", frames=24), i % 3) for i in range(6)])


@pytest.fixture
def broken_videos(videos, tmp_path) -> LabeledVideoPaths:
    for name in ("1.mp4", "4.mp4"):
        (tmp_path / name).write_bytes(b"not a video")
    return videos


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(value, vars(other)[name])
        if isinstance(value, torch.Tensor)
        else value == vars(other)[name]
        for name, value in vars(one).items()
    )


# Training


def train_epoch(clips: TrainClips, epoch: int, workers: int) -> list[Batch]:
    order = TrainOrder(len(clips), batch_size=2, seed=5)
    order.set_epoch(epoch)
    return list(DataLoader(clips, 2, sampler=order, num_workers=workers, collate_fn=collate))


def test_pixels_depend_on_seed_and_epoch_but_not_on_workers(videos):
    clips = TrainClips(videos, SPEC, TRANSFORM, frame_jitter=True, seed=5)
    alone, beside = train_epoch(clips, 0, workers=0), train_epoch(clips, 0, workers=2)
    assert len(alone) == 3 and all(same(a, b) for a, b in zip(alone, beside, strict=True))
    assert alone[0].clips.shape == (2, 3, 4, 32, 32) and alone[0].clips.dtype == torch.uint8
    first = {seed: TrainClips(videos, SPEC, TRANSFORM, seed=seed)[0, 3].views.clips for seed in (5, 6)}
    assert not torch.equal(first[5], first[6])
    assert not torch.equal(clips[0, 3].views.clips, clips[1, 3].views.clips)


def test_workers_that_outlive_an_epoch_follow_it(videos):
    clips = TrainClips(videos, SPEC, TRANSFORM, seed=5)
    order = TrainOrder(len(clips), batch_size=2, seed=5)
    loader = DataLoader(clips, 2, sampler=order, num_workers=1, persistent_workers=True, collate_fn=collate)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        expected = train_epoch(clips, epoch, workers=0)
        assert all(same(a, b) for a, b in zip(loader, expected, strict=True))


def test_unreadable_videos_are_replaced_and_reported(broken_videos):
    clips = TrainClips(broken_videos, SPEC, TRANSFORM, seed=1)
    for epoch in range(4):
        sample = clips[epoch, 1]
        assert len(sample.views) == 1 and sample.row not in (1, 4)
        assert (sample.path, {"label": sample.label}) == broken_videos[sample.row]
        assert sample.skipped[0][0].endswith("1.mp4") and "not a video" in sample.skipped[0][1]
    assert not clips[0, 0].skipped


def test_nothing_readable_gives_an_empty_batch(tmp_path):
    nowhere = LabeledVideoPaths([(str(tmp_path / "a.mp4"), 0)])
    batch = collate([TrainClips(nowhere, SPEC, TRANSFORM)[0, 0]])
    assert len(batch) == 0 and batch.clips.shape == (0, 3, 4, 32, 32) and len(batch.skipped) == 10
    assert len(batch.to("cpu")) == 0 and len(with_reversed(batch, torch.tensor([0]))) == 0
    assert batch.labels.dtype == torch.int64


def test_short_videos_repeat_frames(write_video):
    videos = LabeledVideoPaths([(write_video(frames=2), 0), (write_video("one.mp4", frames=1), 0)])
    for row in (0, 1):
        assert TrainClips(videos, SPEC, TRANSFORM)[0, row].views.clips.shape == (1, 3, 4, 32, 32)
        assert EvalClips(videos, SPEC, ViewGrid(32, num_clips=2))[row].views.clips.shape == (2, 3, 4, 32, 32)


# Evaluation


def test_eval_views_are_clip_major_and_always_the_same(videos):
    clips = EvalClips(videos, SPEC, ViewGrid(32, num_clips=2, num_crops=3))
    batch = collate([clips[2], clips[0]])
    assert batch.clips.shape == (12, 3, 4, 32, 32)
    assert batch.rows.tolist() == [2] * 6 + [0] * 6 and batch.labels.tolist() == [2] * 6 + [0] * 6
    assert batch.clip_index.tolist() == [0, 0, 0, 1, 1, 1] * 2 and batch.crops.tolist() == [0, 1, 2] * 4
    assert batch.starts.tolist() == [0, 0, 0, 0.25, 0.25, 0.25] * 2
    assert batch.paths == [videos[2][0]] * 6 + [videos[0][0]] * 6
    assert same(batch, collate([clips[2], clips[0]]))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_eval_over_ranks_covers_every_view_once(broken_videos, world_size):
    clips = EvalClips(broken_videos, SPEC, ViewGrid(32, num_clips=2, num_crops=3))
    views, skipped = [], []
    for rank in range(world_size):
        rows = eval_rows(len(clips), rank, world_size)
        for batch in DataLoader(clips, 2, sampler=rows, collate_fn=collate):
            views += zip(batch.rows.tolist(), batch.clip_index.tolist(), batch.crops.tolist(), strict=True)
            skipped += [Path(path).name for path, _ in batch.skipped]
    readable = [0, 2, 3, 5]
    assert sorted(views) == [(row, clip, crop) for row in readable for clip in (0, 1) for crop in (0, 1, 2)]
    assert sorted(skipped) == ["1.mp4", "4.mp4"]


def test_shuffled_frames_differ_between_videos_but_not_between_calls(write_video):
    path = write_video(frames=24)
    clips = EvalClips(
        LabeledVideoPaths([(path, 0)] * 8),
        ClipSampling(4, Fraction(1, 2), frame_order="shuffled"),
        ViewGrid(32),
    )
    pixels = [clips[row].views.clips for row in range(8)]
    assert len({tuple(clip.flatten().tolist()) for clip in pixels}) > 3
    assert torch.equal(clips[3].views.clips, pixels[3])


# Batches and order


def test_reversed_clips_follow_with_their_partners_label():
    clips = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4, 1, 1)
    numbers = torch.arange(1)
    samples = [
        Sample(
            VideoViews(clips[i : i + 1], torch.tensor([0.5 * i]), numbers, numbers), [0, 3][i], i, f"{i}.mp4"
        )
        for i in (0, 1)
    ]
    samples[0].skipped.append(("x.mp4", "no such file"))
    twice = with_reversed(collate(samples), torch.tensor([1, 0, 3, 2]))
    assert len(twice) == 4 and twice.labels.tolist() == [0, 3, 1, 2]
    assert torch.equal(twice.clips[:2], clips) and torch.equal(twice.clips[2:], clips[:, :, [3, 2, 1, 0]])
    assert twice.rows.tolist() == [0, 1, 0, 1] and twice.paths == ["0.mp4", "1.mp4"] * 2
    assert twice.skipped == [("x.mp4", "no such file")]


def test_ranks_share_the_batches_of_one_rank():
    whole = [row for _, row in TrainOrder(23, batch_size=4, seed=2)]
    shards = [list(TrainOrder(23, batch_size=2, rank=rank, world_size=2, seed=2)) for rank in (0, 1)]
    assert len(whole) == 20 and whole == epoch_order(23, 2, 0)[:20].tolist()
    for batch in range(5):
        both = [row for shard in shards for _, row in shard[2 * batch : 2 * batch + 2]]
        assert both == whole[4 * batch : 4 * batch + 4]


def test_repeated_clips_are_drawn_anew_each_time():
    order = TrainOrder(20, batch_size=6, seed=2, repeats=3)
    epochs = []
    for epoch in (0, 1):
        order.set_epoch(epoch)
        keys = list(order)
        assert len(keys) == 18 and len({row for _, row in keys}) == 6, "no longer, but it shows less"
        assert all(len({row for _, row in keys[n : n + 3]}) == 1 for n in range(0, 18, 3))
        epochs += keys
    assert len(set(epochs)) == 36, "a clip of one row and one draw has the same pixels"


def test_epochs_differ_and_can_start_in_the_middle():
    order = TrainOrder(20, batch_size=4, seed=2)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert {epoch for epoch, _ in second} == {1} and first != [(0, row) for _, row in second]
    order.set_epoch(1, first_batch=3)
    assert list(order) == second[12:] and len(order) == 8
    with pytest.raises(ValueError, match="3 files to train on do not fill one batch of 4; lower TRAIN.BATCH"):
        TrainOrder(3, batch_size=4)


# Frames from the whole video


def test_uniform_clips_cover_the_video(videos) -> None:
    """Evaluation takes the middle of each segment, with more clips other places; training a random one."""
    spec = ClipSampling(num_frames=4, duration=Fraction(1, 2), sampling="uniform")
    path = videos[0][0]
    with closing(open_video(path)) as video:
        assert spec.clips(video, 1, None) == (segment_frames(24, 4).tolist(), [float(video.times[3])])
        frames, starts = spec.clips(video, 2, None)
        assert frames[0] < frames[4] < frames[1] < frames[5] and starts[0] < starts[1]
        window = spec.random_window(video, seeded_generator(0))
        drawn = [spec.training_frames(video.times, window, False, seeded_generator(n)) for n in range(20)]
    assert len({tuple(each) for each in drawn}) > 10 and all(max(each) > 16 for each in drawn)
    whole, part = (EvalClips(videos, each, ViewGrid(32))[0].views.clips for each in (spec, SPEC))
    assert whole.shape == part.shape and not torch.equal(whole, part)
    assert len(TrainClips(videos, spec, TRANSFORM)[0, 0].views) == 1
