"""DVT's published cascades, written out with their reuse in the way of the public code, and their files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import revit_video
from revit_video.from_cfg.convert import convert
from revit_video.models.checkpoint import read
from revit_video.models.config import DVTConfig, ReViTConfig
from revit_video.models.dvt import DVT
from revit_video.models.inference import for_inference, logits_at_all
from revit_video.models.presets import preset
from revit_video.models.pretrained import initialise_parts
from revit_video.models.revit import ReViT
from revit_video.models.sources import read_source
from tests.models.test_soft_split import TokensToToken, with_random_weights

SPLITS = {14: (7, 4, 2), 10: (11, 6, 5), 7: (14, 8, 3)}
PATCHES = {14: (16, 0), 10: (23, 3), 7: (32, 0)}
CLASSES = 10


def longer(values: Tensor, side: int) -> Tensor:
    """The last dimension, a grid, repeated to 14 x 14 or 20 x 20 and averaged to 10 x 10 or 14 x 14."""
    before = math.isqrt(values.shape[-1])
    grid = values.reshape(-1, 1, before, before)
    grid = F.adaptive_avg_pool2d(F.interpolate(grid, ({10: 14, 14: 20}[side],) * 2, mode="nearest"), side)
    return grid.reshape(*values.shape[:-1], side**2)


class Stage(nn.Module):
    """One transformer of the cascade: a T2T-ViT, or with patches a DeiT."""

    def __init__(self, side: int, dim: int, depth: int, ratio: int, t2t: bool, reuses: bool) -> None:
        super().__init__()
        self.side, self.heads, self.t2t = side, dim // 64, t2t
        if t2t:
            self.tokens_to_token = TokensToToken(SPLITS[side], dim)
        else:
            kernel, padding = PATCHES[side]
            self.patch_embed = nn.Module()
            self.patch_embed.proj = nn.Conv2d(3, dim, kernel, kernel, padding)
        eps = 1e-5 if t2t else 1e-6
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2 + 1, dim), requires_grad=not t2t)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block, wider = nn.Module(), dim + 48 * reuses
            block.norm1, block.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(wider, eps=eps)
            block.attn, block.mlp = nn.Module(), nn.Module()
            block.attn.qkv, block.attn.proj = nn.Linear(dim, 3 * dim, bias=not t2t), nn.Linear(dim, dim)
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(wider, ratio * dim), nn.Linear(ratio * dim, dim)
            if reuses:
                mlp = nn.Module()
                mlp.fc1, mlp.fc2 = nn.Linear(dim, 128), nn.Linear(128, 48)
                block.feature_resuse_mlp = nn.Sequential(nn.LayerNorm(dim, eps=eps), mlp)
            self.blocks.append(block)
        if reuses:
            count = depth * self.heads
            self.relation_reuse_conv = nn.Sequential(
                nn.Conv2d(count, 3 * count, 1), nn.GELU(), nn.Conv2d(3 * count, count, 1)
            )
        self.norm, self.head = nn.LayerNorm(dim, eps=eps), nn.Linear(dim, CLASSES)

    def forward(
        self, x: Tensor, features: Tensor | None, relations: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        x = self.tokens_to_token(x) if self.t2t else self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        added: Any = [0.0] * len(self.blocks)
        if relations is not None:
            maps = self.relation_reuse_conv(torch.cat(relations, dim=1))
            maps = torch.cat([maps[..., :1], longer(maps[..., 1:], self.side)], dim=-1).transpose(2, 3)
            maps = torch.cat([maps[..., :1], longer(maps[..., 1:], self.side)], dim=-1).transpose(2, 3)
            added = maps.chunk(len(self.blocks), dim=1)
        scores = []
        for block, more in zip(self.blocks, added, strict=True):
            batch, count, dim = x.shape
            qkv = block.attn.qkv(block.norm1(x)).reshape(batch, count, 3, self.heads, 64)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            scores.append((q @ k.transpose(-2, -1)) * 64**-0.5 + more)
            y = (scores[-1].softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, count, dim)
            x = y = x + block.attn.proj(y)
            if features is not None:
                norm, mlp = block.feature_resuse_mlp
                channels = mlp.fc2(F.gelu(mlp.fc1(norm(features))))[:, 1:].transpose(1, 2)
                channels = longer(channels, self.side).transpose(1, 2)
                y = torch.cat([y, F.pad(channels, (0, 0, 1, 0))], dim=2)
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
        return self.head(self.norm(x)[:, 0]), x, scores


class Cascade(nn.Module):
    def __init__(self, dim: int, ratio: int, t2t: bool) -> None:
        super().__init__()
        self.less_less_token = Stage(7, dim, 2, ratio, t2t, False)
        self.less_token = Stage(10, dim, 2, ratio, t2t, True)
        self.normal_token = Stage(14, dim, 2, ratio, t2t, True)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = relations = None
        outputs = []
        for stage in (self.less_less_token, self.less_token, self.normal_token):
            output, features, relations = stage(x, features, relations)
            outputs.append(output)
        return outputs


def saved_peer(path: Path, t2t: bool, prefix: str = "") -> Cascade:
    peer = with_random_weights(Cascade(256, 2, t2t))
    state = {prefix + name: value for name, value in peer.state_dict().items()}
    beside = {"flops": [0.5, 1.4, 3.0], "dynamic_threshold": torch.zeros(59, 3)}
    torch.save({"model_state_dict": state, **beside}, path)
    return peer


@pytest.mark.parametrize(("t2t", "prefix"), [(True, ""), (False, "module.")])
@torch.no_grad()
def test_a_published_cascade_gives_the_public_codes_logits(t2t: bool, prefix: str, tmp_path: Path) -> None:
    """By way of the command that makes a checkpoint of ours; with the inference copy too."""
    peer, path = saved_peer(tmp_path / "dvt.pth.tar", t2t, prefix), str(tmp_path / "model.pyth")
    report = convert(str(tmp_path / "dvt.pth.tar"), path, "revit", None, [])
    assert "initialised" not in str(report) and "ignored" not in str(report)
    images = torch.randn(2, 3, 224, 224)
    expected = torch.stack(peer(images)[::-1], dim=1)
    assert expected.std(dim=0).mean() > 0.1  # between images: reuse and images matter
    model = read(path).model()
    assert [str(length) for length in model.lengths] == ["14x14", "10x10", "7x7"]
    for output, theirs in zip(model.forward_all(images.unsqueeze(2)), expected.unbind(1), strict=True):
        torch.testing.assert_close(output.logits, theirs, rtol=0, atol=1e-4)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        ours = logits_at_all(for_inference(model, dtype), images.unsqueeze(2))
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
    assert revit_video.load(path).model.kind == "dvt"


def test_a_cascade_starts_from_a_cascade_of_its_lengths_alone(tmp_path: Path) -> None:
    path = tmp_path / "dvt.pth.tar"
    saved_peer(path, t2t=True)
    sizes = preset("t2t_vit_7") | {"depth": 2, "num_classes": 4}
    source = read_source(str(path))
    for config, message in (
        (
            ReViTConfig(**sizes, lengths=(14, 10, 7)),
            "only a DVT of its lengths can start from it, DVT.ENABLE",
        ),
        (DVTConfig(**sizes, lengths=(14, 7)), r"REVIT.TOKEN_LENGTHS \[14x14, 10x10, 7x7\]"),
        (DVTConfig(**sizes, lengths=(14, 10, 7)), "DVT.UPSAMPLE: .* was trained with nearest, not bilinear"),
    ):
        with pytest.raises(ValueError, match=message):
            initialise_parts(DVT(config) if isinstance(config, DVTConfig) else ReViT(config), source)
    model = DVT(DVTConfig(**sizes, lengths=(14, 10, 7), upsample="nearest"))
    reports = initialise_parts(model, source)  # with other classes
    assert [report.counts["initialised"].total() for report in reports] == [2, 2, 2]
    assert torch.equal(
        model.parts[1].relation_reuse.fc1.weight, source.states[1]["relation_reuse.fc1.weight"]
    )
