"""Compiled, or with blocks computed twice, a model is the same one."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounterWithBackend

from revit_video import flops
from revit_video.models.revit import ReViT
from tests.tiny import random_clips, tiny_revit

LENGTHS = [8, 4, 2]


def losses(model: ReViT, clips: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    outputs = [model(clips, length) for length in model.lengths]
    return [output.logits.square().sum() for output in outputs]


def gradients(model: ReViT, clips: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    torch.stack(losses(model, clips)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def compiled(model: ReViT, backend: str = "eager") -> CompileCounterWithBackend:
    """Compiles `model`; what counts its graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    model.compile(backend=counter)
    return counter


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
def test_blocks_computed_twice_give_the_same_gradients(attention: str) -> None:
    """Bit for bit, dropout and stochastic depth being drawn alike both times."""
    clips, found = random_clips(2), []
    for act_checkpoint in (False, True):
        model = tiny_revit(attention=attention, drop_rate=0.2, drop_path=0.5, act_checkpoint=act_checkpoint)
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, to=saved: to.append(x.numel()) or x, lambda x: x
        ):
            losses(model, clips)
        found.append((gradients(model, clips), sum(saved)))
    (expected, all_kept), (twice, few_kept) = found
    assert all(torch.equal(twice[name], gradient) for name, gradient in expected.items())
    assert few_kept < all_kept / 3


def test_mixed_tokens_are_compiled_too() -> None:
    """MixToken: another box needs no other graph."""
    model = tiny_revit(attention="space_only", dense_head=True, num_frames=1)
    clips, boxes = random_clips(2, frames=1), [(0.0, 0.0, 0.5, 0.5), (0.25, 0.5, 1.0, 1.0)]
    expected = [model(clips, 8, mix=box) for box in boxes]
    counter = compiled(model)
    for box, (cls, dist, dense) in zip(boxes, expected, strict=True):
        found = model(clips, 8, mix=box)
        torch.testing.assert_close((found.cls, found.dist, found.dense), (cls, dist, dense))
    assert counter.frame_count == 1


def test_blocks_are_computed_once_without_gradients() -> None:
    model, calls = tiny_revit(act_checkpoint=True), []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(model, random_clips(2))
    assert len(calls) == 2 * len(model.lengths)
    model.eval()
    gradients(model, random_clips(2))
    with torch.no_grad():
        losses(model.train(), random_clips(2))
    assert len(calls) == 4 * len(model.lengths)


@pytest.mark.parametrize("changes", [{}, dict(stem="conv", pos_embed="resized"), dict(patch_embed="resized")])
def test_training_takes_one_graph_a_length(changes: dict[str, Any]) -> None:
    plain, model = (tiny_revit(lengths=LENGTHS, depth=1, act_checkpoint=True, **changes) for _ in range(2))
    graphs = compiled(model, "aot_eager")
    for seed in range(2):
        clips = random_clips(2, seed)
        torch.testing.assert_close(gradients(model, clips), gradients(plain, clips))
    assert graphs.frame_count == len(LENGTHS)
    torch.testing.assert_close(model.state_dict(), plain.state_dict())  # of batch norms what they have seen


def test_evaluation_takes_one_graph_a_length_for_batches_of_any_size() -> None:
    plain, model = (tiny_revit(lengths=LENGTHS, depth=1).eval() for _ in range(2))
    graphs = compiled(model)
    for size in (4, 3, 7, 2, 4):
        with torch.inference_mode():
            torch.testing.assert_close(losses(model, random_clips(size)), losses(plain, random_clips(size)))
    assert graphs.frame_count == len(LENGTHS)


def test_all_modes_fit_into_dynamos_limit_and_more_are_an_error() -> None:
    """A single clip has a graph of its own. Beyond the limit, torch would read on without one, slowly."""
    model = tiny_revit(lengths=LENGTHS, depth=1)
    graphs = compiled(model)
    for size in (4, 1):
        gradients(model.train(), random_clips(size))
        with torch.inference_mode():
            losses(model.eval(), random_clips(size))
    assert graphs.frame_count == 4 * len(LENGTHS)
    with pytest.raises(FailOnRecompileLimitHit), torch._dynamo.config.patch(cache_size_limit=12):
        gradients(model.train(), random_clips(3))


def test_a_copy_reads_with_its_own_weights() -> None:
    model = tiny_revit().eval()
    compiled(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.bias += 1
    clips = random_clips(2)
    torch.testing.assert_close(other(clips, 8).cls, model(clips, 8).cls + 1)


def test_a_model_that_cannot_be_compiled_runs_as_it_is_if_it_may(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no compiler here")

    plain, clips = tiny_revit(), random_clips(2)
    for optional in (False, True):
        torch._dynamo.reset()
        model = tiny_revit()
        model.compile(optional, backend=fails)
        if not optional:
            with pytest.raises(BackendCompilerFailed):
                losses(model, clips)
            continue
        with caplog.at_level("WARNING", "revit_video"):
            torch.testing.assert_close(gradients(model, clips), gradients(plain, clips))
    (said,) = [record.message for record in caplog.records if record.name.startswith("revit_video")]
    assert "runs uncompiled" in said and "no compiler here" in said and not model.compiled


def test_costs_are_counted_as_without() -> None:
    model = tiny_revit(act_checkpoint=True)
    expected = flops.cost_table(tiny_revit(), 1)
    graphs = compiled(model)
    assert flops.cost_table(model, 1) == expected and graphs.frame_count == 0


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor_agrees() -> None:
    """The compiler that is used by default, in single precision."""
    plain, model = (tiny_revit(lengths=[4], depth=1).float().eval() for _ in range(2))
    graphs = compiled(model, "inductor")
    for size in (2, 3):
        clips = random_clips(size).float()
        with torch.inference_mode():
            torch.testing.assert_close(losses(model, clips), losses(plain, clips), rtol=1e-4, atol=1e-4)
    assert graphs.frame_count == 1
