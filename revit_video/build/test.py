"""The last stage: adaptive inference against every static length, on the test list."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from revit_video import flops
from revit_video.adaptive.calibrate import assigned_points, cascade_points
from revit_video.adaptive.policies import Assigned, Cascade, Oracle, Policy, Random, Static
from revit_video.build import files
from revit_video.build import model as build
from revit_video.build.data import class_names
from revit_video.build.job import Job, gmacs_of
from revit_video.evaluate import Evaluation, Table, evaluate, static_top1
from revit_video.length import TokenLength
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.revit import ReViT
from revit_video.report import print_table, write_report
from revit_video.runtime import checkpoint
from revit_video.runtime.logging import progress

NEED_ASSIGNER = {"assigned", "random", "cascade"}  # by its choice, its mix of lengths, its calibration

logger = logging.getLogger(__name__)


def test(job: Job) -> None:
    """Runs every policy over the test list; writes results.json, predictions.csv and the report."""
    cfg, ranks = job.cfg, job.ranks
    _, model = job.trained()
    policies, costs, assigner = build_policies(job, model)
    job.record_config()
    batches = job.test_batches(cfg.TEST.SPLIT)
    with progress(batches, len(batches), "test", ranks.is_main) as bar:
        result = evaluate(bar, policies, ranks)
    job.record_skipped("test", result.table.skipped)
    if ranks.is_main:
        results = _results(job, result, costs, model, assigner)
        files.write_json(job.path(files.RESULTS), results)
        files.write_json(job.path(files.FLOPS), costs)
        files.write_predictions(job.path(files.PREDICTIONS), result, model.lengths)
        if assigner:  # what `load` reads is what was tested
            backbone = build.backbone_payload(cfg, model, class_names(cfg), costs)
            checkpoint.save(job.path(files.MODEL), backbone | assigner)
        print_table(results)
        logger.info("report: %s", write_report(cfg.OUTPUT_DIR))


def build_policies(job: Job, model: ReViT) -> tuple[dict[str, Policy], dict[str, Any], dict[str, Any] | None]:
    """The policies to test by name, the cost table, and the assigner's checkpoint if there is one."""
    assigner = _assigner(job)
    network = build.assigner_from(assigner).to(job.ranks.device) if assigner else None
    costs = flops.cost_table(model, job.views, network)
    return _policies(job, model, costs, network, assigner["policy"] if assigner else {}), costs, assigner


def _assigner(job: Job) -> dict[str, Any] | None:
    """The assigner's checkpoint, its settings overridden by the config; None where no policy needs it."""
    path = job.path(files.ASSIGNER)
    if not set(job.cfg.TEST.POLICIES) & NEED_ASSIGNER:
        return None
    if not os.path.isfile(path):
        logger.warning("%s: no assigner, so only policies that need none are tested", path)
        return None
    payload = build.read_assigner(path, job.cfg)
    payload["policy"] |= _overrides(job.cfg, payload["policy"])
    return payload


def _overrides(cfg: CfgNode, saved: dict[str, Any]) -> dict[str, Any]:
    """What the config fixes of the policies' settings, whatever was chosen with the assigner."""
    adaptive = cfg.ADAPTIVE
    fixed: dict[str, Any] = {"per_view": adaptive.DECISION == "view"}
    if adaptive.POLICY == "argmax":
        fixed["threshold"] = None
    elif adaptive.THRESHOLD > 0:
        fixed["threshold"] = adaptive.THRESHOLD
    elif saved["threshold"] is None:
        raise ValueError(
            "ADAPTIVE.POLICY cumulative: no threshold was chosen with this assigner, which used argmax; "
            "give ADAPTIVE.THRESHOLD, or train the assigner again"
        )
    if adaptive.CASCADE_THRESHOLD > 0:
        fixed["cascade_threshold"] = adaptive.CASCADE_THRESHOLD
    return fixed


def _policies(
    job: Job,
    model: ReViT,
    costs: dict[str, Any],
    network: TokenLengthAssigner | None,
    settings: dict[str, Any],
) -> dict[str, Policy]:
    """The policies to test, by name; those that need an assigner only where there is one."""
    cfg = job.cfg
    gmacs = gmacs_of(costs)
    run: dict[str, Any] = {"batch_size": max(1, cfg.TEST.BATCH_SIZE // job.ranks.world_size) * job.views}
    model = build.reader(cfg, model)
    policies: dict[str, Policy] = {}
    wanted = set(cfg.TEST.POLICIES)
    if wanted & {"static", "oracle"}:
        policies |= {str(length): Static(model, gmacs, length, **run) for length in model.lengths}
    if network is not None:
        threshold, per_view = settings["threshold"], settings["per_view"]
        if "assigned" in wanted:
            cost = costs["assigner_gmacs"]
            policies["assigned"] = Assigned(model, gmacs, network, cost, threshold, per_view, **run)
        if "random" in wanted:
            policies["random"] = Random(model, gmacs, settings["mix"], cfg.RNG_SEED, **run)
        if "cascade" in wanted:
            policies["cascade"] = Cascade(model, gmacs, settings["cascade_threshold"], **run)
    if "oracle" in wanted:
        policies["oracle"] = Oracle(model, gmacs, **run)
    if not policies:
        raise ValueError(
            f"TEST.POLICIES {cfg.TEST.POLICIES}: nothing to test without an assigner "
            f"({job.path(files.ASSIGNER)})"
        )
    return policies


def _results(
    job: Job, result: Evaluation, costs: dict[str, Any], model: ReViT, assigner: dict[str, Any] | None
) -> dict[str, Any]:
    """The content of results.json."""
    lengths = [str(length) for length in model.lengths]
    # Without the static lengths, speed-ups have nothing to be relative to but the first policy.
    longest = result.scores.get(lengths[0]) or next(iter(result.scores.values()))
    entries = {name: score.as_dict(longest) for name, score in result.scores.items()}
    adaptive = entries.get("assigned")
    if adaptive is not None and assigner is not None:
        threshold = assigner["policy"]["threshold"]
        adaptive |= {"assigner_gmacs": costs["assigner_gmacs"], "threshold": threshold}
    return {
        "dataset": os.path.basename(os.path.normpath(job.cfg.DATA.PATH_TO_DATA_DIR)),
        "split": job.cfg.TEST.SPLIT,
        "clips": len(result.table.rows),
        "videos": len(result.videos),
        "skipped": len(result.table.skipped),
        "classes": class_names(job.cfg),
        "lengths": lengths,
        "command": job.command,
        "seed": job.cfg.RNG_SEED,
        "views": job.views,
        "static": {name: entries[name] for name in lengths if name in entries},
        "adaptive": adaptive,
        "policies": {name: entries[name] for name in ("random", "cascade", "oracle") if name in entries},
        "curves": _curves(result.table, model.lengths, costs) if lengths[0] in entries else {},
    }


def _curves(
    table: Table, lengths: Sequence[TokenLength], costs: dict[str, Any]
) -> dict[str, list[dict[str, float]]]:
    """What each threshold would have given on these videos; the thresholds in use were chosen elsewhere."""
    gmacs = gmacs_of(costs)
    curves = {"cascade": cascade_points(table.readings, gmacs)}
    if table.assigned.shape[1]:
        curves["assigned"] = assigned_points(table.assigned, table.readings, gmacs, costs["assigner_gmacs"])
    drawn = {
        name: [{"threshold": p.threshold, "gmacs": p.gmacs, "top1": p.top1} for p in points]
        for name, points in curves.items()
    }
    # A random mix of two lengths lies on the line between them.
    top1 = static_top1(table, lengths).values()
    drawn["random"] = [{"gmacs": cost, "top1": value} for cost, value in zip(gmacs, top1, strict=True)][::-1]
    return drawn
