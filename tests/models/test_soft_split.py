"""T2T-ViT against its public code, written out; its geometry, cost and weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.flops import matmul_gmacs, revit_macs
from revit_video.length import soft_splits
from revit_video.models.config import DVTConfig, ReViTConfig
from revit_video.models.dvt import DVT
from revit_video.models.inference import for_inference, logits_at
from revit_video.models.presets import PRESETS, preset, t2t_vit_7
from revit_video.models.pretrained import initialise
from revit_video.models.revit import ReViT
from revit_video.models.sources import read_source
from tests.peers import randomised

PUBLISHED = {  # parameters in millions, MACs in billions
    7: (4.3, 1.1),
    10: (5.9, 1.5),
    12: (6.9, 1.8),
    14: (21.5, 4.8),
    19: (39.2, 8.5),
    24: (64.1, 13.8),
}


class Performer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kqv, self.proj = nn.Linear(dim, 192), nn.Linear(64, 64)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(64)
        self.mlp = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.Dropout(0.1))
        self.w = nn.Parameter(nn.init.orthogonal_(torch.randn(32, 64)) * math.sqrt(32), requires_grad=False)

    def features(self, x: Tensor) -> Tensor:
        squares = (x * x).sum(dim=-1, keepdim=True).repeat(1, 1, 32) / 2
        return torch.exp(torch.einsum("bti,mi->btm", x, self.w) - squares) / math.sqrt(32)

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = torch.split(self.kqv(self.norm1(x)), 64, dim=-1)
        kp, qp = self.features(k), self.features(q)
        total = torch.einsum("bti,bi->bt", qp, kp.sum(dim=1)).unsqueeze(dim=2)
        kptv = torch.einsum("bin,bim->bnm", v, kp)
        x = v + self.proj(torch.einsum("bti,bni->btn", qp, kptv) / (total.repeat(1, 1, 64) + 1e-8))
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    def __init__(self, first: tuple[int, int, int], dim: int) -> None:
        super().__init__()
        kernel, stride, padding = first
        self.soft_split0 = nn.Unfold(kernel, stride=stride, padding=padding)
        self.soft_split1, self.soft_split2 = (nn.Unfold(3, stride=2, padding=1) for _ in range(2))
        self.attention1, self.attention2 = Performer(3 * kernel**2), Performer(576)
        self.project = nn.Linear(576, dim)

    def forward(self, x: Tensor) -> Tensor:
        for split, attention in ((self.soft_split0, self.attention1), (self.soft_split1, self.attention2)):
            x = attention(split(x).transpose(1, 2)).transpose(1, 2)
            side = math.isqrt(x.shape[2])
            x = x.reshape(len(x), 64, side, side)
        return self.project(self.soft_split2(x).transpose(1, 2))


class Plain(nn.Module):
    """A T2T-ViT in the way of its public code, with queries scaled by `width ** -0.5`."""

    def __init__(self, first: tuple[int, int, int], grid: int, dim: int, depth: int, ratio: int) -> None:
        super().__init__()
        self.heads = dim // 64
        self.tokens_to_token = TokensToToken(first, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        places, channels = torch.arange(grid**2 + 1)[:, None], torch.arange(dim)
        angles = places / 10000 ** (2 * (channels // 2) / dim).double()
        table = torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()
        self.pos_embed = nn.Parameter(table[None], requires_grad=False)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.Module()
            block.norm1, block.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            block.attn, block.mlp = nn.Module(), nn.Module()
            block.attn.qkv, block.attn.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)
            self.blocks.append(block)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens_to_token(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            batch, count, dim = x.shape
            qkv = block.attn.qkv(block.norm1(x)).reshape(batch, count, 3, self.heads, 64)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            weights = ((q @ k.transpose(-2, -1)) * dim**-0.5).softmax(dim=-1)
            x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(batch, count, dim))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        return self.head(self.norm(x)[:, 0])


def peer(grid: int, dim: int = 256, depth: int = 2, ratio: int = 2) -> Plain:
    first = {14: (7, 4, 2), 10: (11, 6, 5), 7: (14, 8, 3)}[grid]
    return with_random_weights(Plain(first, grid, dim, depth, ratio))


def with_random_weights(model: nn.Module) -> Any:
    """`model` with random weights; those that are not trained (positions, performers' rows) as they are."""
    fixed = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    randomised(model)
    model.load_state_dict(model.state_dict() | fixed)
    return model


@pytest.mark.parametrize(("grid", "dim", "ratio"), [(14, 256, 2), (14, 384, 3), (10, 256, 2), (7, 256, 2)])
@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_official_weights_give_the_public_codes_logits(
    grid: int, dim: int, ratio: int, prefix: str, tmp_path: Path
) -> None:
    """Both stems of DVT's cascade too; and with the inference copy."""
    theirs, path = peer(grid, dim, ratio=ratio), tmp_path / "t2t.pth.tar"
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict_ema": state, "epoch": 299}, path)
    arch = "t2t_vit_7" if dim == 256 else "t2t_vit_14"
    sizes = preset(arch) | {"depth": 2, "lengths": [grid], "num_classes": 10}
    model = (t2t_vit_7([grid], 10, depth=2) if dim == 256 else built(sizes)).eval()
    report = initialise(model, read_source(str(path)))
    assert "ignored" not in str(report) and "initialised" not in str(report)
    image = torch.randn(2, 3, 224, 224)
    expected = theirs(image)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(model(image.unsqueeze(2), grid).logits, expected, rtol=0, atol=1e-4)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        ours = logits_at(for_inference(model, dtype), image.unsqueeze(2), grid)
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_queries_may_be_scaled_by_the_width_of_a_head(tmp_path: Path) -> None:
    """As by the public code where no scale is given."""
    theirs, path = peer(14), tmp_path / "t2t.pth.tar"
    with_doubled_queries = {
        name: torch.cat([value[:256] * 2, value[256:]]) if name.endswith("qkv.weight") else value
        for name, value in theirs.state_dict().items()
    }
    torch.save({"state_dict_ema": theirs.state_dict()}, path)
    model = t2t_vit_7([14], 10, depth=2).eval()
    report = initialise(model, read_source(str(path), query_scale="head"))
    theirs.load_state_dict(with_doubled_queries)
    image = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(image.unsqueeze(2), 14).logits, theirs(image), rtol=0, atol=1e-4)
    assert "scaled by head width" in str(report)


def built(sizes: dict[str, Any]) -> ReViT:
    return ReViT(ReViTConfig(**sizes))


def test_a_stem_of_transformers_is_refused(tmp_path: Path) -> None:
    state = {name: value for name, value in peer(14).state_dict().items() if not name.endswith(".w")}
    torch.save(state, tmp_path / "t2t_vit_t.pth.tar")
    with pytest.raises(ValueError, match="is a T2T-ViT_t: only those with performers"):
        read_source(str(tmp_path / "t2t_vit_t.pth.tar"))


@torch.no_grad()
def test_shorter_lengths_start_from_the_longest_with_another_first_split(tmp_path: Path) -> None:
    theirs, path = peer(14), tmp_path / "t2t.pth.tar"
    torch.save({"state_dict_ema": theirs.state_dict()}, path)
    model = t2t_vit_7([14, 10, 7], 10, depth=2)
    report = initialise(model, read_source(str(path)))
    assert report.counts["resampled"].total() == 2 * 3 + 2  # first norms and projections, positions
    for i, kernel in ((1, 11), (2, 14)):
        assert model.patch_embed[i].attention1.kqv.in_features == 3 * kernel**2
        assert torch.equal(model.patch_embed[i].attention2.w, model.patch_embed[0].attention2.w)
        assert torch.equal(model.patch_embed[i].proj.weight, model.patch_embed[0].proj.weight)


@pytest.mark.parametrize("number", PUBLISHED)
def test_published_sizes(number: int) -> None:
    sizes = preset(f"t2t_vit_{number}") | {"num_classes": 1000, "lengths": [14], "distill_token": False}
    params, gmacs = PUBLISHED[number]
    with torch.device("meta"):
        one, two = (built(sizes | {"depth": depth}) for depth in (1, 2))
    first, second = (each.params_at(each.lengths[0]) / 1e6 for each in (one, two))
    fixed = (197 * sizes["embed_dim"] + 2 * 32 * 64) / 1e6  # its authors count what is not trained
    assert first + (sizes["depth"] - 1) * (second - first) + fixed == pytest.approx(params, abs=0.05)
    assert matmul_gmacs(ReViTConfig(**sizes), 0) == pytest.approx(gmacs, abs=0.14)


@pytest.mark.parametrize("tubelet", [1, 3])
def test_the_count_is_the_closed_form(tubelet: int) -> None:
    sizes = preset("t2t_vit_7") | dict(depth=1, num_classes=10, lengths=[4, 2], img_size=32, num_frames=3)
    model = built(sizes | {"tubelet": tubelet})
    for i, length in enumerate(model.lengths):
        counted = revit_macs(model, length).matmul_gmacs
        assert counted == pytest.approx(matmul_gmacs(model.config, i), rel=1e-9)


def test_splits_of_a_frame() -> None:
    assert [soft_splits(224, cells)[0] for cells in (14, 10, 7)] == [(7, 4, 2), (11, 6, 5), (14, 8, 3)]
    assert soft_splits(32, 4)[0][1] == 2
    with pytest.raises(ValueError, match="32 px cannot be split softly into 30 patches, as T2T-ViT does"):
        soft_splits(32, 30)


@torch.no_grad()
def test_dvt_takes_them_too() -> None:
    sizes = preset("t2t_vit_7") | dict(depth=1, num_classes=10, lengths=[4, 2], img_size=32)
    model = DVT(DVTConfig(**sizes)).eval()
    outputs = model.forward_all(torch.randn(2, 3, 1, 32, 32))
    assert [output.logits.shape for output in outputs] == [(2, 10), (2, 10)]
    assert sum(arch.startswith("t2t") for arch in PRESETS) == len(PUBLISHED)
