"""Fig. 7: training time and parameters of a config's model against its number of token lengths."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles

import torch
from benchmarks.growth import CASCADE, REVIT_B, SEPARATE, Growth, growth_figure, time_growth
from benchmarks.timing import Effort
from benchmarks.training import TimedStep
from fvcore.common.config import CfgNode

from reproduce.claims import Claim, PerSeed
from reproduce.markdown import Page, markdown_table
from reproduce.rows import DVT, can_be_dvt, row_options
from reproduce.runs import Runs
from revit_video.from_cfg.model import build_model
from revit_video.from_cfg.resolve import load_checked, resolved
from revit_video.from_cfg.training import build_optimizer
from revit_video.runtime.ranks import Ranks, init
from revit_video.stages.train import training_step

ROUNDS = 7


def fig7(sources: Sequence[Runs]) -> Page:
    """Training steps with one length, two, and so on, timed in turn."""
    (runs,) = sources
    ranks = init(runs.cfg.DEVICE)
    lengths = [str(length) for length in runs.lengths]

    def training(cascade: bool, some: Sequence[str]) -> TimedStep:
        keys = ["REVIT.TOKEN_LENGTHS", list(some), "TRAIN.METHOD", "revit_b", "MODEL.COMPILE", False]
        keys += ["REVIT.DISTILL.MIN_TEACHER_TOP1", 0.0]  # no accuracy to wait for on random clips
        keys += row_options(DVT) if cascade else []
        return _training(load_checked(runs.path, [*runs.options, *keys]), ranks)

    cascade = (lambda some: training(True, some)) if can_be_dvt(runs.cfg) else None
    grown = time_growth(lengths, lambda some: training(False, some), cascade, Effort(ROUNDS), ranks.device)
    where = "GPU" if ranks.device.type == "cuda" else _cpu()
    return growth_page(grown, lengths, _share(runs.cfg), where)


def _cpu() -> str:
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _training(cfg: CfgNode, ranks: Ranks) -> TimedStep:
    cfg = resolved(cfg)
    model = build_model(cfg).to(ranks.device)
    step = training_step(cfg, ranks, model)
    return TimedStep(model, step, ranks, _share(cfg), build_optimizer(cfg, model))


def _share(cfg: CfgNode) -> int:
    """Clips per forward pass of one rank."""
    return max(1, cfg.TRAIN.BATCH_SIZE // cfg.NUM_GPUS // cfg.TRAIN.ACCUMULATE)


def growth_page(grown: Growth, lengths: Sequence[str], batch: int, where: str) -> Page:
    """The measured values as a table, and the paper's claims, for which it gives no figures."""
    count = len(lengths)
    rows = []
    for way, seconds in grown.seconds.items():
        for k in range(1, count + 1):
            low, _, high = quantiles([1e3 * s for s in seconds[k - 1]], n=4, method="inclusive")
            rows.append(
                [
                    way if k == 1 else "",
                    " + ".join(lengths[:k]),
                    f"{1e3 * grown.time(way, k):.1f}",
                    f"{low:.1f} to {high:.1f}",
                    f"{grown.to_one(way, k):.2f}x",
                    f"{grown.params[way][k - 1] / 1e6:.2f}",
                    f"{grown.params[way][k - 1] / grown.params[way][0]:.3f}x",
                ]
            )
    header = ["way", "lengths", "ms per step", "quartiles", "to one length", "parameters, M", "to one length"]
    time = {way: PerSeed.of([grown.to_one(way, count)]) for way in grown.seconds}
    params = {way: PerSeed.of([values[-1] / values[0]]) for way, values in grown.params.items()}
    claims = [
        Claim(f"{words}, {count} lengths to one", "no figures", high, low, 2)
        for words, high, low in (
            ("time: separate models more than ReViT-B", time[SEPARATE], time[REVIT_B]),
            ("time: DVT more than ReViT-B", time.get(CASCADE), time[REVIT_B]),
            ("parameters: separate models more than ReViT", params[SEPARATE], params[REVIT_B]),
            ("parameters: DVT more than ReViT", params.get(CASCADE), params[REVIT_B]),
        )
        if high is not None
    ]
    return Page(
        "Fig. 7: training cost against the number of token lengths",
        [
            f"One training step on {batch} random clips on a {where}; all ways in turn, medians of {ROUNDS} "
            "rounds. Separate models are trained one after the other. ReViT-E runs one length per rank: the "
            "time is that of its slowest rank without communication (`tools/benchmark.py replicas` includes "
            "it). DVT's models are trained together; with one length it is a plain model. Ratios are taken "
            "within each round. The paper's Fig. 7 is for DeiT-S on ImageNet-1K; its text gives no figures.",
            markdown_table(header, rows),
        ],
        claims,
        growth_figure(grown),
    )
