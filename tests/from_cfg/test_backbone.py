"""From the config to models, optimisers and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from revit_video.config import load_cfg
from revit_video.from_cfg import backbone as build
from revit_video.from_cfg.model import build_model, model_config
from revit_video.length import token_lengths
from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.config import ReViTConfig
from revit_video.models.revit import ReViT
from revit_video.runtime.ranks import Ranks
from revit_video.train.losses import Distillation
from tests.toy import toy_cfg

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


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
    checkpoint.save(path, build.backbone_payload(cfg, model, ["a"] * 6, costs))
    payload = build.read_payload(path)
    again = ReViT(ReViTConfig.from_dict(payload["model"]["spec"]))
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
    checkpoint.save(path, build.backbone_payload(cfg, build_model(cfg), None, {}))
    other = toy_cfg(tmp_path, tmp_path, "MODEL.DROP_RATE", 0.1, "MODEL.DROP_PATH", 0.3)
    build.load_backbone(path, build_model(other))


def test_all_differences_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pyth")
    cfg = toy_cfg(tmp_path, tmp_path)
    checkpoint.save(path, build.backbone_payload(cfg, build_model(cfg), None, {}))
    other = toy_cfg(tmp_path, tmp_path, "MODEL.DEPTH", 2, "MODEL.NUM_CLASSES", 7)
    with pytest.raises(CheckpointError, match=r"depth 1 \(config: 2\), num_classes 6 \(config: 7\)"):
        build.load_backbone(path, build_model(other))


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
        payload = build.backbone_payload(theirs, build_model(theirs), None, {})
        spec = payload["model"]["spec"]
        for name in ("stem", "qkv_bias", "residual_scale", "dense_head", "norm_eps"):
            if spec[name] == getattr(ReViTConfig, name):
                del spec[name]
        checkpoint.save(path, payload)
        with pytest.raises(CheckpointError, match=said):
            build.load_backbone(path, build_model(ours))


def test_a_foreign_checkpoint(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pyth")
    checkpoint.save(path, {"model_state": {}, "cfg": "MODEL: ..."})
    with pytest.raises(CheckpointError, match="is no checkpoint of revit_video; tools/convert.py"):
        build.read_payload(path)


def test_the_recipes_learning_rates() -> None:
    recipe = build.learning_rate(load_cfg(None))
    assert [recipe(epoch) for epoch in (0, 10.9, 11, 14)] == pytest.approx([5e-3, 5e-3, 5e-4, 5e-5])
    cosine = build.learning_rate(
        load_cfg(None, ["SOLVER.LR_POLICY", "cosine", "SOLVER.WARMUP_EPOCHS", 1, "SOLVER.MAX_EPOCH", 11])
    )
    assert cosine(0) == 0 and cosine(11) == pytest.approx(0, abs=1e-9)


def test_distillation_can_be_switched_off() -> None:
    assert build.distillation(load_cfg(None, ["REVIT.DISTILL.ENABLE", False])) is None
    assert build.distillation(load_cfg(None)) == Distillation(tau=0.9, lam=0.5)


def test_no_mixed_precision_on_the_cpu() -> None:
    assert build.autocast(load_cfg(None), ALONE) is None
    assert build.autocast(load_cfg(None), Ranks(0, 1, torch.device("cuda"))) is torch.bfloat16
