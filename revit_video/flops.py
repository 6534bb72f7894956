"""Cost of a forward pass: multiply-accumulates (MACs), counted with fvcore and in closed form."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from revit_video.length import TokenLength, soft_splits, stem_geometry
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel, count_params
from revit_video.models.config import ReViTConfig
from revit_video.models.embed import separate_embeddings
from revit_video.models.soft_split import FEATURES, TOKEN_DIM

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # on import, fvcore compiles a loss with torch.jit
    from fvcore.nn import FlopCountAnalysis

GIGA = 1e9

# Elementwise operations, which the papers do not count. Anything else that fvcore does not know is an error:
# no product is ever counted as zero.
UNCOUNTED = frozenset(
    "aten::" + name
    for name in (
        *("add", "add_", "sub", "rsub", "mul", "mul_", "div", "div_", "pow"),
        *("mean", "amax", "adaptive_max_pool2d", "sum", "softmax", "square", "exp", "im2col", "abs", "sqrt"),
        *("gelu", "relu", "relu_", "silu", "silu_", "sigmoid", "tanh", "hardtanh", "hardtanh_"),
        *("hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "dropout", "dropout_"),
        *("clone", "copy_", "expand", "repeat", "unflatten", "view_as", "pad", "constant_pad_nd"),
    )
)
NORMS = frozenset({"layer_norm", "batch_norm", "group_norm"})


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one view.

    Attributes:
        gmacs: as counted by fvcore, with 5 operations per element of a LayerNorm; the papers' figure.
        matmul_gmacs: matrix products and convolutions alone.
    """

    gmacs: float
    matmul_gmacs: float


def count(module: nn.Module, *inputs: Tensor) -> Macs:
    """Count `module(*inputs)` in evaluation mode, by tracing it once.

    Raises:
        RuntimeError: an operation that neither fvcore nor `UNCOUNTED` knows.
    """
    modes = [(part, part.training) for part in module.modules()]
    analysis = FlopCountAnalysis(module.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("aten::_upsample_bilinear2d_aa", _shrinking_macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants that tracing folds
        operations = analysis.by_operator()
        unknown = sorted(set(analysis.unsupported_ops()) - UNCOUNTED)
    for part, training in modes:
        part.training = training
    if unknown:
        raise RuntimeError(
            f"cannot count {', '.join(unknown)}: give it a handle or list it in flops.UNCOUNTED"
        )
    products = sum(macs for name, macs in operations.items() if name not in NORMS)
    return Macs(sum(operations.values()) / GIGA, products / GIGA)


def revit_macs(model: ResizableModel, length: TokenLength) -> Macs:
    """Cost of one view `(1, 3, T, S, S)` at one length, with separate embeddings (`for_inference`).

    A DVT runs all shorter lengths first; their cost is included.
    """
    model = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})  # the same weights
    separate_embeddings(model)
    size = (1, 3, model.num_frames, model.img_size, model.img_size)
    return count(_InFull(model, length), model.example.new_zeros(size))


def assigner_macs(assigner: TokenLengthAssigner, num_frames: int, img_size: int) -> Macs:
    """Cost of the assigner for one view."""
    size = (1, 3, num_frames, img_size, img_size)
    return count(assigner, assigner.head.weight.new_zeros(size))


def matmul_gmacs(config: ReViTConfig, i: int) -> float:
    """Matrix products of one view at `config.lengths[i]` in closed form, to check the count against."""
    dim, length = config.embed_dim, config.lengths[i]
    frames = length.frames or config.steps
    patches, special = length.count, config.num_special[i]

    def attend(sequences: int, tokens: int) -> int:
        return sequences * (4 * tokens * dim**2 + 2 * tokens**2 * dim)

    specials = special * (frames if config.attention == "space_only" else 1)
    hidden = int(config.mlp_ratio * dim)
    channels = hidden + hidden // 2 if config.act == "swiglu" else 2 * hidden
    block = channels * dim * (frames * patches + specials)
    if config.attention == "joint_space_time":
        block += attend(1, special + frames * patches)
    else:
        block += attend(frames, special + patches)
    if config.attention == "divided_space_time":
        block += attend(patches, frames) + frames * patches * dim**2  # temporal attention, temporal_fc
    heads = (1 + config.distils_at(i) + config.dense_head * patches) * dim * config.num_classes
    return (frames * _embed_macs(config, length) + config.depth * block + heads) / GIGA


def _embed_macs(config: ReViTConfig, length: TokenLength) -> int:
    """Per frame, or tubelet: the stem's convolutions, then the projection of patches."""
    size, dim = config.img_size, config.embed_dim
    if config.stem == "t2t":
        return _soft_split_macs(config, length)
    side, channels, macs = size, 3 * config.tubelet, 0
    if config.stem == "lvvit":
        side, channels = size // 2, 64
        macs = side**2 * 64 * (7**2 * 3 * config.tubelet + 2 * 3**2 * 64)
    elif config.stem == "conv":
        halvings, doublings = stem_geometry(size, length, dim)
        for k in range(1, halvings + 1):
            side, wider = side // 2, dim // 2 ** (doublings - k)
            macs += side**2 * 3**2 * channels * wider
            channels = wider
    kernel = -(-side // length.h) * -(-side // length.w)
    return macs + length.count * channels * kernel * dim


def _soft_split_macs(config: ReViTConfig, length: TokenLength) -> int:
    """T2T-ViT's stem: two performers, on ever fewer tokens, and a projection."""
    sides = [config.img_size] * 2
    splits = zip(soft_splits(config.img_size, length.h), soft_splits(config.img_size, length.w), strict=True)
    macs, channels = 0, 3 * config.tubelet
    for by_side in splits:
        area = math.prod(kernel for kernel, _, _ in by_side)
        steps = zip(sides, by_side, strict=True)
        sides = [(side + 2 * padding - kernel) // stride + 1 for side, (kernel, stride, padding) in steps]
        inputs, channels = channels * area, TOKEN_DIM
        if math.prod(sides) == length.count:
            return macs + length.count * inputs * config.embed_dim
        attention = FEATURES * (4 * TOKEN_DIM + 1)  # features of queries and keys, both products, the sum
        macs += math.prod(sides) * (inputs * 3 * TOKEN_DIM + attention + 3 * TOKEN_DIM**2)
    raise AssertionError("the splits do not meet the grid")


def cost_table(
    model: ResizableModel, views: int, assigner: TokenLengthAssigner | None = None
) -> dict[str, Any]:
    """The content of `flops.json`: cost per view at every length and of the assigner; views per video."""
    table: dict[str, Any] = {
        "unit": "GMACs",
        "views": views,
        "params": count_params(model),
        "lengths": {
            str(length): asdict(revit_macs(model, length)) | {"params": model.params_at(length)}
            for length in model.lengths
        },
    }
    return table if assigner is None else with_assigner(table, model, assigner)


def with_assigner(
    costs: Mapping[str, Any], model: ResizableModel, assigner: TokenLengthAssigner
) -> dict[str, Any]:
    """The `cost_table` of `model` with the assigner's costs."""
    macs = assigner_macs(assigner, model.num_frames, model.img_size)
    return {**costs, "assigner_gmacs": macs.gmacs, "assigner_params": count_params(assigner)}


class _InFull(nn.Module):
    """`forward_in_full` at one length, as tracing takes tensors alone."""

    def __init__(self, model: ResizableModel, length: TokenLength) -> None:
        super().__init__()
        self.model, self.length = model, length

    def forward(self, clips: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.model.forward_in_full(clips, self.length)


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Products of scaled dot-product attention: q·k and attention·v."""
    *batch, queries, width = inputs[0].type().sizes()
    keys, value_width = inputs[2].type().sizes()[-2:]
    return math.prod(batch) * queries * keys * (width + value_width)


def _shrinking_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Antialiased bilinear shrinking: rows, then columns, each pixel from twice as many as it stands for."""
    *channels, height, width = inputs[0].type().sizes()
    rows, columns = outputs[0].type().sizes()[-2:]
    across = height * columns * 2 * max(1, math.ceil(width / columns))
    down = rows * columns * 2 * max(1, math.ceil(height / rows))
    return math.prod(channels) * (across + down)
