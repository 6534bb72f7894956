"""YAML files of TimeSformer's and SlowFast's public code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from revit_video.config import ConfigError, get_cfg, load_cfg, migrated
from revit_video.config.foreign import IN_TIMESFORMER, RENAMED, THERE, WITHOUT_EFFECT, migrate
from revit_video.config.load import leaf_keys, nearest_key
from revit_video.from_cfg.resolve import load_checked
from revit_video.runtime.yaml_file import dump_yaml
from tests.toy import tool

KNOWN = list(leaf_keys(get_cfg()))
TIMESFORMER = """
TRAIN: {ENABLE: True, DATASET: kinetics, BATCH_SIZE: 8, EVAL_PERIOD: 5, AUTO_RESUME: True}
DATA:
  PATH_TO_DATA_DIR: /path/to/kinetics/
  NUM_FRAMES: 16
  SAMPLING_RATE: 16
  TRAIN_JITTER_SCALES: [448, 512]
  TRAIN_CROP_SIZE: 448
  TEST_CROP_SIZE: 448
  INPUT_CHANNEL_NUM: [3]
TIMESFORMER: {ATTENTION_TYPE: 'divided_space_time'}
SOLVER:
  BASE_LR: 0.005
  LR_POLICY: steps_with_relative_lrs
  STEPS: [0, 11, 14]
  LRS: [1, 0.1, 0.01]
  WEIGHT_DECAY: 1e-4
MODEL:
  MODEL_NAME: vit_base_patch16_224
  NUM_CLASSES: 400
  ARCH: vit
  LOSS_FUNC: cross_entropy
  DROPOUT_RATE: 0.5
TEST: {ENABLE: True, DATASET: kinetics, BATCH_SIZE: 8, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 3}
NUM_GPUS: 8
NUM_SHARDS: 1
"""
SSV2 = """
TRAIN: {ENABLE: True, DATASET: ssv2, BATCH_SIZE: 8}
DATA: {NUM_FRAMES: 8, INV_UNIFORM_SAMPLE: True, RANDOM_FLIP: False, REVERSE_INPUT_CHANNEL: True}
MODEL: {MODEL_NAME: vit_base_patch16_224, NUM_CLASSES: 174, ARCH: vit}
TEST: {DATASET: ssv2, NUM_ENSEMBLE_VIEWS: 1}
"""
MVIT = """
TRAIN: {DATASET: kinetics, BATCH_SIZE: 16}
DATA: {USE_OFFSET_SAMPLING: True, DECODING_BACKEND: torchvision, NUM_FRAMES: 16, TEST_CROP_SIZE: 224}
MVIT: {DEPTH: 16, PATCH_KERNEL: (3, 7, 7), DIM_MUL: [[1, 2.0], [3, 2.0]]}
AUG:
  NUM_SAMPLE: 2
  ENABLE: True
  COLOR_JITTER: 0.4
  AA_TYPE: rand-m7-n4-mstd0.5-inc1
  RE_PROB: 0.25
  RE_MODE: pixel
MIXUP: {ENABLE: True, ALPHA: 0.8, LABEL_SMOOTH_VALUE: 0.1}
SOLVER: {ZERO_WD_1D_PARAM: True, CLIP_GRAD_L2NORM: 1.0, COSINE_AFTER_WARMUP: True, LR_POLICY: cosine}
MODEL: {NUM_CLASSES: 400, ARCH: mvit, MODEL_NAME: MViT, LOSS_FUNC: soft_cross_entropy}
NUM_GPUS: 8
"""


def cfg_of(text: str, folder: Path) -> Any:
    (folder / "old.yaml").write_text(text)
    (folder / "new.yaml").write_text(migrated(str(folder / "old.yaml")))
    return load_checked(str(folder / "new.yaml"))


def test_the_tables_name_keys_as_they_are() -> None:
    assert {*RENAMED.values(), *THERE, *IN_TIMESFORMER} <= {*KNOWN}
    assert not {*RENAMED, *WITHOUT_EFFECT} & {*KNOWN}


def test_timesformers_recipe_is_written_out(tmp_path: Path) -> None:
    cfg = cfg_of(TIMESFORMER, tmp_path)
    assert (cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.ACCUMULATE, cfg.SOLVER.BASE_LR) == (64, 8, 0.005)
    assert (cfg.MODEL.ARCH, cfg.REVIT.TOKEN_LENGTHS, cfg.NUM_GPUS) == ("timesformer_base", [28, 14], 8)
    for key, value in (THERE | IN_TIMESFORMER).items():
        group, name = key.split(".")
        if key not in ("DATA.SAMPLING_RATE", "TEST.NUM_ENSEMBLE_VIEWS"):
            assert cfg[group][name] == value
    assert (cfg.DATA.SAMPLING_RATE, cfg.TEST.NUM_ENSEMBLE_VIEWS) == (16, 1)


def test_ssv2_is_sampled_over_the_whole_video(tmp_path: Path) -> None:
    cfg = cfg_of(SSV2, tmp_path)
    assert (cfg.DATA.SAMPLING, cfg.DATA.RANDOM_FLIP) == ("uniform", False)


def test_slowfasts_keys(tmp_path: Path) -> None:
    cfg = cfg_of(MVIT, tmp_path)
    assert (cfg.AUG.REPEATS, cfg.AUG.RE_PROB, cfg.DATA.BRIGHTNESS) == (2, 0.25, 0.0)
    assert (cfg.SOLVER.LABEL_SMOOTHING, cfg.SOLVER.CLIP_GRADIENT, cfg.SOLVER.DECAY_ALL) == (0.1, 1.0, False)
    assert (cfg.DATA.DECODING_BACKEND, cfg.TEST.ENSEMBLE) == ("pyav", "probabilities")
    head = (tmp_path / "new.yaml").read_text()
    assert "# MODEL.ARCH mvit: there is no such model here" in head
    assert "# MVIT.DEPTH: left out; of other models than those here" in head
    off = migrate({"MIXUP.ENABLE": False, "MIXUP.ALPHA": 0.8, "AUG.ENABLE": False, "AUG.RE_PROB": 0.1}, KNOWN)
    assert off is not None and not {"MIXUP.ALPHA", "AUG.RE_PROB"} & off.options.keys()


def test_a_run_shows_the_migrated_file_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(TIMESFORMER)
    done = tool("run_net", "--cfg", path)
    assert done.code == 2 and done.err.startswith(f"error: {path}: 1 mistake\n  a YAML of TimeSformer's")
    migration = tool("migrate_config", path)
    assert migration.code == 0
    assert [line.strip() for line in migration.out.splitlines()] == [
        line.strip() for line in done.err.splitlines()[2:]
    ]


def test_what_has_no_effect_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "NUM_SHARDS: 1\nTRAIN: {DATASET: kinetics, BATCH_SIZE: 8}\nMODEL: {ARCH: timesformer_base}\n"
    )
    with caplog.at_level("INFO", "revit_video"):
        assert load_cfg(str(path)).TRAIN.BATCH_SIZE == 8
    assert f"{path}: NUM_SHARDS is left out: torchrun says how many machines there are" in caplog.messages


def test_a_file_of_this_project_is_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text("TRAIN: {BATCH_SIZE: 8}\nMODEL: {ARCH: deit_small}\n")
    done = tool("migrate_config", path)
    assert done.code == 2 and "nothing is to be migrated" in done.err


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("SOLVER.CLIP_GRAD_L2NORM", "TimeSformer's or SlowFast's; here SOLVER.CLIP_GRADIENT"),
        (
            "TRAIN.FINETUNE",
            "TimeSformer's or SlowFast's; leave it out: weights of TRAIN.CHECKPOINT_FILE_PATH",
        ),
        ("SOLVER.LAYER_DECAYS", "no such key; nearest: SOLVER.LAYER_DECAY"),
        ("TRAIN.TEACHER", "no such key (command line)"),
    ],
)
def test_one_key_on_the_command_line(key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: {said.replace('(', '.').replace(')', '.')}"):
        load_cfg(None, [key, "1"])


@pytest.mark.parametrize("key", ["SOLVER.LAYER_DECAY", "TRAIN.FINETUNE", "MODEL.LOSS_FUNC", "X"])
def test_nothing_is_suggested_for_what_is_like_nothing(key: str) -> None:
    assert nearest_key(key, [known for known in KNOWN if known != key]) == ""


@pytest.mark.parametrize("arch", [["vit"], {"a": 1}, 3, None])
def test_a_model_that_is_no_text_is_told(arch: object, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml({"MODEL": {"ARCH": arch}, "TRAIN": {"DATASET": "kinetics"}}))
    with pytest.raises(ConfigError, match=r"MODEL.ARCH"):
        load_cfg(str(path))
