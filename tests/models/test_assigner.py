"""The Token-Length Assigner: which frames it reads, and what it does with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revit_video.adaptive.engine import ask
from revit_video.adaptive.policies import sufficiency
from revit_video.models.assigner import TokenLengthAssigner, small_frames


def numbered(frames: int) -> torch.Tensor:
    """Clips `(2, 3, frames, 8, 8)` whose frames are filled with their own number, 100 more in clip 1."""
    numbers = torch.arange(frames).float() + torch.tensor([[0.0], [100.0]])
    return numbers[:, None, :, None, None].expand(-1, 3, -1, 8, 8)


@pytest.mark.parametrize(
    ("total", "num_frames", "chosen"),
    [
        (8, 4, [1, 3, 5, 7]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 1, 2]),
        (5, 2, [1, 3]),
        (8, 3, [1, 4, 6]),
    ],
)
def test_frames_are_the_middles_of_equal_segments(total: int, num_frames: int, chosen: list[int]) -> None:
    frames = small_frames(numbered(total), num_frames, 4)
    assert frames.shape == (2 * len(chosen), 3, 4, 4)
    torch.testing.assert_close(
        frames.mean((1, 2, 3)), torch.tensor([*chosen, *(100 + n for n in chosen)]).float()
    )


def test_frames_of_the_right_size_are_left_as_they_are() -> None:
    clips = torch.randn(2, 3, 4, 8, 8)
    torch.testing.assert_close(
        small_frames(clips, 4, 8).view(2, 4, 3, 8, 8), clips.transpose(1, 2), rtol=0, atol=0
    )


def test_frames_are_averaged_clip_by_clip() -> None:
    """The head is linear: a clip's logits are the mean of what its frames get alone."""
    torch.manual_seed(0)
    assigner = TokenLengthAssigner(3, stages=2, num_frames=2, input_size=32).eval()
    clips = torch.randn(2, 3, 2, 32, 32)
    alone = [assigner(clips[:, :, [n]]) for n in (0, 1)]
    torch.testing.assert_close(assigner(clips), torch.stack(alone).mean(dim=0))
    assert assigner(clips).shape == (2, 3)


@pytest.mark.parametrize(
    "sizes", [dict(model="lcnet_035", stages=2), dict(), dict(model="resnet18"), dict(model="patches")]
)
def test_the_copy_for_inference_answers_alike_without_batch_norms(sizes: dict[str, object]) -> None:
    torch.manual_seed(0)
    assigner = TokenLengthAssigner(3, num_frames=2, input_size=48, **sizes).train()  # type: ignore[arg-type]
    for _ in range(2):  # norms that do something
        assigner(0.5 + 2 * torch.randn(8, 3, 2, 48, 48))
    fast, clips = assigner.for_inference(), torch.randn(4, 3, 4, 60, 60)
    torch.testing.assert_close(fast(clips), assigner.eval()(clips), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in assigner.modules())


def test_norms_that_do_not_follow_their_convolution_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered after it, but run before it: folding would change the answers."""

    class NormFirst(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
            self[1].running_mean += 5
            self[1].running_var *= 4

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return self[0](self[1](frames).relu())

    monkeypatch.setattr("revit_video.models.assigner._trunk", lambda *_: (NormFirst().eval(), 3))
    assigner, clips = TokenLengthAssigner(2, input_size=8).eval(), torch.randn(2, 3, 4, 8, 8)
    torch.testing.assert_close(assigner.for_inference()(clips), assigner(clips))


def test_a_cut_network_is_the_start_of_the_whole_one() -> None:
    sizes = [
        sum(p.numel() for p in TokenLengthAssigner(2, stages=stages).parameters()) for stages in (1, 2, 7, 0)
    ]
    assert sizes == sorted(sizes) and sizes[0] < 5_000 and sizes[-1] == pytest.approx(0.77e6, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        dict(model="no_such_net"),
        dict(stages=9),
        dict(model="resnet18", stages=1),
        dict(model="patches", stages=1),
    ],
)
def test_networks_that_cannot_be_built(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"assigner model '{changes.get('model', 'tinynet_e')}'"):
        TokenLengthAssigner(2, **changes)  # type: ignore[arg-type]


def test_patches_are_one_projection() -> None:
    """The logits are a linear function of the mean and the maximum over patches of what each patch gives."""
    torch.manual_seed(0)
    assigner = TokenLengthAssigner(3, model="patches", num_frames=2, input_size=9).eval()
    clips = torch.randn(2, 3, 2, 9, 9)
    patches = clips[..., :8, :8].unfold(3, 4, 4).unfold(4, 4, 4)  # B C T 2 2 4 4
    projection = assigner.backbone[0].weight.flatten(1)  # type: ignore[index]
    each = patches.permute(0, 2, 3, 4, 1, 5, 6).flatten(4).flatten(2, 3) @ projection.T
    each = nn.functional.hardswish(each / (1 + 1e-5) ** 0.5)  # the norm's first statistics
    pooled = torch.cat([each.mean(dim=2), each.amax(dim=2)], dim=2).mean(dim=1)
    torch.testing.assert_close(assigner(clips), assigner.head(pooled))
    with pytest.raises(ValueError, match="input of 3 px is smaller than a patch of 4 px"):
        TokenLengthAssigner(3, model="patches", input_size=3)


def test_probabilities_add_up_to_sufficiency() -> None:
    """Those of labels to 1; with one sigmoid each, to that of every length, whichever is larger."""
    clips = torch.randn(5, 3, 2, 16, 16)
    for objective in ("label", "sufficiency"):
        torch.manual_seed(0)
        sizes = {"stages": 1, "num_frames": 2, "input_size": 16}
        assigner = TokenLengthAssigner(3, **sizes, objective=objective).eval()  # type: ignore[arg-type]
        logits, found = assigner(clips), ask(assigner, clips)
        if objective == "label":
            torch.testing.assert_close(found, logits.softmax(dim=1))
        else:
            torch.testing.assert_close(sufficiency(found), logits.sigmoid())
    with pytest.raises(ValueError, match="assigner objective 'odd'; there are label, sufficiency"):
        TokenLengthAssigner(3, objective="odd")
