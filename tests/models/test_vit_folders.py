"""ViTs as others save them: folders of transformers and timm, hub names, CLIP's and DINOv2's own files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import simplejson
import timm
import torch
import transformers
from torch import Tensor

from revit_video.from_cfg.convert import description
from revit_video.from_cfg.model import model_config
from revit_video.from_cfg.resolve import load_checked
from revit_video.models import transformers_folder
from revit_video.models.pretrained import Report, initialise
from revit_video.models.revit import ReViT
from revit_video.models.sources import described, read_source
from tests.peers import random_vit, randomised

SIZE, PATCH = 32, 4
SIZES: dict[str, Any] = dict(
    image_size=SIZE,
    patch_size=PATCH,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=256,
)


def loaded(path: Path | str, *opts: Any) -> tuple[ReViT, Report]:
    """A space-only ReViT of one frame like the ViT at `path`, for no classes of its own."""
    source = read_source(str(path))
    still = ("DATA.NUM_FRAMES", 1, "TIMESFORMER.ATTENTION_TYPE", "space_only", *opts)
    if not source.num_classes:
        still += ("MODEL.NUM_CLASSES", 3)
    model = ReViT(model_config(load_checked(None, [*description(source, opts), *still]))).eval()
    return model, initialise(model, source)


def features(model: ReViT, images: Tensor) -> Tensor:
    """What the head reads of images at the longest length."""
    kept: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    model(images.unsqueeze(2), model.lengths[0])
    return kept[0]


def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def transformers_model(kind: str) -> Any:
    if kind == "vit":
        return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, num_labels=5))
    if kind == "deit":
        return transformers.DeiTForImageClassificationWithTeacher(
            transformers.DeiTConfig(**SIZES, num_labels=5)
        )
    if kind == "deit fine-tuned":  # its distillation token is read by no head
        return transformers.DeiTForImageClassification(transformers.DeiTConfig(**SIZES, num_labels=5))
    if kind == "mae":
        return transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZES, mask_ratio=0.0))
    if kind.startswith("dinov2"):
        sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"} | {
            "mlp_ratio": 2
        }
        sizes["use_swiglu_ffn"] = kind.endswith("swiglu")
        if "registers" in kind:
            config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)
            return transformers.Dinov2WithRegistersModel(config)
        return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    vision = transformers.CLIPVisionConfig(**SIZES)
    return transformers.CLIPVisionModel(vision)


@pytest.mark.parametrize(
    "kind", ["vit", "deit", "deit fine-tuned", "mae", "dinov2", "dinov2 swiglu", "dinov2 registers", "clip"]
)
@torch.no_grad()
def test_a_folder_of_transformers_gives_its_outputs(kind: str, tmp_path: Path) -> None:
    peer = randomised(transformers_model(kind))
    peer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}'
    )
    opts = ("REVIT.DISTILL.TOKEN_AT_LONGEST", True) if kind == "deit" else ()
    model, report = loaded(tmp_path, *opts)
    assert "ignored" not in str(report)
    if kind.startswith(("vit", "deit")):
        close(model(images().unsqueeze(2), model.lengths[0]).logits, peer(images()).logits)
    else:
        output = peer(images())
        expected = output[0][:, 0] if kind == "mae" else output.pooler_output
        close(features(model, images()), expected)
    data, settings = described(str(tmp_path))
    assert data["mean"] == [0.1, 0.2, 0.3]
    assert settings == {name: value for name, value in model.config.to_dict().items() if name in settings}


def timm_folder(path: Path, name: str, **args: Any) -> Any:
    network = randomised(timm.create_model(name, num_classes=0, **args))
    path.mkdir()
    safetensors.torch.save_file(network.state_dict(), path / "model.safetensors")
    said = {"architecture": name, "num_classes": 0, "model_args": args, "global_pool": network.global_pool}
    said["pretrained_cfg"] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (path / "config.json").write_text(simplejson.dumps(said))
    return network


SMALL: dict[str, Any] = dict(img_size=SIZE, patch_size=PATCH, embed_dim=128, depth=2, num_heads=2)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224", "vit_base_patch16_224"]
)
@torch.no_grad()
def test_a_folder_or_a_hub_name_of_timm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = timm_folder(tmp_path / "theirs", name, **SMALL)
    model, _ = loaded(tmp_path / "theirs")
    close(features(model, images()), peer(images()))
    asked: list[str] = []

    def hub(path: str, weights: bool = True) -> str:
        asked.append(path)
        return str(tmp_path / "theirs")

    monkeypatch.setattr("revit_video.models.sources.hub_folder", hub)
    for path in (f"hf:timm/{name}.lvd142m", f"timm:timm/{name}.lvd142m", f"timm:hf-hub:timm/{name}.lvd142m"):
        assert read_source(path).states[0].keys() and described(path)[0]["mean"] == [0.5] * 3
    assert set(asked) == {f"hf:timm/{name}.lvd142m"}


def test_folders_that_are_refused_in_one_line(tmp_path: Path) -> None:
    timm_folder(tmp_path / "theirs", "vit_base_patch16_224", **SMALL)
    config = tmp_path / "theirs" / "config.json"
    said = simplejson.loads(config.read_text())
    for changes, message in (
        ({"architecture": "hf-hub:a/b"}, "timm has no such model, 'hf-hub:a/b'"),
        (
            {"architecture": "resnet18", "model_args": {}, "global_pool": "avg"},
            "it is a ResNet, not a VisionTransformer",
        ),
        ({"model_args": {"colour": 3}}, "its config.json cannot be used"),
        ({"architecture": None, "model_type": "swin"}, r"'swin', .*read alone, .*model.safetensors$"),
        (
            {"architecture": None, "model_type": "vit", "hidden_act": "relu"},
            "has hidden_act 'relu', not gelu or",
        ),
    ):
        config.write_text(simplejson.dumps(said | changes))
        with pytest.raises(ValueError, match=message) as error:
            read_source(str(tmp_path / "theirs"))
        assert "\n" not in str(error.value)


def of_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ViT of timm under the names of CLIP's own code, beside some of its text encoder."""
    names = {
        "norm_pre": "ln_pre",
        "norm.": "ln_post.",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
    }
    names |= {"mlp.fc2": "mlp.c_proj", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj"}
    names |= {
        "patch_embed.proj": "conv1",
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
    }
    renamed = {}
    for name, value in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        value = (
            value[0, 0]
            if name == "class_embedding"
            else value[0]
            if name == "positional_embedding"
            else value
        )
        renamed["visual." + re.sub(r"^blocks", "transformer.resblocks", name)] = value
    return renamed | {"visual.proj": torch.zeros(128, 8), "token_embedding.weight": torch.zeros(9, 8)}


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@torch.no_grad()
def test_clips_own_names(act: str, tmp_path: Path) -> None:
    name = "vit_base_patch16_clip_224" if act == "gelu" else "vit_base_patch16_clip_quickgelu_224"
    peer = randomised(timm.create_model(name, num_classes=0, **SMALL))
    torch.save(of_clip(peer.state_dict()), tmp_path / "clip.bin")
    model, report = loaded(tmp_path / "clip.bin", *(("MODEL.ACT", act) if act != "gelu" else ()))
    close(features(model, images()), peer(images()))
    assert "it does not tell GELU's kind" in str(report)
    assert described(str(tmp_path / "clip.bin"))[1]["pre_norm"]
    assert ("act quick_gelu, as the config says" in str(report)) == (act == "quick_gelu")


@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_dinov2s_own_names(registers: int, tmp_path: Path) -> None:
    """LayerScale, registers without positions, SwiGLU's joint matrix, blocks in chunks."""
    peer = random_vit(
        embed_dim=128, num_heads=2, init_values=0.5, reg_tokens=registers, no_embed_class=registers > 0,
        num_classes=0, mlp_layer=timm.layers.SwiGLUPacked, act_layer=torch.nn.SiLU,
    )  # fmt: skip
    state = {
        re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name)
        .replace("mlp.fc1", "mlp.w12")
        .replace("mlp.fc2", "mlp.w3")
        .replace("reg_token", "register_tokens"): value
        for name, value in peer.state_dict().items()
    }
    if registers:  # there, the class token has a position
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, 128), state["pos_embed"]], dim=1)
    torch.save(state | {"mask_token": torch.zeros(1, 128)}, tmp_path / "dinov2.pth")
    model, _ = loaded(tmp_path / "dinov2.pth")
    close(features(model, images()), peer(images()))


@torch.no_grad()
def test_a_head_of_another_width_is_new(tmp_path: Path) -> None:
    """DINOv2's reads the class token beside the mean of the patch tokens."""
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
    config = transformers.Dinov2Config(**sizes, num_labels=5)
    peer = randomised(transformers.Dinov2ForImageClassification(config))
    peer.save_pretrained(tmp_path)
    model, report = loaded(tmp_path)
    assert "head (new: the source's reads 256 channels, not a token's 128)" in str(report)
    close(features(model, images()), peer.dinov2(images()).pooler_output)


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("encoder.", ("decoder.norm.weight", "decoder_pred.weight", "mask_token")),
        ("visual.trunk.", ("text.token_embedding.weight", "logit_scale", "visual.head.proj.weight")),
        ("", ("decoder_embed.weight", "decoder_pos_embed", "criterion.weight")),
        ("backbone.", ("dino_head.mlp.0.weight", "ibot_head.last_layer.weight_g")),
    ],
)
@torch.no_grad()
def test_what_is_trained_beside_a_network_is_left_out(
    prefix: str, beside: tuple[str, ...], tmp_path: Path
) -> None:
    peer = random_vit()
    state = {prefix + name: value for name, value in peer.state_dict().items()}
    torch.save({"model": state | dict.fromkeys(beside, torch.zeros(3))}, tmp_path / "vit.pth")
    model, report = loaded(tmp_path / "vit.pth", "MODEL.NUM_HEADS", 3)
    close(model(images().unsqueeze(2), model.lengths[0]).logits, peer(images()))
    assert "left out, trained beside the network: " in str(report)


def test_bare_weights_of_transformers_are_no_file_to_start_from(tmp_path: Path) -> None:
    transformers_model("vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has transformers' names: give the folder, with its config.json$"):
        read_source(str(tmp_path / "model.safetensors"))


def test_a_beit_is_no_videomae(tmp_path: Path) -> None:
    """Both have biases of queries and values alone; BEiT's positions are relative."""
    state = timm.create_model("beit_base_patch16_224", **SMALL).state_dict()
    torch.save(state, tmp_path / "beit.pth")
    with pytest.raises(ValueError, match="it lacks pos_embed; it has cls_token"):
        read_source(str(tmp_path / "beit.pth"))


def test_what_the_file_does_not_tell_is_the_configs(tmp_path: Path) -> None:
    torch.save(random_vit().state_dict(), tmp_path / "vit.pth")
    heads = ("MODEL.NUM_HEADS", 3)
    model, report = loaded(tmp_path / "vit.pth", *heads, "MODEL.NORM_EPS", 1e-5)
    assert model.config.norm_eps == 1e-5 and "norm_eps 1e-05, as the config says" in str(report)
    assert "as the config says" not in str(loaded(tmp_path / "vit.pth", *heads)[1])
    assert transformers_folder.SAFETENSORS == "model.safetensors"
