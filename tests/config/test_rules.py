"""Legal values of single keys, and rules across components."""

from __future__ import annotations

import pytest

from revit_video.config import ConfigError, get_cfg, load_cfg
from revit_video.config.rules import RULES, find_mistakes, get


def test_defaults_keep_their_own_rules() -> None:
    assert list(find_mistakes(get_cfg())) == []
    for key in RULES:
        get(get_cfg(), key)


@pytest.mark.parametrize(
    ("opts", "mistake"),
    [
        ("DATA.TEST_CROP_SIZE 112", "DATA.TEST_CROP_SIZE: must equal DATA.TRAIN_CROP_SIZE 224"),
        ("DATA.TRAIN_JITTER_SCALES [320,256]", "must ascend from at least DATA.TRAIN_CROP_SIZE 224"),
        ("DATA.TRAIN_JITTER_SCALES [200,256]", "must ascend from at least DATA.TRAIN_CROP_SIZE 224"),
        ("DATA.TRAIN_JITTER_SCALES [256]", "must be 2 numbers, each at least 1, got [256]"),
        ("TRAIN.BATCH_SIZE 6 NUM_GPUS 4", "TRAIN.BATCH_SIZE: must be a multiple of 4: 4 shares"),
        ("TRAIN.BATCH_SIZE 4 TRAIN.ACCUMULATE 3", "must be a multiple of 3: 1 shares (NUM_GPUS) of 3 parts"),
        ("TRAIN.METHOD revit_e NUM_GPUS 3", "NUM_GPUS: revit_e needs a rank for each token length"),
        ("ASSIGNER.BATCH_SIZE 6 NUM_GPUS 4", "ASSIGNER.BATCH_SIZE: must be a multiple of NUM_GPUS 4, got 6"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE [0.5]", "must be empty, or 2 ascending numbers"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE [0,1]", "must be empty, or 2 ascending numbers"),
        ("DATA.TEST_SCALE 200", "must be 0, or at least DATA.TEST_CROP_SIZE 224; got 200"),
        ("AUG.AA_TYPE augmix", "AUG.AA_TYPE: must be empty, or RandAugment in timm's words"),
        ("AUG.AA_TYPE rand-m9.5", "AUG.AA_TYPE: must be empty, or RandAugment in timm's words"),
        ("MIXUP.ALPHA 0.8 TRAIN.BATCH_SIZE 3", "each of 1 shares (NUM_GPUS) must be even for MIXUP; got 3"),
        ("MIXUP.TOKEN_ALPHA 1 MIXUP.ALPHA 0.8", "MIXUP.TOKEN_ALPHA: mixes clips a second time"),
        ("ADAPTIVE.BUDGET 0.5 ADAPTIVE.THRESHOLD 0.9", "ADAPTIVE.BUDGET: chooses thresholds, but ADAPTIVE.T"),
        (
            "ASSIGNER.CLASS_WEIGHTS True ASSIGNER.OBJECTIVE sufficiency",
            "of which the objective sufficiency has",
        ),
        ("ASSIGNER.OBJECTIVE sufficiency ADAPTIVE.POLICY argmax", "has none; give cumulative"),
        ("ADAPTIVE.BUDGET 0.5 ADAPTIVE.LATENCY_MS 3", "ADAPTIVE.BUDGET: are two budgets; one must be 0"),
        ("ADAPTIVE.LATENCY_MS 3 ADAPTIVE.CERTIFY True", "spends a budget whatever the drop"),
        ("ADAPTIVE.BUDGET 0.5 ADAPTIVE.POLICY argmax", "which the policy argmax does not have"),
        ("DATA.TOKEN_LABELS maps", "DATA.TOKEN_LABELS: label maps are of images; DATA.NUM_FRAMES must be 1"),
        ("DATA.TOKEN_LABELS maps DATA.REVERSED_CLASSES [[0,1]]", "images, which have no time to reverse"),
        ("DATA.TOKEN_LABELS maps MIXUP.CUTMIX_ALPHA 1", "pixels that are mixed have no label maps"),
        ("DATA.SPLIT [0.5,0.5,0.5,0.5]", "DATA.SPLIT: must be 4 shares that add up to 1"),
        ("DATA.MEAN [0.5]", "DATA.MEAN: must be empty, or 3 numbers"),
        ("SOLVER.LRS [1]", "one for each of SOLVER.STEPS [0, 11, 14] is needed"),
        ("SOLVER.STEPS [1,2,3]", "must start at 0 and ascend"),
        ("SOLVER.STEPS [0,3,3]", "must start at 0 and ascend"),
        ("SOLVER.MOMENTUM 0", "SOLVER.NESTEROV: needs SOLVER.MOMENTUM above 0"),
        ("TEST.POLICIES [static,static]", "different ones of static, assigned"),
        ("TEST.NUM_SPATIAL_CROPS 2", "must be one of 1, 3, got 2"),
        ("DATA.REVERSED_CLASSES [[0,1],[1,2]]", "a class may be in one pair only"),
        ("DATA.REVERSED_CLASSES [[0,400]]", "classes are 0 to 399 (MODEL.NUM_CLASSES), got [400]"),
        ("DATA.REVERSED_CLASSES [0,1]", "must be pairs of classes"),
        (
            "DATA.REVERSED_CLASSES [[0,1]] TRAIN.BATCH_SIZE 6 NUM_GPUS 2",
            "must be a multiple of 4: 2 shares (NUM_GPUS) of 1 parts",
        ),
    ],
)
def test_illegal_values_and_combinations(opts: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cfg(None, opts.split())
    assert any(mistake in line for line in str(caught.value).splitlines()[1:])


def test_cosine_does_not_need_steps() -> None:
    load_cfg(None, ["SOLVER.LR_POLICY", "cosine", "SOLVER.STEPS", "[]"])


@pytest.mark.parametrize("key", [key for key, rule in RULES.items() if rule.most])
def test_numbers_have_an_upper_bound(key: str) -> None:
    most = RULES[key].most
    with pytest.raises(ConfigError, match=f"{key}: must be at most {most}, got {most + 1}"):
        load_cfg(None, [key, str(most + 1)])


@pytest.mark.parametrize("group", ["SOLVER", "ASSIGNER"])
def test_warmup_ends_before_the_training(group: str) -> None:
    load_cfg(None, [f"{group}.WARMUP_EPOCHS", 1.9, f"{group}.MAX_EPOCH", 2])
    for warmup in (2, 3):
        with pytest.raises(ConfigError, match=f"{group}.WARMUP_EPOCHS: must end before .* 2; got {warmup}"):
            load_cfg(None, [f"{group}.WARMUP_EPOCHS", warmup, f"{group}.MAX_EPOCH", 2])
