"""Inference: a faster copy of the model, and logits at one length, at all lengths, or in a cascade."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from revit_video.length import TokenLength, find
from revit_video.models.base import NO_STATE, CascadeState, ResizableModel
from revit_video.models.blocks import JointBlock
from revit_video.models.embed import separate_embeddings
from revit_video.models.layers import onednn_computes_in
from revit_video.models.stem import Stem

# Tokens x channels in one CPU pass; a TimeSformer clip at 14x14 has 1.2 million.
# Larger passes fall out of the caches and are slowed down by page faults.
CPU_PASS = 1 << 21
MIN_BFLOAT16_WIDTH = 256  # narrower models gain little speed and lose more accuracy


def inference_dtype(asked: str, model: ResizableModel) -> torch.dtype:
    """Precision of inference: `float32`, `bfloat16`, or with `auto` the faster of the two.

    `auto` is bfloat16 for models of width 256 or more, on hardware that computes in it. CPU support is
    only known to recent releases of PyTorch; older ones get float32.

    Raises:
        ValueError: `asked` is none of these.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if asked in dtypes:
        return dtypes[asked]
    if asked != "auto":
        raise ValueError(f"dtype {asked!r}: there are auto, {', '.join(dtypes)}")
    suits = model.width >= MIN_BFLOAT16_WIDTH and _computes_in_bfloat16(model.device)
    return dtypes["bfloat16" if suits else "float32"]


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    units = any(told.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return units and onednn_computes_in(torch.bfloat16)


def for_inference(model: ResizableModel, dtype: torch.dtype = torch.float32) -> ResizableModel:
    """A faster copy of `model` for `logits_at`: weights in `dtype`, successive linear maps fused.

    Modifications:
        Shared embeddings are resampled once, to one set per token length.
        The heads and the norm before them stay in single precision, since close logits decide.
        The copy takes fewer products than `flops` counts.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    separate_embeddings(fast)
    for module in fast.modules():
        if isinstance(module, JointBlock | Stem):
            module.fold()
    for part in fast.parts:
        for name, parameter in part.named_parameters():
            if not name.startswith(("norm.", "head")):
                parameter.data = parameter.data.to(dtype)
        part.pos_embed.to(dtype)  # fixed ones are no parameters
    if fast.device.type == "cuda":
        from revit_video.models.cuda_graphs import Graphs

        fast.cuda_graphs = Graphs()
    return fast


def logits_at(model: ResizableModel, clips: Tensor, length: int | str | TokenLength) -> Tensor:
    """Logits `(B, classes)` of normalised `clips` `(B, 3, T, H, W)` at one length, in single precision."""
    length = model.lengths[find(model.lengths, length)]
    clips = clips.to(model.dtype)

    def run(part: Tensor) -> Tensor:
        logits: Tensor = model(part, length).logits
        return logits

    if model.cuda_graphs is not None:
        return model.cuda_graphs(run, length, clips, model.activations_at(length)).float()
    return torch.cat([run(part) for part in clips.split(_pass_size(model, clips, length))]).float()


def logits_at_all(model: ResizableModel, clips: Tensor) -> Tensor:
    """Logits at every length, longest first, `(B, lengths, classes)`."""
    state, shortest_first = NO_STATE, []
    for i in reversed(range(len(model.lengths))):
        logits, state = logits_at_next(model, clips, i, state)
        shortest_first.append(logits)
    return torch.stack(shortest_first[::-1], dim=1)


def logits_at_next(
    model: ResizableModel, clips: Tensor, i: int, state: CascadeState = NO_STATE
) -> tuple[Tensor, CascadeState]:
    """One step of a cascade: logits `(B, classes)` at `lengths[i]`, and the state for the next longer one.

    Args:
        state: from the next shorter length, for the same clips; empty at the shortest.
    """
    if not model.carries_state:
        return logits_at(model, clips, model.lengths[i]), state
    clips = clips.to(model.dtype)
    size = _pass_size(model, clips, model.lengths[i])
    parts = [slice(start, start + size) for start in range(0, len(clips), size)]
    steps = [model.step(clips[part], i, state.of(part)) for part in parts]
    logits = torch.cat([output.logits for output, _ in steps]).float()
    return logits, CascadeState.joined(state for _, state in steps)


def _pass_size(model: ResizableModel, clips: Tensor, length: TokenLength) -> int:
    if clips.device.type != "cpu" or model.compiled:
        return max(1, len(clips))
    return max(1, CPU_PASS // model.activations_at(length))


# ---- Probabilities -----------------------------------------------------------------------------------------


def probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """Of the classes, the last axis: with `multi_label` each on its own."""
    return logits.sigmoid() if multi_label else logits.softmax(dim=-1)


def log_probabilities(scores: Tensor, temperature: float | Tensor, multi_label: bool = False) -> Tensor:
    """Logits behind class probabilities `(..., classes)`, at a temperature.

    Of those made with softmax, log-probabilities: `log_softmax(logits / temperature)`. With `multi_label`, of
    those made with sigmoids: `logits / temperature`.
    """
    least = torch.finfo(scores.dtype).tiny
    logs = scores.clamp(min=least).log()
    if multi_label:
        return (logs - (1 - scores).clamp(min=least).log()) / temperature
    return (logs / temperature).log_softmax(dim=-1)


def confidence(scores: Tensor, multi_label: bool) -> Tensor:
    """How sure an answer is, from its class probabilities `(..., classes)`: the largest one.

    With `multi_label`: the probability that the decision for or against a class is right, in the geometric
    mean over the classes.
    """
    if not multi_label:
        return scores.amax(dim=-1)
    return torch.maximum(scores, 1 - scores).log().mean(dim=-1).exp()
