"""What is left out, merged or split for inference changes no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import revit_video.models.inference as inference
import revit_video.models.layers as layers
from revit_video.models.inference import for_inference, inference_dtype, logits_at
from revit_video.models.layers import Attention, TimeAttention, attend
from tests.tiny import random_clips, tiny_revit

ATTENTIONS = ["divided_space_time", "joint_space_time", "space_only"]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("length", [8, 4])
def test_unread_patch_tokens_do_not_matter(attention: str, length: int) -> None:
    """Answers and gradients are those of a last block that computes every token."""
    model, clips = tiny_revit(attention=attention), random_clips(2)
    special, _ = model.features(clips, length)
    expected, result = model.classify(special), model(clips, length)
    used = [parameter for parameter in model.parameters()]
    pairs = zip(result, expected, strict=True)
    for own, other in ((own, other) for own, other in pairs if own is not None):
        torch.testing.assert_close(own, other)
        gradients, others = (
            torch.autograd.grad(logits.sin().sum(), used, retain_graph=True, allow_unused=True)
            for logits in (own, other)
        )
        for one, two in zip(gradients, others, strict=True):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_answers_are_the_models(attention: str) -> None:
    model = tiny_revit(attention=attention).eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    reader, clips = for_inference(model, torch.float64), random_clips(3)
    for length in model.lengths:
        expected = model(clips, length).logits.float()
        torch.testing.assert_close(logits_at(reader, clips, length), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        dict(stem="conv"),
        dict(stem="lvvit"),
        dict(patch_embed="shared", pos_embed="shared"),
        dict(patch_embed="resized", pos_embed="resized"),
    ],
)
def test_embeddings_are_read_without_norms_and_resampling(changes: dict[str, Any]) -> None:
    """The model's answers; in the end an embedding a length, and of a stem its convolutions alone."""
    model, clips = tiny_revit(lengths=[8, 5, 4], **changes), random_clips(3)
    for length in model.lengths:
        model(2 * clips + 1, length)  # batch norms see something
    reader = for_inference(model.eval(), torch.float64)
    for length in model.lengths:
        expected = model(clips, length).logits.float()
        torch.testing.assert_close(logits_at(reader, clips, length), expected, rtol=1e-6, atol=1e-6)
    assert not list(reader.buffers()) and not any(p.requires_grad for p in reader.parameters())
    assert len(reader.patch_embed) == 3 and not any(isinstance(m, nn.BatchNorm2d) for m in reader.modules())
    half = logits_at(for_inference(model, torch.bfloat16), clips, 8)
    assert half.dtype == torch.float32 and half.isfinite().all()


def test_passes_are_joined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clips = tiny_revit(), random_clips(5)
    whole = logits_at(model, clips, 4)
    monkeypatch.setattr(inference, "CPU_PASS", 2 * 3 * 4 * 4 * 24)  # of two clips
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    torch.testing.assert_close(logits_at(model, clips, 4), whole)
    assert sizes == [2, 2, 1]


def test_half_precision_answers_alike() -> None:
    model = tiny_revit().float()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter *= 0.5  # as a trained model, whose attention is less sharp
    reader, clips = for_inference(model, torch.bfloat16), random_clips(8).float()
    assert reader.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    with torch.inference_mode():
        for length in model.lengths:
            result, expected = logits_at(reader, clips, length), model(clips, length).logits
            assert result.dtype == torch.float32 and torch.equal(result, logits_at(reader, clips, length))
            assert (result - expected).abs().max() < 0.05 * expected.abs().max()


def test_close_logits_are_told_apart_in_half_precision() -> None:
    """The heads keep single precision: what differs by less than bfloat16 can tell still differs."""
    model = tiny_revit(distill_token=False).float()
    with torch.no_grad():
        model.head.weight[1] = model.head.weight[0]
        model.head.bias[:2] = torch.tensor([3.0, 3.001])
    logits = logits_at(for_inference(model, torch.bfloat16), random_clips(4).float(), 8)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], torch.full((4,), 1e-3), rtol=0.01, atol=0)


def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[0], x[1], x[2]


@pytest.mark.parametrize("parts", [1 << 30, 1])
def test_attention_in_half_precision(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr(layers, "CACHED_SCORES", parts)
    q, k, v = split(torch.randn(3, 2, 3, 7, 8, generator=torch.Generator().manual_seed(0)))
    expected = (q @ k.transpose(2, 3) / 8**0.5).softmax(dim=3) @ v
    with torch.inference_mode():
        result = attend(*(x.bfloat16() for x in (q[:, :, :4], k, v)))
    torch.testing.assert_close(result.float(), expected[:, :, :4], rtol=0.03, atol=0.03)


def test_first_queries_alone() -> None:
    torch.manual_seed(0)
    attention, x = Attention(24, 3).double(), torch.randn(2, 5, 9, 24).double()
    torch.testing.assert_close(attention(x, 2), attention(x)[:, :, :2])


def test_attention_over_time_needs_no_transposition() -> None:
    torch.manual_seed(0)
    over_time, x = TimeAttention(24, 3).double(), torch.randn(2, 5, 9, 24).double()
    plain = Attention(24, 3).double()
    plain.load_state_dict(over_time.state_dict())
    torch.testing.assert_close(over_time(x), plain(x.transpose(1, 2)).transpose(1, 2))


def test_dtype_asked_for_or_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = tiny_revit(depth=1, embed_dim=258).float(), tiny_revit(depth=1).float()
    for can, chosen in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(inference, "_computes_in_bfloat16", lambda device, can=can: can)
        assert inference_dtype("auto", wide) == chosen
        assert inference_dtype("auto", narrow) == torch.float32
        assert inference_dtype("bfloat16", narrow) == torch.bfloat16
        assert inference_dtype("float32", wide) == torch.float32
    with pytest.raises(ValueError, match="dtype 'half': there are auto, float32, bfloat16"):
        inference_dtype("half", wide)
