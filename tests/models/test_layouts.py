"""VideoMAE and ViViT of transformers, and what timm's ViTs have beside TimeSformer's parts: their logits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers
from timm.layers import SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor

import revit_video
from revit_video.from_cfg.convert import description
from revit_video.from_cfg.model import model_config
from revit_video.from_cfg.resolve import load_checked
from revit_video.models import sources
from revit_video.models.inference import for_inference, logits_at
from revit_video.models.pretrained import Report, initialise
from revit_video.models.revit import ReViT
from revit_video.models.sources import described, read_source
from revit_video.models.timm_weights import settings_of_vit, unlike_ours
from tests.peers import random_vit, randomised
from tests.tiny import CLASSES, SIZE
from tests.toy import tool

SMALL: dict[str, Any] = dict(
    image_size=SIZE,
    num_frames=6,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=48,
    num_labels=CLASSES,
)
BASE: dict[str, Any] = dict(image_size=64, num_frames=4, num_hidden_layers=1, num_labels=CLASSES)
DECODER: dict[str, Any] = dict(
    decoder_hidden_size=12,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=24,
)
KINDS: dict[str, dict[str, Any]] = {
    "videomae": dict(patch_size=4, tubelet_size=2, **SMALL),
    "videomae, 3 frames a tubelet": dict(patch_size=8, tubelet_size=3, **SMALL),
    "videomae, tanh": dict(patch_size=8, hidden_act="gelu_pytorch_tanh", **SMALL),
    "videomae, its first token": dict(patch_size=8, use_mean_pooling=False, **SMALL),
    "videomae without biases": dict(patch_size=8, qv_bias=False, **SMALL),
    "videomae-base": BASE,
    "vivit": dict(tubelet_size=[2, 4, 4], **SMALL),
    "vivit, exact GELU": dict(tubelet_size=[3, 8, 8], hidden_act="gelu", **SMALL),
    "vivit-base": BASE,
}


def peer_of(kind: str, **changes: Any) -> Any:
    values = KINDS[kind] | changes
    if kind.startswith("videomae"):
        config = transformers.VideoMAEConfig(**values)
        return randomised(transformers.VideoMAEForVideoClassification(config))
    return randomised(transformers.VivitForVideoClassification(transformers.VivitConfig(**values)))


def loaded(path: Path | str, *opts: Any) -> tuple[ReViT, Report]:
    """A ReViT like the model at `path`, started from it."""
    source = read_source(str(path))
    model = ReViT(model_config(load_checked(None, [*description(source, opts), *opts]))).eval()
    return model, initialise(model, source)


def clips_for(model: ReViT) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, model.num_frames, model.img_size, model.img_size, generator=generator)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


# ---- transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_folder_of_transformers_gives_its_logits(kind: str, tmp_path: Path) -> None:
    """In bfloat16 too, as near as transformers' own."""
    peer = peer_of(kind)
    peer.save_pretrained(tmp_path)
    model, report = loaded(tmp_path)
    clips = clips_for(model)
    expected = peer(clips.transpose(1, 2)).logits
    close(model(clips, model.lengths[0]).logits, expected)
    assert "ignored" not in str(report) and "head_dist" in str(report)
    said = described(str(tmp_path))[1]
    assert said == {name: value for name, value in model.config.to_dict().items() if name in said}
    coarse = peer.bfloat16()(clips.transpose(1, 2).bfloat16()).logits.float()
    ours = logits_at(for_inference(model, torch.bfloat16), clips, model.lengths[0])
    assert (ours - expected).abs().max() <= 2 * (coarse - expected).abs().max() + 1e-2


@pytest.mark.parametrize("kind", ["videomae", "videomae-base", "vivit"])
@torch.no_grad()
def test_names_of_other_releases(kind: str, tmp_path: Path) -> None:
    """`save_pretrained` writes the names of older releases; in memory they are the newer ones."""
    peer = peer_of(kind)
    peer.save_pretrained(tmp_path)
    state = peer.state_dict()
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert state.keys() != saved.keys()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    model, _ = loaded(tmp_path)
    clips = clips_for(model)
    close(model(clips, model.lengths[0]).logits, peer(clips.transpose(1, 2)).logits)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "videomae without biases"])
@torch.no_grad()
def test_what_is_written_for_transformers_gives_our_logits(kind: str, tmp_path: Path) -> None:
    peer = peer_of(kind, id2label={n: name for n, name in enumerate("abcde")})
    peer.save_pretrained(tmp_path / "theirs")
    names = ("--to", "transformers")
    ours, back = tmp_path / "ours.pyth", tmp_path / "back"
    for source, target, to in ((tmp_path / "theirs", ours, ("--to", "revit")), (ours, back, names)):
        done = tool("convert", source, target, *to)
        assert done.code == 0, done.err
    again, said = type(peer).from_pretrained(back, output_loading_info=True)
    assert not any(said.values())
    model = revit_video.load(ours, "cpu").model
    clips = clips_for(model)
    expected = peer(clips.transpose(1, 2)).logits
    close(model(clips, model.lengths[0]).logits, expected)
    torch.testing.assert_close(again.eval()(clips.transpose(1, 2)).logits, expected, rtol=0, atol=1e-5)
    assert list(again.config.id2label.values()) == list("abcde")


@pytest.mark.parametrize("mean_pooling", [True, False])
@torch.no_grad()
def test_a_pretrained_videomae_without_its_decoder(mean_pooling: bool, tmp_path: Path) -> None:
    config = transformers.VideoMAEConfig(**KINDS["videomae"] | DECODER, use_mean_pooling=mean_pooling)
    peer = randomised(transformers.VideoMAEForPreTraining(config))
    peer.save_pretrained(tmp_path)
    model, report = loaded(tmp_path, "MODEL.NUM_CLASSES", 4)
    assert "its decoder and mask token are left out" in str(report)
    assert "norm (new: the source has none)" in str(report) and "head (new: 4 classes" in str(report)
    clips = clips_for(model)
    _, patches = model.features(clips, model.lengths[0])
    expected = peer.videomae(clips.transpose(1, 2)).last_hidden_state
    if not mean_pooling:
        patches = peer.videomae.layernorm(patches)
    close(patches.flatten(1, 2), expected)


@torch.no_grad()
def test_shorter_lengths_and_clips_start_from_what_is_resampled(tmp_path: Path) -> None:
    peer_of("vivit").save_pretrained(tmp_path)
    opts = ("REVIT.TOKEN_LENGTHS", [8, 4, 2], "DATA.NUM_FRAMES", 12, "MODEL.TUBELET", 1)
    model, report = loaded(tmp_path, *opts)
    assert report.counts["resampled"].total() == 6  # kernels and positions
    still = torch.randn(1, 3, 1, SIZE, SIZE)
    sixth, twelfth = (still.expand(-1, -1, n, -1, -1) for n in (6, 12))
    theirs, _ = loaded(tmp_path)
    a, b = (each._embed(clips, 0)[1][:, 0] for each, clips in ((theirs, sixth), (model, twelfth)))
    placed = theirs.pos_embed[0][:, 1:65], model.pos_embed[0][:, 1:65]
    torch.testing.assert_close(a - placed[0], b - placed[1], rtol=0, atol=1e-5)  # a still clip's own tokens


def test_the_pixels_of_vivit(tmp_path: Path) -> None:
    """Its preprocessor maps 0..255 to -1..1 and normalises that; the same in one step."""
    peer_of("vivit").save_pretrained(tmp_path)
    transformers.VivitImageProcessor().save_pretrained(tmp_path)
    data, _ = described(str(tmp_path))
    assert data["mean"] == pytest.approx([0.75] * 3) and data["std"] == pytest.approx([0.25] * 3)
    (tmp_path / "preprocessor_config.json").unlink()
    transformers.VivitVideoProcessor().save_pretrained(tmp_path)
    assert described(str(tmp_path))[0]["mean"] == pytest.approx([0.75] * 3)
    transformers.VideoMAEImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    assert described(str(tmp_path))[0]["mean"] == [0.1, 0.2, 0.3]


# ---- VideoMAE's own --------------------------------------------------------------------------------------


def as_its_authors_name(peer: Any, pretrained: bool) -> dict[str, Tensor]:
    """The weights of transformers' VideoMAE under the names of MCG-NJU's code."""
    names = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
    }
    state: dict[str, Tensor] = {}
    for name, value in peer.videomae.state_dict().items():
        name = name.replace("encoder.layer.", "blocks.")
        for theirs, own in names.items():
            name = name.replace(theirs, own)
        state[name] = value
    for n in range(peer.config.num_hidden_layers):
        at = f"blocks.{n}.attention.attention"
        parts = [state.pop(f"{at}.{part}.weight") for part in ("query", "key", "value")]
        state[f"blocks.{n}.attn.qkv.weight"] = torch.cat(parts)
        state[f"blocks.{n}.attn.q_bias"] = state.pop(f"{at}.query.bias")
        state[f"blocks.{n}.attn.v_bias"] = state.pop(f"{at}.value.bias")
    if pretrained:
        return {f"encoder.{name}": value for name, value in state.items()}
    head = {f"head.{name}": value for name, value in peer.classifier.state_dict().items()}
    return state | head | {f"fc_norm.{name}": value for name, value in peer.fc_norm.state_dict().items()}


@torch.no_grad()
def test_the_file_of_videomaes_authors(tmp_path: Path) -> None:
    small: dict[str, Any] = dict(hidden_size=384, num_attention_heads=6, intermediate_size=768)
    small |= dict(num_hidden_layers=1, num_labels=CLASSES)
    config = transformers.VideoMAEConfig(**small | DECODER, layer_norm_eps=1e-6)
    peer = randomised(transformers.VideoMAEForVideoClassification(config))
    peer.fc_norm.eps = 1e-6
    path = tmp_path / "checkpoint.pth"
    torch.save({"module": as_its_authors_name(peer, False)}, path)
    model, report = loaded(path)
    assert (model.config.num_heads, model.config.num_frames, model.config.tubelet) == (6, 16, 2)
    clips = clips_for(model)[:1]
    close(model(clips, 14).logits, peer(clips.transpose(1, 2)).logits)
    assert "taken as 8 tubelets of 224 px" in str(report)

    folder = (
        tmp_path / "v2"
    )  # as VideoMAE V2 is at the hub: its authors' names below `model.`, code of its own
    folder.mkdir()
    state = {f"model.{name}": value.contiguous() for name, value in as_its_authors_name(peer, False).items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "VideoMAEv2_Base", "model_config": {}}')
    again, _ = loaded(folder)
    assert torch.equal(again(clips, 14).logits, model(clips, 14).logits)
    assert described(str(folder))[1]["tubelet"] == 2

    more = {"decoder.blocks.0.norm1.weight": torch.ones(8), "mask_token": torch.ones(1, 1, 8)}
    norm = {f"encoder.norm.{name}": torch.ones(384) for name in ("weight", "bias")}
    state = as_its_authors_name(peer, True) | more | norm | {"encoder_to_decoder.weight": torch.ones(8, 384)}
    torch.save({"model": state, "args": None, "epoch": 1600}, path)
    pretrained, report = loaded(path, "MODEL.NUM_CLASSES", 4)
    assert "norm (new: the source has none)" in str(report)
    for name, value in pretrained.blocks.state_dict().items():
        assert torch.equal(value, model.blocks.state_dict()[name])


# ---- ViTs of timm ----------------------------------------------------------------------------------------

VITS: dict[str, dict[str, Any]] = {
    "AugReg": dict(),
    "DINOv2": dict(init_values=0.3, patch_size=8),
    "DINOv2 with registers": dict(reg_tokens=4, no_embed_class=True, init_values=0.3),
    "registers with positions": dict(reg_tokens=2),
    "CLIP": dict(pre_norm=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5)),
    "CLIP with its GELU": dict(pre_norm=True, act_layer="quick_gelu"),
    "SwiGLU, packed": dict(mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU),
    "SwiGLU": dict(mlp_layer=SwiGLU, act_layer=torch.nn.SiLU),
    "mean, then norm": dict(class_token=False, global_pool="avg"),
    "norm, then mean": dict(class_token=False, global_pool="avg", fc_norm=False),
    "mean beside a class token": dict(global_pool="avg"),
    "mean beside registers": dict(class_token=False, reg_tokens=4, no_embed_class=True, global_pool="avg"),
    "no biases": dict(qkv_bias=False),
}


@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_what_vits_bring(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By name, where timm tells its parts; from a file, where its names do."""
    peer: VisionTransformer = random_vit(**VITS[kind])
    assert unlike_ours(peer) == ""
    monkeypatch.setattr(sources, "pretrained_network", lambda name: peer)
    monkeypatch.setattr(timm, "create_model", lambda name: peer)
    frame = torch.randn(2, 3, SIZE, SIZE)
    still = frame.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    model, _ = loaded("timm:vit_small_patch16_224", "MODEL.NUM_HEADS", 3)
    close(model(still, model.lengths[0]).logits, peer(frame))
    assert described("timm:vit_small_patch16_224")[1] == settings_of_vit(peer)
    if "CLIP" in kind:
        return  # eps and activation are not in the names of weights
    torch.save({"model": peer.state_dict()}, tmp_path / "vit.pth")
    model, _ = loaded(tmp_path / "vit.pth", "MODEL.NUM_HEADS", 3)
    close(model(still, model.lengths[0]).logits, peer(frame))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (dict(qk_norm=True), "its attention has norms of its own"),
        (dict(attn_layer="diff"), "its attention is of the kind DiffAttention"),
        (dict(global_pool="map"), "it pools with 'map'"),
        (dict(act_layer="relu"), "its MLPs have ReLU in a Mlp"),
        (dict(norm_layer="rmsnorm"), "it has norms of the kind RmsNorm"),
        (dict(block_fn=ParallelScalingBlock), "its blocks are of the kind ParallelScalingBlock"),
        (dict(pos_embed="none"), "it has no position embeddings"),
        (dict(final_norm=False), "it has no norm before its head"),
        (dict(scale_mlp_norm=True), "its MLPs have a norm"),
    ],
)
def test_what_vits_have_and_we_have_not_is_named(changes: dict[str, Any], part: str) -> None:
    assert unlike_ours(random_vit(**changes)).startswith(part)
