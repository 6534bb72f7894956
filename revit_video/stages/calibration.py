"""Operating points of the policies: fixed by the config, or chosen on the validation list."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from revit_video.adaptive.calibrate import (
    FEW,
    Point,
    assigned_points,
    best_within,
    cascade_points,
    choose_point,
    dearer,
    exit_thresholds,
    hybrid_points,
)
from revit_video.adaptive.certificate import certified, run_trials, videos_needed
from revit_video.adaptive.drift import Seen
from revit_video.adaptive.folds import cut_into_folds, losses_on_others
from revit_video.adaptive.policies import Certificate, Costs, Hybrid, Settings, assigned
from revit_video.adaptive.table import Table, static_top1
from revit_video.adaptive.temperatures import calibration_error, fit_temperatures
from revit_video.evaluate import milliseconds
from revit_video.from_cfg.inputs import eval_batch_size
from revit_video.from_cfg.model import views_per_video
from revit_video.from_cfg.overlaps import groups_in
from revit_video.length import token_lengths
from revit_video.meters import drop_with_margin
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.inference import log_probabilities, probabilities
from revit_video.runtime.ranks import Ranks

CLOCK_NOISE = 0.05  # share of a time; what is not faster by more is not faster
TRIED_FOLDS = 5  # of few videos, in which a choice is tried; those of DATA.FOLDS where there are

logger = logging.getLogger(__name__)


def calibrated(cfg: CfgNode, table: Table, costs: Costs, fold: Tensor | None = None) -> Settings:
    """Settings of all policies, from the table of the validation list.

    Those of `assigned` need the assigner's probabilities in the table.

    Args:
        fold: of each view, where the list has folds.
    """
    settings = assigned_settings(cfg, table, costs) if table.assigned.shape[1] else Settings()
    settings = replace(settings, cascade_threshold=cascade_threshold(cfg, table, costs))
    if not takes_hybrid(cfg):
        return settings
    _log_calibration(cfg, table, fit_temperatures(table.scores, table.labels))
    return _with_hybrid(cfg, settings, table, costs, fold)


def _with_hybrid(
    cfg: CfgNode, settings: Settings, table: Table, costs: Costs, fold: Tensor | None
) -> Settings:
    """The settings with those of `hybrid`, its certificate, and what it did with the list."""
    hybrid, certificate = hybrid_settings(cfg, table, costs, fold)
    _, stop, agreed, videos = table.follow(hybrid.policy())
    first = table.first_views
    seen = Seen.of(videos, stop[first], agreed[first], len(costs.gmacs))
    return replace(settings, hybrid=hybrid, certificate=certificate, seen=seen)


def calibration_list(cfg: CfgNode) -> str:
    """What operating points are chosen on, in words."""
    return "train (out of fold)" if cfg.DATA.FOLDS else "val"


def calibrated_here(
    cfg: CfgNode,
    table: Table,
    costs: Costs,
    model: ResizableModel,
    assigner: TokenLengthAssigner | None,
    ranks: Ranks,
    fold: Tensor | None = None,
) -> Settings:
    """`calibrated`, with the costs that `ADAPTIVE` bounds.

    With `ON_CLOCK` a point of `hybrid` that is slow for its cost gives way to another, see `_on_clock`. (Not
    with frozen backbones, where no assigner is asked.)

    Args:
        table: with scores on the main rank, which chooses for all.
        costs: GMACs.
        model, assigner: as they are at inference.
    """
    wished = costs_in_wish(cfg, costs, model, assigner, ranks)
    settings = ranks.from_main(lambda: calibrated(cfg, table, wished, fold))
    hybrid, adaptive = settings.hybrid, cfg.ADAPTIVE
    if not adaptive.ON_CLOCK or adaptive.LATENCY_MS or cfg.TRAIN.METHOD == "frozen":
        return settings
    if hybrid is None or hybrid.usable == [0]:
        return settings
    clock = _measured(cfg, model, assigner, ranks)
    return ranks.from_main(lambda: _on_clock(cfg, settings, table, costs, clock, fold))


def _on_clock(
    cfg: CfgNode, settings: Settings, table: Table, costs: Costs, clock: Costs, fold: Tensor | None
) -> Settings:
    """The settings, with another point of `hybrid` where the chosen one is slow for its cost.

    That is, slower than the longest length or, where a drop is wished, than the point that is chosen by the
    larger of cost and time.
    """

    def time(hybrid: Hybrid) -> float:
        policy = hybrid.policy()
        start, stop, _, _ = table.follow(policy)
        spent = clock.spent(start, stop, policy.asks_assigner, policy.usable)
        return spent.mean().item() / clock.gmacs[0]

    assert settings.hybrid is not None
    both = dearer(costs, clock, CLOCK_NOISE)
    now, other = time(settings.hybrid), time(choose_hybrid(cfg, table, both))
    if now <= 1 - CLOCK_NOISE and (cfg.ADAPTIVE.BUDGET or other > (1 - CLOCK_NOISE) * now):
        return settings
    logger.info(
        "hybrid: %.0f %% of the longest length's time on this machine; points are chosen again by the larger "
        "of cost and time, which gives %.0f %% (ADAPTIVE.ON_CLOCK)",
        *(100 * now, 100 * other),
    )
    return _with_hybrid(cfg, settings, table, both, fold)


def costs_in_wish(
    cfg: CfgNode, costs: Costs, model: ResizableModel, assigner: TokenLengthAssigner | None, ranks: Ranks
) -> Costs:
    """What `ADAPTIVE` bounds: GMACs or, with `LATENCY_MS`, milliseconds per view, measured here.

    Args:
        model: as `Trained.reader` gives it.
    """
    return _measured(cfg, model, assigner, ranks) if cfg.ADAPTIVE.LATENCY_MS else costs


def _measured(
    cfg: CfgNode, model: ResizableModel, assigner: TokenLengthAssigner | None, ranks: Ranks
) -> Costs:
    """Milliseconds per view on this machine, in batches as in the test."""
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


def hybrid_settings(
    cfg: CfgNode, table: Table, costs: Costs, fold: Tensor | None = None
) -> tuple[Hybrid, Certificate | None]:
    """The operating point of policy `hybrid`, never dearer than the longest length, and its certificate.

    With `ADAPTIVE.CERTIFY` a point that is not certified gives way to the longest length; on a short list,
    one does whose drop is too large on videos that it was not chosen on. A budget promises no drop, so
    nothing is certified.
    """
    adaptive, longest = cfg.ADAPTIVE, costs.gmacs[0]
    points = _hybrid_points(cfg, table, costs)
    chosen, certificate = _point(cfg, points, 0.0, longest), None
    if adaptive.BUDGET == adaptive.LATENCY_MS == 0:
        _log_fixed(cfg, table, costs)
        chosen, certificate = _certified(cfg, table, costs, chosen)
        kept = certificate.holds or (not adaptive.CERTIFY and _holds_on_others(cfg, table, costs, fold))
        if not kept:
            chosen = next(point for point in points if point.is_longest)
    assert chosen.hybrid is not None
    _log(f"hybrid on {calibration_list(cfg)}", chosen, longest)
    if len(chosen.hybrid.usable) == 1:
        asking = 100 * costs.assigner / longest
        logger.info(
            "adapting does not pay: on %s no cheaper point keeps the promise%s; the operating point is "
            "always %s",
            calibration_list(cfg),
            f", and asking the assigner costs {asking:.0f} % of the longest length" if asking else "",
            cfg.REVIT.TOKEN_LENGTHS[chosen.hybrid.usable[0]],
        )
    return chosen.hybrid, certificate


def _hybrid_points(cfg: CfgNode, table: Table, costs: Costs) -> list[Point]:
    temperatures = fit_temperatures(table.scores, table.labels)
    return hybrid_points(table, costs, temperatures, cfg.ADAPTIVE.DECISION == "view")


def choose_hybrid(cfg: CfgNode, table: Table, costs: Costs) -> Hybrid:
    """The operating point that `ADAPTIVE` chooses, without a look at whether it holds on other videos."""
    hybrid = _point(cfg, _hybrid_points(cfg, table, costs), 0.0, costs.gmacs[0]).hybrid
    assert hybrid is not None
    return hybrid


def _holds_on_others(cfg: CfgNode, table: Table, costs: Costs, fold: Tensor | None) -> bool:
    """Whether what is chosen on most of a short list loses little enough on the rest of it, in turns.

    Of many points the one that does best on few videos does so by chance. One video lost is the least that so
    few can show, and no reason. With `ADAPTIVE.SAFETY` 0 estimates are taken as they are.
    """
    adaptive, videos = cfg.ADAPTIVE, len(table.first_views)
    if not 2 <= videos < FEW or adaptive.SAFETY == 0:
        return True
    if fold is None:
        classes = [0] * len(table.paths) if table.multi_label else table.labels.tolist()
        groups = groups_in(cfg, table.paths)
        if len(set(groups)) < 2:
            return True
        fold = cut_into_folds(groups, classes, min(TRIED_FOLDS, len(set(groups))), cfg.RNG_SEED)
    losses = losses_on_others(table, fold, lambda others: choose_hybrid(cfg, others, costs).policy())
    drop, half = drop_with_margin(losses)
    holds = drop <= max(adaptive.MAX_DROP, 100 / videos) + 1e-9
    logger.warning(
        "hybrid: %d videos of %s are few, one is %.1f points. Chosen on some of them and tried on the "
        "others it is at %+.1f points (%+.1f to %+.1f at 95 %% confidence)%s",
        *(videos, calibration_list(cfg), 100 / videos, 0 - drop, -drop - half, half - drop),
        f"; where no drop may be risked, take always {cfg.REVIT.TOKEN_LENGTHS[0]}"
        if holds
        else f", so always {cfg.REVIT.TOKEN_LENGTHS[0]} is taken",
    )
    return holds


def _log_fixed(cfg: CfgNode, table: Table, costs: Costs) -> None:
    """What every choice is compared with: each length for all videos."""
    top1 = static_top1(table, token_lengths(cfg.REVIT.TOKEN_LENGTHS))
    words = ", ".join(
        f"{name} {value:.1f} % at {100 * gmacs / costs.gmacs[0]:.0f} %"
        for (name, value), gmacs in zip(top1.items(), costs.gmacs, strict=True)
    )
    where = calibration_list(cfg)
    logger.info("one length for all videos of %s: %s of the longest length's cost", where, words)


def _certified(cfg: CfgNode, table: Table, costs: Costs, chosen: Point) -> tuple[Point, Certificate]:
    """A certified point in place of the chosen one, if there is one that is preferred, and the certificate.

    With `ADAPTIVE.CERTIFY` any is preferred, else one that is not dearer.
    """
    adaptive, videos = cfg.ADAPTIVE, len(table.first_views)
    certificate = Certificate(adaptive.MAX_DROP, adaptive.CONFIDENCE, videos, holds=True)
    if chosen.is_longest:  # loses nothing, by definition
        return chosen, certificate
    trials = run_trials(table, costs, adaptive.DECISION == "view", cfg.RNG_SEED)
    trial = certified(trials, adaptive.MAX_DROP, adaptive.CONFIDENCE)
    promise = f"a drop of at most {adaptive.MAX_DROP:g} points at {100 * adaptive.CONFIDENCE:g} % confidence"
    if trial is not None and (adaptive.CERTIFY or trial.point.gmacs <= chosen.gmacs):
        logger.info("hybrid: %s is certified on %d videos of %s", promise, videos, calibration_list(cfg))
        return trial.point, certificate
    needed = videos_needed(chosen, videos, adaptive.MAX_DROP, adaptive.CONFIDENCE)
    logger.warning(
        "hybrid: %s is not certified by the %d videos of %s; %s would do. %s",
        promise,
        videos,
        calibration_list(cfg),
        f"about {needed}" if needed else "no number",
        "The longest length is taken (ADAPTIVE.CERTIFY)" if adaptive.CERTIFY else "It is an estimate",
    )
    return chosen, replace(certificate, holds=False, needed=needed)


def _log_calibration(cfg: CfgNode, table: Table, temperatures: list[float]) -> None:
    """The calibration error of each length, before and after."""
    for i, (length, temperature) in enumerate(zip(cfg.REVIT.TOKEN_LENGTHS, temperatures, strict=True)):
        before = table.scores[:, i]
        several = table.multi_label
        after = probabilities(log_probabilities(before, temperature, several), several)
        logger.info(
            "%s on %s: temperature %.2f, calibration error %.1f %% -> %.1f %%",
            length,
            calibration_list(cfg),
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
    _log(f"assigner on {calibration_list(cfg)}: threshold {point.threshold:.3f}", point, longest)
    mix = torch.tensor(point.mix).tolist()  # in single precision, as checkpoints have always kept it
    return Settings(point.threshold, per_view, mix)


def cascade_threshold(cfg: CfgNode, table: Table, costs: Costs) -> float | list[float]:
    """The cascade's threshold; with cumulative costs (DVT) one per length, longest first."""
    longest = costs.gmacs[0]
    point = _point(cfg, cascade_points(table, costs), cfg.ADAPTIVE.CASCADE_THRESHOLD, longest)
    if not costs.cumulative:
        _log(f"cascade on {calibration_list(cfg)}: threshold {point.threshold:.3f}", point, longest)
        return point.threshold
    thresholds = exit_thresholds(table.confidence, point.threshold)
    shortest_first = ", ".join(f"{threshold:.3f}" for threshold in thresholds[:0:-1])
    _log(f"early exit on {calibration_list(cfg)}: thresholds {shortest_first}", point, longest)
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
