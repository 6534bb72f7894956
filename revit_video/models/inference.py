"""Reading clips when nothing is to be learned from them: the same answers, sooner."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from revit_video.length import TokenLength, find
from revit_video.models.blocks import JointBlock
from revit_video.models.dvt import DVT, AnyModel, State
from revit_video.models.embed import Stem, separate_embeddings

# Channels of patch tokens that a CPU reads at a time; a clip of TimeSformer's at 14x14 has 1.2 million. What
# a larger pass computes leaves the processor's caches, and the system takes long to provide its memory.
CPU_PASS = 1 << 21
MIN_BFLOAT16_WIDTH = 256  # of narrower models little is left to gain, and small ones are soon confused


def inference_dtype(asked: str, model: AnyModel) -> torch.dtype:
    """Precision in which to read: `float32`, `bfloat16`, or by `auto` the faster one of these.

    `auto` is bfloat16 for models at least 256 wide on devices that compute in it. Whether a CPU does,
    only recent releases of PyTorch tell; for others it does not.

    Raises:
        ValueError: another word.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if asked in dtypes:
        return dtypes[asked]
    if asked != "auto":
        raise ValueError(f"dtype {asked!r}: there are auto, {', '.join(dtypes)}")
    wide = model.cls_token.shape[-1] >= MIN_BFLOAT16_WIDTH
    return dtypes["bfloat16" if wide and _computes_in_bfloat16(model.cls_token.device) else "float32"]


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(told.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def for_inference(model: AnyModel, dtype: torch.dtype = torch.float32) -> AnyModel:
    """A copy of `model`, to be read by `read`: weights in `dtype`, successive products made one.

    Modifications:
        Every token length has embeddings of its own, so that none is resampled to be read.
        The heads and the norm before them stay in single precision, since close logits decide.
        `features` counts and costs what it did; the copy takes fewer products than that.
    """
    reader = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(reader, DVT):
        reader.backbones = nn.ModuleList(for_inference(part, dtype) for part in reader.models)
        return reader
    separate_embeddings(reader)
    for part in reader.modules():
        if isinstance(part, JointBlock | Stem):
            part.fold()
    for name, parameter in reader.named_parameters():
        if not name.startswith(("norm.", "head")):
            parameter.data = parameter.data.to(dtype)
    if model.compiled:
        reader.compile()
    return reader


def read(model: AnyModel, clips: Tensor, length: int | str | TokenLength) -> Tensor:
    """Logits `(B, classes)` of normalised `clips` `(B, 3, T, H, W)`, in single precision."""
    length = model.lengths[find(model.lengths, length)]
    clips = clips.to(model.cls_token.dtype)
    passes = clips.split(_pass_size(model, clips, length))
    return torch.cat([model(part, length).logits for part in passes]).float()


def read_all(model: AnyModel, clips: Tensor) -> Tensor:
    """What `read` gives at each of the model's lengths, `(B, lengths, classes)`."""
    if not isinstance(model, DVT):
        return torch.stack([read(model, clips, length) for length in model.lengths], dim=1)
    state, shortest_first = None, []
    for i in reversed(range(len(model.lengths))):
        logits, state = read_stage(model, clips, i, state)
        shortest_first.append(logits)
    return torch.stack(shortest_first[::-1], dim=1)


def read_stage(model: DVT, clips: Tensor, i: int, state: State | None) -> tuple[Tensor, State]:
    """What `read` gives at length `i`, from the state that the next shorter one left; and what it leaves."""
    clips = clips.to(model.cls_token.dtype)
    size = _pass_size(model, clips, model.lengths[i])
    parts = [slice(start, start + size) for start in range(0, len(clips), size)]
    outputs = [model.step(clips[part], i, state and state.of(part)) for part in parts]
    logits = torch.cat([output.logits for output, _ in outputs]).float()
    return logits, State.joined(left for _, left in outputs)


def _pass_size(model: AnyModel, clips: Tensor, length: TokenLength) -> int:
    if clips.device.type != "cpu" or model.compiled:
        return max(1, len(clips))
    return max(1, CPU_PASS // (model.num_frames * length.count * model.cls_token.shape[-1]))
