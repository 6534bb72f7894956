"""timm's networks with their published weights, from the hub or, out of its reach, its cache; its ViTs."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import timm
from huggingface_hub import constants, try_to_load_from_cache
from timm.layers import Attention, SwiGLU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

PATIENCE = 5.0  # seconds for the hub's first answer; its own client retries for the better part of a minute
FILES = ("model.safetensors", "pytorch_model.bin")


def pretrained_network(name: str, **options: Any) -> Any:
    """timm's network `name` with its published weights.

    Args:
        options: of `timm.create_model`.

    Raises:
        OSError: the hub does not answer, and the weights are not in its cache.
        Exception: timm's, the hub's or the disk's, of their own kinds.
    """
    hub_id = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    if hub_id and (constants.HF_HUB_OFFLINE or not hub_answers()):
        path = _cached(hub_id)
        if path is None:
            raise OSError("no network, and not downloaded before")
        options["pretrained_cfg_overlay"] = {"file": path}
    return timm.create_model(name, pretrained=True, **options)


def hub_answers(patience: float = PATIENCE) -> bool:
    """Whether the hub answers one request, by way of the proxy that the environment names, in time."""
    answers: list[bool] = []
    # In a thread of its own, since nothing else ends the search for an address in time.
    asking = Thread(target=lambda: answers.append(_answers(patience)), daemon=True)
    asking.start()
    asking.join(patience)
    return answers == [True]


def _answers(patience: float) -> bool:
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=patience).close()
    except (HTTPError, HTTPException):
        return True  # an error, but an answer
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the hub's client may know other certificates
    except OSError:
        return False
    return True


def _cached(hub_id: str) -> str | None:
    """The file of the weights in the hub's cache, if it is there."""
    repository, _, revision = hub_id.partition("@")
    paths = (try_to_load_from_cache(repository, file, revision=revision or None) for file in FILES)
    return next((path for path in paths if isinstance(path, str)), None)


# ---- Its ViTs --------------------------------------------------------------------------------------------


def settings_of_vit(model: Any) -> dict[str, Any]:
    """Fields of `ReViTConfig` of a ViT that `unlike_ours` has nothing against."""
    pool = {"avg": "mean" if isinstance(model.norm, nn.Identity) else "normed_mean"}
    pool_kind = pool.get(model.global_pool, "cls")
    unread = pool_kind != "cls" and model.cls_token is not None
    last = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    return {
        "num_heads": model.blocks[0].attn.num_heads,
        "pool": pool_kind,
        "registers": unread + (0 if model.reg_token is None else model.reg_token.shape[1]),
        "pre_norm": isinstance(model.norm_pre, nn.LayerNorm),
        "act": _activation(model.blocks[0].mlp),
        "norm_eps": model.blocks[0].norm1.eps,
        "head_norm_eps": last.eps,
    }


def _activation(mlp: Any) -> str:
    """Its name in `ReViTConfig`; empty if it is not known."""
    gated = getattr(mlp, "chunk_dim", None) == -1 and not getattr(mlp, "gate_last", True)
    if isinstance(mlp, SwiGLU) or (gated and isinstance(mlp.act, nn.SiLU)):
        return "swiglu"
    act = getattr(mlp, "act", None)
    kind = type(act).__name__
    if getattr(mlp, "chunk_dim", None) is None:
        if kind == "QuickGELU":
            return "quick_gelu"
        if kind == "GELUTanh" or (kind == "GELU" and getattr(act, "approximate", "none") == "tanh"):
            return "gelu_tanh"
        if kind == "GELU":
            return "gelu"
    return ""


def unlike_ours(model: Any) -> str:
    """The part of a model of timm that ours lacks; empty if there is none."""
    if type(model) is not VisionTransformer:
        return f"it is a {type(model).__name__}, not a VisionTransformer"
    if model.global_pool not in ("token", "avg", ""):
        return f"it pools with {model.global_pool!r}, not by the class token or the mean of the patch tokens"
    if getattr(model, "pool_include_prefix", False):
        return "its mean is over the class token too (pool_include_prefix)"
    if model.pos_embed is None:
        return "it has no position embeddings that are added to its tokens"
    if all(isinstance(norm, nn.Identity) for norm in (model.norm, model.fc_norm)):
        return "it has no norm before its head"
    last = model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
    norms: list[Any] = []
    if all(type(block) is Block for block in model.blocks):
        norms = [norm for block in model.blocks for norm in (block.norm1, block.norm2)]
    for norm in (last, *norms):
        if not isinstance(norm, nn.LayerNorm):
            return f"it has norms of the kind {type(norm).__name__}, not LayerNorm"
    if len({norm.eps for norm in norms}) > 1:
        return "its LayerNorms have several eps"
    if not norms:
        return (
            f"its blocks are of the kind {type(model.blocks[0]).__name__}, with another order of their parts"
        )
    block: Any
    for block in model.blocks:
        if type(block.attn) is not Attention:
            return f"its attention is of the kind {type(block.attn).__name__}"
        if not isinstance(block.attn.q_norm, nn.Identity) or not isinstance(block.attn.norm, nn.Identity):
            return "its attention has norms of its own (qk_norm or scale_norm)"
        if not isinstance(getattr(block.mlp, "norm", nn.Identity()), nn.Identity):
            return "its MLPs have a norm"
        if not _activation(block.mlp):
            act = type(getattr(block.mlp, "act", None)).__name__
            return f"its MLPs have {act} in a {type(block.mlp).__name__}, not GELU or SwiGLU"
    return ""
