"""What is said about settings that no model can have."""

from __future__ import annotations

import pytest

from revit_video.config import ConfigError, get_cfg
from revit_video.config.rules import get
from revit_video.from_cfg.model import KEYS, PRESET_KEYS, model_mistakes
from revit_video.from_cfg.resolve import load_checked


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
            "MODEL.ARCH lvvit_small DATA.NUM_FRAMES 1",
            "TIMESFORMER.ATTENTION_TYPE: must be space_only with MOD",
        ),
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
