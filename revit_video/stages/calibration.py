"""Operating points of the policies: fixed by the config, or chosen on the validation list."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from iopath.common.file_io import g_pathmgr

from revit_video.adaptive.calibrate import (
    Point,
    assigned_points,
    best_within,
    cascade_points,
    choose_point,
    exit_thresholds,
    hybrid_points,
)
from revit_video.adaptive.certificate import certified, run_trials, videos_needed
from revit_video.adaptive.drift import Seen
from revit_video.adaptive.policies import Certificate, Costs, Hybrid, Settings, assigned
from revit_video.adaptive.table import COLUMNS, Table
from revit_video.adaptive.temperatures import calibration_error, fit_temperatures
from revit_video.evaluate import milliseconds
from revit_video.from_cfg.inputs import eval_batch_size
from revit_video.from_cfg.model import views_per_video
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.inference import log_probabilities, probabilities
from revit_video.models.untrusted import believed
from revit_video.runtime.ranks import Ranks

logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What operating points were chosen from and for: the table of the validation list, and `ADAPTIVE`."""

    table: Table
    adaptive: dict[str, Any]


def write_calibration(path: str, cfg: CfgNode, table: Table) -> None:
    """Keeps a calibration, so that other wishes need no new pass over the list."""
    checkpoint.save(path, {"adaptive": dict(cfg.ADAPTIVE), "table": vars(table)})


def read_calibration(path: str) -> Kept | None:
    """The kept calibration, None if there is none."""
    if not g_pathmgr.isfile(path):
        return None
    content = checkpoint.load_payload(path)
    with believed(path, "calibration"):
        table = Table(**content["table"])
        views = {len(column) for column in (table.paths, *(getattr(table, name) for name in COLUMNS))}
        if len(views) != 1 or table.scores.ndim != 3 or table.correct.shape != table.scores.shape[:2]:
            raise ValueError("its columns do not fit each other")
        return Kept(table, dict(content["adaptive"]))


def calibrated(cfg: CfgNode, table: Table, costs: Costs) -> Settings:
    """Settings of all policies, from the table of the validation list.

    Those of `assigned` need the assigner's probabilities in the table.
    """
    settings = assigned_settings(cfg, table, costs) if table.assigned.shape[1] else Settings()
    settings = replace(settings, cascade_threshold=cascade_threshold(cfg, table, costs))
    if not takes_hybrid(cfg):
        return settings
    hybrid, certificate = hybrid_settings(cfg, table, costs)
    _, stop, agreed, videos = table.follow(hybrid.policy())
    first = table.first_views
    seen = Seen.of(videos, stop[first], agreed[first], len(costs.gmacs))
    return replace(settings, hybrid=hybrid, certificate=certificate, seen=seen)


def costs_in_wish(
    cfg: CfgNode, costs: Costs, model: ResizableModel, assigner: TokenLengthAssigner | None, ranks: Ranks
) -> Costs:
    """What `ADAPTIVE` bounds: GMACs or, with `LATENCY_MS`, milliseconds per view, measured here.

    Args:
        model: as `Trained.reader` gives it.
    """
    if cfg.ADAPTIVE.LATENCY_MS == 0:
        return costs
    views = views_per_video(cfg)
    count = eval_batch_size(cfg, ranks, views) * views
    clips = torch.randn(count, 3, model.num_frames, model.img_size, model.img_size, device=ranks.device)
    found: Costs = ranks.gather(milliseconds(model, assigner, clips))[0]
    named = [*zip(map(str, model.lengths), found.gmacs, strict=True), ("assigner", found.assigner)]
    words = ", ".join(f"{name} {each:.2f}" for name, each in named)
    logger.info("ms per view on this machine, in batches of %d views: %s", count, words)
    return found


def takes_hybrid(cfg: CfgNode) -> bool:
    """Whether `hybrid` is shipped; else it is `assigned` or, without an assigner, `cascade`."""
    return cfg.ADAPTIVE.POLICY == "hybrid" and cfg.ADAPTIVE.THRESHOLD == 0


def hybrid_settings(cfg: CfgNode, table: Table, costs: Costs) -> tuple[Hybrid, Certificate | None]:
    """The operating point of policy `hybrid`, never dearer than the longest length, and its certificate.

    With `ADAPTIVE.CERTIFY` a point that is not certified gives way to the longest length. A budget promises
    no drop, so nothing is certified.
    """
    adaptive, longest = cfg.ADAPTIVE, costs.gmacs[0]
    per_view = adaptive.DECISION == "view"
    temperatures = fit_temperatures(table.scores, table.labels)
    _log_calibration(cfg, table, temperatures)
    points = hybrid_points(table, costs, temperatures, per_view)
    chosen, certificate = _point(cfg, points, 0.0, longest), None
    if adaptive.BUDGET == adaptive.LATENCY_MS == 0:
        chosen, certificate = _certified(cfg, table, costs, chosen)
        if adaptive.CERTIFY and not certificate.holds:
            chosen = next(point for point in points if _is_longest(point))
    assert chosen.hybrid is not None
    _log("hybrid on val", chosen, longest)
    if _is_longest(chosen):
        logger.info(
            "adapting does not pay: on val no cheaper point keeps the promise, and asking the assigner costs "
            "%.0f %% of the longest length; the operating point is always %s",
            100 * costs.assigner / longest,
            cfg.REVIT.TOKEN_LENGTHS[0],
        )
    return chosen.hybrid, certificate


def _certified(cfg: CfgNode, table: Table, costs: Costs, chosen: Point) -> tuple[Point, Certificate]:
    """A certified point in place of the chosen one, if there is one that is preferred, and the certificate.

    With `ADAPTIVE.CERTIFY` any is preferred, else one that is not dearer.
    """
    adaptive, videos = cfg.ADAPTIVE, len(table.first_views)
    certificate = Certificate(adaptive.MAX_DROP, adaptive.CONFIDENCE, videos, holds=True)
    if _is_longest(chosen):  # loses nothing, by definition
        return chosen, certificate
    trials = run_trials(table, costs, adaptive.DECISION == "view", cfg.RNG_SEED)
    trial = certified(trials, adaptive.MAX_DROP, adaptive.CONFIDENCE)
    promise = f"a drop of at most {adaptive.MAX_DROP:g} points at {100 * adaptive.CONFIDENCE:g} % confidence"
    if trial is not None and (adaptive.CERTIFY or trial.point.gmacs <= chosen.gmacs):
        logger.info("hybrid: %s is certified on %d videos of val", promise, videos)
        return trial.point, certificate
    needed = videos_needed(chosen, videos, adaptive.MAX_DROP, adaptive.CONFIDENCE)
    logger.warning(
        "hybrid: %s is not certified by the %d videos of val; %s would do. %s",
        promise,
        videos,
        f"about {needed}" if needed else "no number",
        "The longest length is taken (ADAPTIVE.CERTIFY)" if adaptive.CERTIFY else "It is an estimate",
    )
    return chosen, replace(certificate, holds=False, needed=needed)


def _is_longest(point: Point) -> bool:
    return point.hybrid is not None and point.hybrid.usable == [0]


def _log_calibration(cfg: CfgNode, table: Table, temperatures: list[float]) -> None:
    """The calibration error of each length, before and after."""
    for i, (length, temperature) in enumerate(zip(cfg.REVIT.TOKEN_LENGTHS, temperatures, strict=True)):
        before = table.scores[:, i]
        several = table.multi_label
        after = probabilities(log_probabilities(before, temperature, several), several)
        logger.info(
            "%s on val: temperature %.2f, calibration error %.1f %% -> %.1f %%",
            length,
            temperature,
            calibration_error(before, table.labels),
            calibration_error(after, table.labels),
        )


def assigned_settings(cfg: CfgNode, table: Table, costs: Costs) -> Settings:
    """The assigner's threshold (None for arg-max) and its mix of lengths."""
    per_view, longest = cfg.ADAPTIVE.DECISION == "view", costs.gmacs[0]
    if cfg.ADAPTIVE.POLICY == "argmax":
        chosen = assigned(None, per_view).start(table.known)
        counts = chosen.bincount(minlength=len(costs.gmacs)).double()
        return Settings(None, per_view, (counts / len(chosen)).tolist())
    point = _point(cfg, assigned_points(table, costs, per_view), cfg.ADAPTIVE.THRESHOLD, longest)
    _log(f"assigner on val: threshold {point.threshold:.3f}", point, longest)
    mix = torch.tensor(point.mix).tolist()  # in single precision, as checkpoints have always kept it
    return Settings(point.threshold, per_view, mix)


def cascade_threshold(cfg: CfgNode, table: Table, costs: Costs) -> float | list[float]:
    """The cascade's threshold; with cumulative costs (DVT) one per length, longest first."""
    longest = costs.gmacs[0]
    point = _point(cfg, cascade_points(table, costs), cfg.ADAPTIVE.CASCADE_THRESHOLD, longest)
    if not costs.cumulative:
        _log(f"cascade on val: threshold {point.threshold:.3f}", point, longest)
        return point.threshold
    thresholds = exit_thresholds(table.confidence, point.threshold)
    shortest_first = ", ".join(f"{threshold:.3f}" for threshold in thresholds[:0:-1])
    _log(f"early exit on val: thresholds {shortest_first}", point, longest)
    return thresholds


def _point(cfg: CfgNode, points: list[Point], threshold: float, longest: float) -> Point:
    """The point at the given threshold, or the one that `ADAPTIVE` chooses.

    Args:
        threshold: 0 to choose.
        longest: cost of the longest length, which `ADAPTIVE.BUDGET` is relative to.
    """
    adaptive = cfg.ADAPTIVE
    if threshold > 0:
        same = max((p for p in points if p.threshold <= threshold), key=lambda point: point.threshold)
        return same._replace(threshold=threshold)
    if budget := adaptive.LATENCY_MS or adaptive.BUDGET * longest:
        chosen = best_within(points, budget)
        if chosen.gmacs > budget * (1 + 1e-9):
            wish = "LATENCY_MS" if adaptive.LATENCY_MS else "BUDGET"
            logger.warning("ADAPTIVE.%s %g: nothing is as cheap; the cheapest is taken", wish, adaptive[wish])
        return chosen
    return choose_point(points, adaptive.MAX_DROP, adaptive.SAFETY)


def _log(title: str, chosen: Point, longest: float) -> None:
    logger.info(
        "%s: %+.2f points at %.0f %% of the longest length's cost",
        title,
        0 - chosen.drop,  # no minus before a zero
        100 * chosen.gmacs / longest,
    )
