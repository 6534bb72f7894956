"""A frozen backbone: frames are read once, descriptions tell order and motion, only what is read costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from revit_video import flops
from revit_video.adaptive.policies import Costs
from revit_video.models import checkpoint
from revit_video.models.base import NO_STATE
from revit_video.models.config import FrozenConfig, ModelConfigError
from revit_video.models.frozen import FrozenReViT, blocks_of, describe
from revit_video.models.inference import for_inference, logits_at, logits_at_all
from revit_video.models.pretrained import initialise, single_length
from tests.peers import random_vit
from tests.tiny import SIZES, random_clips, tiny_frozen

OTHER_GRIDS = dict(lengths=["6x4x4", "6x2x2", "3x2x2"])


@pytest.mark.parametrize("changes", [{}, OTHER_GRIDS, dict(num_frames=1, lengths=[8, 4])])
@torch.inference_mode()
def test_a_cascade_gives_what_each_length_gives_alone(changes: dict[str, object]) -> None:
    model = tiny_frozen(**changes).eval()
    clips = random_clips(2, frames=model.num_frames)
    alone = torch.stack([model(clips, length).logits for length in model.lengths], dim=1)
    in_one = torch.stack([output.logits for output in model.forward_all(clips)], dim=1)
    read = torch.stack(
        [head(description) for head, description in zip(model.heads, model.descriptions(clips), strict=True)],
        dim=1,
    )
    torch.testing.assert_close(in_one, alone)
    torch.testing.assert_close(read, alone)
    assert alone.std(dim=1).min() > 1e-3  # the lengths differ


def test_going_on_reads_only_new_frames() -> None:
    model = tiny_frozen().eval()
    clips = random_clips(1, frames=6)
    _, state = model.step(clips, 2, NO_STATE)
    poisoned = clips.clone()
    poisoned[:, :, model.frames[2]] = float("nan")  # of the frames that were read
    output, state = model.step(poisoned, 1, state)
    assert bool(output.logits.isfinite().all())
    poisoned[:, :, model.frames[1]] = float("nan")
    output, _ = model.step(poisoned, 0, state)
    torch.testing.assert_close(output.logits, model(clips, "6x4x4").logits)


def test_other_grids_start_again_and_their_costs_add_up() -> None:
    assert tiny_frozen().carries_state and not tiny_frozen(**OTHER_GRIDS).carries_state
    for model, paid in ((tiny_frozen(), [3, 2, 1]), (tiny_frozen(**OTHER_GRIDS), [6, 3, 1])):
        assert Costs([3, 2, 1], cumulative=model.carries_state).passes()[2].tolist() == paid


def test_the_cost_is_that_of_the_frames_that_are_read() -> None:
    model = tiny_frozen().float()
    counted = [flops.revit_macs(model, length).matmul_gmacs for length in model.lengths]
    closed = [flops.matmul_gmacs(model.config, i) for i in range(3)]
    assert counted == pytest.approx(closed, rel=1e-2)  # but for the heads, which are small
    assert closed == pytest.approx([closed[2] * frames for frames in (6, 3, 1)], rel=1e-3)


def test_a_length_has_its_own_head_alone() -> None:
    model = tiny_frozen()
    heads = [sum(each.numel() for each in head.parameters()) for head in model.heads]
    params = [model.params_at(length) for length in model.lengths]
    per_length = params[0] - heads[0]
    assert [p - h for p, h in zip(params, heads, strict=True)] == [per_length] * 3
    assert heads == [(sum(blocks_of(frames, 16, 24)) + 1) * 5 for frames in (6, 3, 1)]


def test_the_inference_copy_and_the_checkpoint_answer_alike(tmp_path: Path) -> None:
    model = tiny_frozen().float().eval()
    clips = random_clips(2, frames=6).float()
    expected = torch.stack([logits_at(model, clips, length) for length in model.lengths], dim=1)
    torch.testing.assert_close(logits_at_all(for_inference(model), clips), expected, rtol=1e-4, atol=1e-4)
    content = {"kind": "frozen", "spec": model.config.to_dict(), "weights": model.state_dict()}
    checkpoint.save(str(tmp_path / "model"), {"format": checkpoint.FORMAT, "model": content})
    again = checkpoint.read(str(tmp_path / "model")).model()
    assert type(again) is FrozenReViT
    torch.testing.assert_close(logits_at_all(again, clips), logits_at_all(model, clips))


@torch.inference_mode()
def test_tokens_are_those_of_the_vit_frame_by_frame() -> None:
    vit = random_vit(init_values=0.1)
    model = FrozenReViT(FrozenConfig(**SIZES | {"lengths": ["3x8x8", "1x8x8"]})).eval()
    initialise(model, single_length("vit", vit.state_dict()).without_head())
    clips = random_clips(2).float()
    theirs = vit.forward_features(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(model.read(clips, 0), theirs, rtol=0, atol=1e-4)


# ---- Descriptions ----------------------------------------------------------------------------------------


def test_a_still_clip_has_no_motion_and_a_reversed_one_another_order() -> None:
    frame = torch.randn(1, 1, 1 + 4, 8)
    still = describe(frame.expand(-1, 6, -1, -1))
    torch.testing.assert_close(still[:, : 2 * 8], describe(frame))
    thirds, rest = still[0, 2 * 8 : 5 * 8].view(3, 8), still[0, 5 * 8 :]
    torch.testing.assert_close(thirds, frame[0, 0, :1].expand(3, -1))
    assert rest.abs().max() < 1e-6
    clip = torch.randn(1, 6, 5, 8)
    there, back = describe(clip)[0], describe(clip.flip(1))[0]
    torch.testing.assert_close(there[: 2 * 8], describe(clip[:, 3:4])[0])  # the middle frame
    thirds = [each[2 * 8 : 5 * 8].view(3, 8) for each in (there, back)]
    torch.testing.assert_close(thirds[0], thirds[1].flip(0))
    torch.testing.assert_close(there[-4:], back[-4:])  # where something moves


def test_a_still_clip_has_finite_gradients() -> None:
    frame = torch.randn(2, 1, 5, 8, requires_grad=True)
    describe(frame.expand(-1, 6, -1, -1)).sum().backward()
    assert frame.grad is not None and frame.grad.isfinite().all()


def test_what_moves_is_told() -> None:
    """Patch 2 changes and the others do not: it is what moves, and where."""
    clip = torch.randn(1, 1, 1 + 4, 8).repeat(1, 4, 1, 1)
    clip[:, :, 1 + 2] = torch.randn(1, 4, 8)
    described = describe(clip)[0]
    channels, moving = described[6 * 8 : 7 * 8], described[7 * 8 : 8 * 8]
    change = (clip[0, 1:, 3] - clip[0, :-1, 3]).abs()
    torch.testing.assert_close(channels, change.mean(dim=0) / 4)
    weights = change.mean(dim=1, keepdim=True)
    torch.testing.assert_close(
        moving, (clip[0, 1:, 3] * weights).sum(0) / weights.sum(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(described[-4:], torch.tensor([0, 0, change.mean(), 0]))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 16])
def test_descriptions_are_as_long_as_said_and_finite(frames: int) -> None:
    described = describe(torch.randn(2, frames, 1 + 9, 8))
    assert described.shape == (2, sum(blocks_of(frames, 9, 8)))
    assert bool(described.isfinite().all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(lengths=["6x4x4", "4x4x4"]), "4 frames are not evenly spaced ones of 6"),
        (dict(lengths=["12x4x4", "6x4x4"]), "12 frames are not evenly spaced ones of 6"),
        (dict(attention="divided_space_time"), "attention: must be space_only in a frozen backbone"),
    ],
)
def test_settings_that_no_frozen_model_has(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        tiny_frozen(**changes)
