"""From the config to the training of the backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from revit_video.config import ConfigError, load_cfg
from revit_video.from_cfg.resolve import resolved
from revit_video.from_cfg.training import autocast, compile_model, distillation, learning_rate
from revit_video.runtime.ranks import Ranks
from revit_video.train.losses import Distillation
from tests.tiny import tiny_dvt, tiny_revit
from tests.toy import toy_cfg

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


def test_the_recipes_learning_rates() -> None:
    recipe = learning_rate(load_cfg(None), 10)
    assert [recipe(epoch) for epoch in (0, 10.9, 11, 14)] == pytest.approx([5e-3, 5e-3, 5e-4, 5e-5])
    cosine = learning_rate(
        load_cfg(None, ["SOLVER.LR_POLICY", "cosine", "SOLVER.WARMUP_EPOCHS", 1, "SOLVER.MAX_EPOCH", 11]), 10
    )
    assert cosine(0) == 0 and cosine(1) == 5e-3 and cosine(11) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("policy", ["cosine", "steps_with_relative_lrs"])
@pytest.mark.parametrize(("batches", "epochs", "warmup"), [
    (1, 1, 0.1), (1, 1, 0.9), (2, 1, 0.9), (3, 1, 0.5), (4, 2, 1.9), (5, 3, 0.3), (7, 2, 1.0), (1, 5, 4.5),
])  # fmt: skip
def test_some_step_has_the_full_rate(policy: str, batches: int, epochs: int, warmup: float) -> None:
    """However short the training or long the warm-up, none is at the rate 0 throughout."""
    pairs = {"LR_POLICY": policy, "WARMUP_EPOCHS": warmup, "MAX_EPOCH": epochs}
    cfg = load_cfg(None, [word for key, value in pairs.items() for word in (f"SOLVER.{key}", value)])
    at = learning_rate(cfg, batches)
    rates = [at(step / batches) for step in range(epochs * batches)]
    peak = rates.index(cfg.SOLVER.BASE_LR)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and max(rates) == cfg.SOLVER.BASE_LR
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_distillation_can_be_switched_off() -> None:
    assert distillation(load_cfg(None, ["REVIT.DISTILL.ENABLE", False])) is None
    assert distillation(load_cfg(None)) == Distillation(tau=0.9, lam=0.5)


def test_no_mixed_precision_on_the_cpu() -> None:
    assert autocast(load_cfg(None), ALONE) is None


def test_no_bfloat16_on_a_gpu_that_emulates_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = Ranks(0, 1, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with caplog.at_level("INFO"):
        assert autocast(load_cfg(None), gpu) is None
    assert caplog.messages == ["Tesla T4 only emulates bfloat16, slower than float32: training in float32"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert autocast(load_cfg(None), gpu) is torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "device", "batch", "steps", "compiled"),
    [
        ("auto", "cpu", 1 << 14, 1_000_000, None),
        ("auto", "cuda", 1 << 14, 2_499, None),
        ("auto", "cuda", 1 << 14, 2_500, True),
        ("auto", "cuda", 64, 1_000_000, None),  # bound by launching: graphs gain more
        (False, "cuda", 1 << 14, 1_000_000, None),
        (True, "cpu", 1, 1, False),
    ],
)
def test_what_is_compiled(asked: object, device: str, batch: int, steps: int, compiled: bool | None) -> None:
    """None: not at all; else whether it runs on where it cannot be compiled."""
    cfg, called = load_cfg(None, ["MODEL.COMPILE", asked, "TRAIN.BATCH_SIZE", batch]), list[bool]()
    model = tiny_revit()
    model.compile = lambda optional=False: called.append(optional)  # type: ignore[method-assign, assignment]
    compile_model(cfg, model, Ranks(0, 1, torch.device(device)), steps)
    assert called == ([] if compiled is None else [compiled])


@pytest.mark.parametrize("changes", [{"act_checkpoint": True}, {"stem": "conv"}])
def test_what_graphs_cannot_serve_is_compiled_in_small_batches_too(changes: dict[str, Any]) -> None:
    cfg, called, model = load_cfg(None), list[bool](), tiny_revit(**changes)
    model.compile = lambda optional=False: called.append(optional)  # type: ignore[method-assign, assignment]
    compile_model(cfg, model, Ranks(0, 1, torch.device("cuda")), 1_000_000)
    assert called == [True]


def test_a_cascade_is_never_compiled() -> None:
    cfg, model = load_cfg(None, ["DVT.ENABLE", True]), tiny_dvt()
    compile_model(cfg, model, Ranks(0, 1, torch.device("cuda")), 1_000_000)
    assert not model.compiled


def test_few_clips_get_more_epochs_until_the_steps_are_enough(videos: Path, tmp_path: Path) -> None:
    """24 clips in batches of 4 make 6 steps an epoch."""
    few = ("SOLVER.LR_POLICY", "cosine", "SOLVER.MAX_EPOCH", 2, "SOLVER.MIN_STEPS")
    for steps, epochs in ((0, 2), (12, 2), (13, 3), (600, 100)):
        cfg = toy_cfg(videos, tmp_path, *few, steps)
        assert epochs == resolved(cfg, ["train"]).SOLVER.MAX_EPOCH
        assert epochs == resolved(cfg, ["mine"]).SOLVER.MAX_EPOCH  # as it was trained
    with pytest.raises(ConfigError, match="SOLVER.MIN_STEPS: stretches the schedule, which SOLVER.LR_POLICY"):
        toy_cfg(videos, tmp_path, "SOLVER.MIN_STEPS", 10, "SOLVER.LR_POLICY", "steps_with_relative_lrs")
