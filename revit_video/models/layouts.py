"""Names and shapes of other projects' weights, and TimeSformer's: pure functions on state dicts, both ways.

Within one of our states, frames of a tubelet are channels of the patch kernel, one frame after the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from revit_video.models.embed import sine_table

Weights = Mapping[str, Tensor]

KERNEL, CLASS, REGISTERS = "patch_embed.proj.weight", "cls_token", "reg_token"
ATTENTION_PARTS = ("query", "key", "value")

# ---- transformers ----------------------------------------------------------------------------------------

# What the three models have in common; per block, TimeSformer has more, and one matrix for q, k and v.
TRANSFORMERS_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    # within a block
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    **{f"attn.{part}": f"attention.attention.{part}" for part in ATTENTION_PARTS},
}
OTHER_NAMES = {  # of older or newer releases
    "attention.attention.q_bias": "attn.query.bias",
    "attention.attention.v_bias": "attn.value.bias",
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
TRANSFORMERS_BLOCK = r"encoder\.layer\.(\d+)\.|layers\.(\d+)\."


def from_transformers(state: Weights) -> dict[str, Tensor]:
    """From the names of transformers' TimeSformer, VideoMAE or ViViT; unknown names stay as they are."""
    names = {theirs: ours for ours, theirs in TRANSFORMERS_NAMES.items()} | OTHER_NAMES
    names |= {"classifier": "head", "fc_norm": "norm"}
    renamed = {}
    for name, value in state.items():
        inner = re.sub(r"^(timesformer|videomae|vivit)\.", "", name)
        match = re.fullmatch(rf"(?:{TRANSFORMERS_BLOCK})?(.+?)(\.weight|\.bias)?", inner)
        assert match is not None
        block = match[1] or match[2]
        ours = names.get(match[3], match[3]) + (match[4] or "")
        renamed[ours if block is None else f"blocks.{block}.{ours}"] = value
    return with_flat_kernel(with_joined_attention(renamed))


def to_transformers(
    state: Weights, model: str = "timesformer", tubelet: int = 1, pool: str = "cls"
) -> dict[str, Tensor]:
    """From our names to those of `model`'s class for video classification, in transformers.

    VideoMAE has no position embeddings in its state, and no biases of keys, which are of no effect.

    Args:
        tubelet, pool: see `ReViTConfig`.
    """
    if model != "timesformer":
        state = dict(state)
        state[KERNEL] = state[KERNEL].unflatten(1, (tubelet, -1)).transpose(1, 2).contiguous()
        for name in [name for name in state if name.endswith(("attn.qkv.weight", "attn.qkv.bias"))]:
            parts = zip(ATTENTION_PARTS, state.pop(name).chunk(3), strict=True)
            state |= {name.replace("qkv", part): value.contiguous() for part, value in parts}
    renamed = {}
    for name, value in state.items():
        match = re.fullmatch(r"(blocks\.(\d+)\.)?(.+?)(\.weight|\.bias)?", name)
        assert match is not None
        theirs = TRANSFORMERS_NAMES.get(match[3], match[3]) + (match[4] or "")
        prefix = f"{model}.encoder.layer.{match[2]}." if match[1] else f"{model}."
        renamed["classifier" + match[4] if match[3] == "head" else prefix + theirs] = value
    if model != "videomae":
        return renamed
    kept = {name: value for name, value in renamed.items() if not name.endswith(UNUSED_IN_VIDEOMAE)}
    last = "fc_norm." if pool == "mean" else "videomae.layernorm."
    return {
        re.sub(r"\.(query|value)\.bias$", lambda match: f".{match[1][0]}_bias", name).replace(
            "videomae.layernorm.", last
        ): value
        for name, value in kept.items()
    }


UNUSED_IN_VIDEOMAE = ("key.bias", "position_embeddings")


# ---- VideoMAE's own --------------------------------------------------------------------------------------

VIDEOMAE_BIAS = "blocks.0.attn.q_bias"  # tells its weights from a ViT's
VIDEOMAE_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
VIDEOMAE: dict[str, Any] = dict(attention="joint_space_time", positions="fixed", pool="mean")
LEFT_OUT = re.compile(r"decoder\.|encoder_to_decoder\.|mask_token$")  # of its pretraining


def from_videomae(state: Weights) -> dict[str, Tensor]:
    """From the names of VideoMAE's authors; of a pretrained one, the encoder without its last norm."""
    if pretrained := any(name.startswith("encoder.") for name in state):
        state = {name.removeprefix("encoder."): value for name, value in state.items()}
    state = without_decoder(state)
    renamed = {}
    for name, value in state.items():
        if name.startswith("norm.") and (pretrained or "fc_norm.weight" in state):
            continue
        renamed[_of_beit(name).replace("fc_norm.", "norm.")] = value
    return with_flat_kernel(with_joined_attention(renamed))


PARTS_OF = {"q": "query", "v": "value"}


def _of_beit(name: str) -> str:
    """timm's name for one of BEiT's, from which VideoMAE's are: biases of queries and values, LayerScale."""
    name = re.sub(r"attn\.([qv])_bias$", lambda match: f"attn.{PARTS_OF[match[1]]}.bias", name)
    return re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name)


def without_decoder(state: Weights) -> dict[str, Tensor]:
    """`state` without what only VideoMAE's pretraining uses."""
    return {name: value for name, value in state.items() if not LEFT_OUT.match(name)}


def fixed_places(state: Weights, count: int, first: int = 0) -> Tensor:
    """VideoMAE's waves over `count` places, `(1, count, C)`, where `state` is on the same device."""
    kernel = state[KERNEL]
    return sine_table(first, count, len(kernel))[None].to(kernel.device)


# ---- T2T-ViT ---------------------------------------------------------------------------------------------

T2T_STEM = "tokens_to_token.project.weight"  # tells its weights from a ViT's
T2T_FIRST = "patch_embed.attention1.kqv.weight"  # there, likewise
T2T_ROWS = "patch_embed.attention1.w"  # of a performer, which T2T-ViT_t does not have
T2T_HEAD = 64
T2T: dict[str, Any] = dict(attention="space_only", positions="fixed", pool="cls", norm_eps=1e-5)


def from_t2t(state: Weights, by_width: bool = True) -> dict[str, Tensor]:
    """From T2T-ViT's names.

    Args:
        by_width: its queries are scaled by width^-0.5, as its code does for pretrained weights, not by head
            width^-0.5; that is folded in.
    """
    renamed = {}
    for name, value in state.items():
        if by_width and name.endswith("attn.qkv.weight"):
            width = value.shape[1]
            value = torch.cat([value[:width] * (T2T_HEAD / width) ** 0.5, value[width:]])
        name = name.replace("tokens_to_token.project.", "patch_embed.proj.")
        renamed[name.replace("tokens_to_token.", "patch_embed.")] = value
    return renamed


# ---- DVT -------------------------------------------------------------------------------------------------

# Longest first; they tell its weights from others.
DVT_PARTS = ("normal_token.", "less_token.", "less_less_token.")


def parts_of_dvt(state: Weights) -> list[dict[str, Tensor]]:
    """The weights of each transformer of a DVT, longest first, of what it reuses under our names."""
    parts = [
        {_reused(name.removeprefix(part)): value for name, value in state.items() if name.startswith(part)}
        for part in DVT_PARTS
    ]
    return [part for part in parts if part]


def _reused(name: str) -> str:
    name = name.replace(".feature_resuse_mlp.0.", ".feature_reuse.norm.")  # its authors' spelling
    name = name.replace(".feature_resuse_mlp.1.", ".feature_reuse.mlp.")
    name = re.sub(r"^relation_reuse_conv\.0\.", "relation_reuse.fc1.", name)
    return re.sub(r"^relation_reuse_conv\.2\.", "relation_reuse.fc2.", name)


# ---- Parts that several have -----------------------------------------------------------------------------


def with_flat_kernel(state: Weights) -> dict[str, Tensor]:
    """`state` with a convolution over space and time `(C, RGB, T, h, w)` as one over space, of T frames."""
    kernel = state.get(KERNEL)
    if kernel is None or kernel.ndim != 5:
        return dict(state)
    return {**state, KERNEL: kernel.transpose(1, 2).flatten(1, 2)}


def with_joined_attention(state: Weights) -> dict[str, Tensor]:
    """`state` with one matrix for queries, keys and values, and zero where one of them has no bias."""
    joined = {name: value for name, value in state.items() if not _is_part(name)}
    for name in filter(_is_part, state):
        stem, kind = name.rsplit(".", 2)[0], name.rsplit(".", 1)[1]
        if (key := f"{stem}.qkv.{kind}") not in joined:
            found = [state.get(f"{stem}.{part}.{kind}") for part in ATTENTION_PARTS]
            given = next(part for part in found if part is not None)
            joined[key] = torch.cat([torch.zeros_like(given) if part is None else part for part in found])
    return with_biases(joined)


def with_biases(state: Weights) -> dict[str, Tensor]:
    """`state` with biases of zero where queries, keys and values, or patches, have none."""
    biases = {}
    for name, value in state.items():
        bias = name.removesuffix("weight") + "bias"
        if name.endswith(("attn.qkv.weight", KERNEL)) and bias not in state:
            biases[bias] = value.new_zeros(len(value))
    return {**state, **biases}


def _is_part(name: str) -> bool:
    return re.search(r"attn\.(query|key|value)\.(weight|bias)$", name) is not None


# ---- ViTs with more than TimeSformer has -----------------------------------------------------------------


def activation(state: Weights) -> str | None:
    """SwiGLU, where the MLP's second matrix has half of the first one's channels; else not told."""
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    gated = first is not None and second is not None and len(first) == 2 * second.shape[1]
    return "swiglu" if gated else None


def pooling(state: Weights) -> str:
    """How a ViT of timm's names pools, as far as they show it: see `ReViTConfig.pool`."""
    if "fc_norm.weight" in state and "norm.weight" not in state:
        return "mean"
    return "cls" if CLASS in state else "normed_mean"


@torch.no_grad()
def from_vit(state: Weights, pool: str) -> dict[str, Tensor]:
    """A ViT's `state` under timm's names, with what we have no part for expressed by the parts we have.

    That a special token has a position is as good as the sum of both without one; and a class or distillation
    token that no head reads is a register. SwiGLU's two matrices become one.
    """
    named = {_of_dinov2(_of_beit(name)): value for name, value in state.items()}
    state = with_joined_attention(named)
    if pool != "cls":
        state = {re.sub(r"^fc_norm\.", "norm.", name): value for name, value in state.items()}
    for name in [name for name in state if name.endswith(("mlp.fc1_g.weight", "mlp.fc1_g.bias"))]:
        gate, values = state.pop(name), state.pop(name.replace("fc1_g", "fc1_x"))
        state[name.replace("fc1_g", "fc1")] = torch.cat([gate, values])
    return _with_placed_tokens(state, pool)


def _of_dinov2(name: str) -> str:
    """timm's name for one of DINOv2's authors: registers, SwiGLU, blocks in chunks."""
    name = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name.replace("register_tokens", REGISTERS))
    return name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")


def _with_placed_tokens(state: dict[str, Tensor], pool: str) -> dict[str, Tensor]:
    """Positions of the class and distillation tokens, and of patches: those that a ReViT has."""
    position = state.get("pos_embed")
    if position is None or position.ndim != 3:
        return state
    special = [name for name in (CLASS, "dist_token", REGISTERS) if name in state]
    if not special:
        return state
    tokens, read = torch.cat([state[name] for name in special], dim=1), len(special) - (REGISTERS in state)
    placed = (n for n in (read, tokens.shape[1], 0) if _is_square(position.shape[1] - n))
    covered = next(placed, None)
    if covered is None:
        return state
    own = torch.zeros_like(tokens)
    own[:, :covered] = position[:, :covered]
    if "head.weight" in state and "head_dist.weight" not in state:
        read = 1  # a DeiT fine-tuned by transformers, which leaves the distillation token to attention
    kept = read if pool == "cls" else 0  # with a position of their own
    registers = (tokens + own)[:, kept:]
    state = {name: value for name, value in state.items() if name not in special[kept:]}
    state["pos_embed"] = torch.cat([own[:, :kept], position[:, covered:]], dim=1)
    return state | ({REGISTERS: registers} if registers.shape[1] else {})


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
