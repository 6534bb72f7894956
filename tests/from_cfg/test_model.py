"""From the config to models and their checkpoints, and what is said about settings that no model can have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from revit_video.config import ConfigError, get_cfg, load_cfg
from revit_video.config.rules import get
from revit_video.from_cfg.model import KEYS, PRESET_KEYS, build_model, data_spec, model_config, model_mistakes
from revit_video.from_cfg.resolve import load_checked
from revit_video.length import token_lengths
from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.config import ReViTConfig
from revit_video.models.revit import ReViT
from tests.toy import toy_cfg


def mistakes_of(*opts: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_checked(None, opts)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_defaults_keep_the_models_rules() -> None:
    assert list(model_mistakes(get_cfg())) == []
    for key in (KEYS | PRESET_KEYS).values():
        get(get_cfg(), key)


@pytest.mark.parametrize(
    ("opts", "mistake"),
    [
        ("REVIT.TOKEN_LENGTHS [7x7,14x14]", "strictly descending, longest first, got 7x7, 14x14"),
        ("REVIT.TOKEN_LENGTHS [14x]", "not a token length: '14x'"),
        ("REVIT.TOKEN_LENGTHS []", "at least one token length"),
        ("REVIT.TOKEN_LENGTHS [200x200]", "REVIT.TOKEN_LENGTHS: 200x200 does not fit: 224 px cannot be cut"),
        (
            "MODEL.EMBED_DIM 96 MODEL.NUM_HEADS 5",
            "MODEL.NUM_HEADS: 5 attention heads do not divide the width 96",
        ),
        ("DATA.TOKEN_LABELS maps", "DATA.TOKEN_LABELS: is for models with a dense head, lvvit_small;"),
        ("MIXUP.TOKEN_ALPHA 1", "lvvit_small; MODEL.ARCH is timesformer_base"),
        ("MIXUP.TOKEN_ALPHA 1 DVT.ENABLE True", "MIXUP.TOKEN_ALPHA: a DVT has no dense head"),
        ("MODEL.STEM conv REVIT.TOKEN_LENGTHS [200]", "MODEL.STEM: 224 px cannot be halved and then cut"),
        (
            "MODEL.STEM conv MODEL.EMBED_DIM 92 MODEL.NUM_HEADS 4",
            "stem for 14x14 needs a width divisible by 8",
        ),
        ("MODEL.STEM lvvit REVIT.TOKEN_LENGTHS [128]", "MODEL.STEM: 112 px cannot be cut into 128 patches"),
        ("MODEL.STEM conv REVIT.PATCH_EMBED shared", "REVIT.PATCH_EMBED: must be per_length with a stem"),
        (
            "MODEL.ARCH deit_small",
            "DATA.NUM_FRAMES: must be 1 with MODEL.ARCH deit_small, an image model",
        ),
        (
            "MODEL.ARCH lvvit_small DATA.NUM_FRAMES 1 TIMESFORMER.ATTENTION_TYPE divided_space_time",
            "TIMESFORMER.ATTENTION_TYPE: must be space_only with MOD",
        ),
        (
            "MODEL.TUBELET 3",
            "DATA.NUM_FRAMES: 8 frames are no multiple of 3, those of a token",
        ),
        ("MODEL.POOL max", "MODEL.POOL: must be one of cls, mean, normed_mean, first, got 'max'"),
        ("MODEL.POSITIONS fixed", "MODEL.POS_INIT: fixed positions are waves, sine or sincos; got normal"),
        (
            "MODEL.ARCH videomae_base REVIT.POS_EMBED shared",
            "REVIT.POS_EMBED: must be per_length with fixed positions",
        ),
        ("DVT.ENABLE True MODEL.POOL mean", "MODEL.POOL: must be cls in a DVT"),
        ("MODEL.ARCH vit", "MODEL.ARCH: must be one of timesformer_base, timesformer_base_hr, "),
        ("MODEL.DEPTH -1", "MODEL.DEPTH: must be at least 1, got -1"),
        ("MODEL.DROP_PATH 1.0", "MODEL.DROP_PATH: must be at least 0 and below 1, got 1.0"),
        ("REVIT.NORM own", "REVIT.NORM: must be one of per_length, shared, got 'own'"),
        ("REVIT.POS_EMBED shared REVIT.TOKEN_LENGTHS [10x10,4x12]", "REVIT.POS_EMBED: shared needs grids"),
        ("DVT.ENABLE True REVIT.NORM shared", "REVIT.NORM: must be per_length in a DVT"),
        ("DVT.ENABLE True REVIT.TOKEN_LENGTHS [14]", "DVT.ENABLE: a cascade needs at least 2 token lengths"),
    ],
)
def test_settings_that_no_model_can_have(opts: str, mistake: str) -> None:
    assert any(mistake in line for line in mistakes_of(*opts.split()))


def test_they_are_told_with_all_other_mistakes() -> None:
    keys = ("DEVICE", "tpu", "MODEL.NUM_HEADS", "5", "MODEL.EMBED_DIM", "wide", "REVIT.PATCH_EMBED", "x")
    assert mistakes_of(*keys) == [
        "MODEL.EMBED_DIM: must be a whole number, got 'wide' (command line)",
        "DEVICE: must be one of auto, cpu, cuda, got 'tpu'",
        "REVIT.PATCH_EMBED: must be one of per_length, shared, resized, got 'x'",
    ]


# ---- Models and checkpoints ------------------------------------------------------------------------------


def test_the_defaults_are_the_papers_model() -> None:
    config = model_config(load_cfg(None))
    assert (config.embed_dim, config.depth, config.num_heads) == (768, 12, 12)
    assert (config.img_size, config.num_frames) == (224, 8)
    assert config.lengths == token_lengths(["14x14", "7x7"])
    assert config.distill_token and config.attention == "divided_space_time"


def test_the_config_overrides_the_preset(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path, tmp_path, "MODEL.MLP_RATIO", 2, "REVIT.DISTILL.TOKEN", False)
    config = model_config(cfg)
    assert (config.embed_dim, config.depth, config.mlp_ratio) == (16, 1, 2.0)
    assert not config.distill_token
    model = build_model(cfg)
    assert model.num_classes == 6 and [str(length) for length in model.lengths] == ["4x4", "2x2"]


def test_initial_weights_follow_from_the_seed(tmp_path: Path) -> None:
    def first_weight(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn before must not matter
        return build_model(toy_cfg(tmp_path, tmp_path, "RNG_SEED", seed)).head.weight

    assert torch.equal(first_weight(0), first_weight(0))
    assert not torch.equal(first_weight(0), first_weight(1))


def test_a_checkpoint_describes_itself(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path, tmp_path)
    model = build_model(cfg)
    path = str(tmp_path / "a.pyth")
    costs = {"lengths": {"4x4": {"gmacs": 2.0}, "2x2": {"gmacs": 1.0}}}
    checkpoint.save(path, checkpoint.model_payload(model, data_spec(cfg, ["a"] * 6), costs))
    payload = checkpoint.read(path).payload
    again = ReViT(ReViTConfig(**payload["model"]["spec"]))
    again.load_state_dict(payload["model"]["weights"])
    clips = torch.rand(2, 3, 2, 32, 32)
    for length in model.lengths:
        assert torch.equal(model.eval()(clips, length).logits, again.eval()(clips, length).logits)
    data = payload["data"]
    assert (data["num_frames"], data["sampling_rate"], data["target_fps"]) == (2, 4, 8.0)
    assert (data["crop_size"], data["num_clips"], data["num_crops"]) == (32, 1, 1)
    assert data["mean"] == cfg.DATA.MEAN and data["std"] == cfg.DATA.STD
    assert payload["costs"] == costs


def test_regularisation_may_differ_from_the_checkpoints(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pyth")
    cfg = toy_cfg(tmp_path, tmp_path)
    checkpoint.save(path, checkpoint.model_payload(build_model(cfg), data_spec(cfg, None), {}))
    other = toy_cfg(tmp_path, tmp_path, "MODEL.DROP_RATE", 0.1, "MODEL.DROP_PATH", 0.3)
    checkpoint.read(path).load_into(build_model(other))


def test_all_differences_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pyth")
    cfg = toy_cfg(tmp_path, tmp_path)
    checkpoint.save(path, checkpoint.model_payload(build_model(cfg), data_spec(cfg, None), {}))
    other = toy_cfg(tmp_path, tmp_path, "MODEL.DEPTH", 2, "MODEL.NUM_CLASSES", 7)
    with pytest.raises(CheckpointError, match=r"depth 1 \(config: 2\), num_classes 6 \(config: 7\)"):
        checkpoint.read(path).load_into(build_model(other))


def test_what_a_checkpoint_leaves_out_is_a_timesformers(tmp_path: Path) -> None:
    """Parts of LV-ViT are differences too, whichever side has them."""
    image = (
        "DATA.NUM_FRAMES",
        1,
        "TIMESFORMER.ATTENTION_TYPE",
        "space_only",
        "DATA.TRAIN_JITTER_SCALES",
        "[32,36]",
    )
    image += ("MODEL.MLP_RATIO", 4)
    lvvit, deit = (
        toy_cfg(tmp_path, tmp_path, *image, "MODEL.ARCH", f"{name}_small") for name in ("lvvit", "deit")
    )
    path = str(tmp_path / "a.pyth")
    for theirs, ours, said in (
        (
            lvvit,
            deit,
            r"model: stem lvvit \(config: patch\), qkv_bias False \(config: True\), residual_scale 0.5",
        ),
        (deit, lvvit, r"dense_head False \(config: True\), norm_eps 1e-06 \(config: 1e-05\); "),
    ):
        payload = checkpoint.model_payload(build_model(theirs), data_spec(theirs, None), {})
        spec = payload["model"]["spec"]
        for name in ("stem", "qkv_bias", "residual_scale", "dense_head", "norm_eps"):
            if spec[name] == getattr(ReViTConfig, name):
                del spec[name]
        checkpoint.save(path, payload)
        with pytest.raises(CheckpointError, match=said):
            checkpoint.read(path).load_into(build_model(ours))


def test_a_foreign_checkpoint(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pyth")
    checkpoint.save(path, {"model_state": {}, "cfg": "MODEL: ..."})
    with pytest.raises(CheckpointError, match="is no checkpoint of revit_video; tools/convert.py"):
        checkpoint.read(path)
