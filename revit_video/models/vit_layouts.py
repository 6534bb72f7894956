"""ViTs under other names than timm's: transformers' ViT, MAE, DeiT, DINOv2, CLIP; CLIP's own (OpenCLIP)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from revit_video.models.layouts import Weights, with_joined_attention

CLIP_STEM = "visual.conv1.weight"  # tells CLIP's own weights from a ViT's
CLIP_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
    # within a block
    "ln_1": "norm1",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def from_clip(state: Weights) -> dict[str, Tensor]:
    """CLIP's image encoder under timm's names, without the projection to texts."""
    renamed = {}
    for name, value in state.items():
        if not name.startswith("visual.") or name == "visual.proj":
            continue
        inner = name.removeprefix("visual.")
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", inner)
        renamed[_renamed(inner, match, CLIP_NAMES)] = value
    return _as_batches(renamed)


def _renamed(name: str, block: re.Match[str] | None, names: Mapping[str, str]) -> str:
    """Our name of a weight, by the longest start that is known; `block` found its number and its part."""
    part = block[2] if block else name
    theirs = max(filter(part.startswith, names), key=len, default="")
    part = names.get(theirs, "") + part[len(theirs) :]
    return f"blocks.{block[1]}.{part}" if block else part


def _as_batches(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The class token and positions with the dimensions that timm gives them."""
    for name, dimensions in (("cls_token", 1), ("pos_embed", 2)):
        if name in state and state[name].ndim == dimensions:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    return state


# ---- transformers ----------------------------------------------------------------------------------------

TRANSFORMERS_VITS: dict[str, dict[str, Any]] = {  # by model_type: what a config does not say
    "vit": {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "num_attention_heads": 12},
    "vit_mae": {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "num_attention_heads": 12},
    "deit": {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "num_attention_heads": 12},
    "dinov2": {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "num_attention_heads": 12},
    "dinov2_with_registers": {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "num_attention_heads": 12},
    "clip": {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "num_attention_heads": 12},
    "clip_vision_model": {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "num_attention_heads": 12},
}
OUTER = re.compile(r"^(?:vit|deit|dinov2|dinov2_with_registers|vision_model|clip)\.")
BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)")
NAMES = {  # theirs -> timm's, by the start; of older and newer releases
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embedding": "patch_embed.proj",
    "pre_layrnorm": "norm_pre",  # their spelling
    "pre_layernorm": "norm_pre",
    "post_layernorm": "norm",
    "layernorm": "norm",
    "cls_classifier": "head",
    "distillation_classifier": "head_dist",
    "classifier": "head",
    # within a block
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "attention.attention.": "attn.",
    "attention.output.dense": "attn.proj",
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.proj",
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}
NOT_READ = re.compile(
    r"pooler\.|text_model\.|text_projection|visual_projection|logit_scale|.*position_ids$|decoder\."
)


def from_transformers_vit(state: Weights) -> dict[str, Tensor]:
    """transformers' ViT, DeiT, DINOv2 or CLIP under timm's names; what reads no image is left out."""
    renamed = {}
    for name, value in state.items():
        inner = OUTER.sub("", name)
        if NOT_READ.match(inner) or NOT_READ.match(name):
            continue
        match = BLOCK.fullmatch(inner)
        renamed[_renamed(inner, match, NAMES)] = value
    return with_joined_attention(_as_batches(renamed))


def settings_of_transformers_vit(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` tells of the model; of CLIP, that of its image encoder."""
    said = TRANSFORMERS_VITS[config["model_type"]] | dict(config.get("vision_config") or config)
    return {
        "num_heads": said["num_attention_heads"],
        "norm_eps": said["layer_norm_eps"],
        "act": said["hidden_act"],
    }
