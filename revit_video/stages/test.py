"""The last stage: adaptive inference against every static length, on the test list."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from revit_video import flops
from revit_video.adaptive.calibrate import assigned_points
from revit_video.adaptive.policies import Assigned, Cascade, Oracle, Policy, Random, Static
from revit_video.evaluate import Evaluation, Table, evaluate, static_top1
from revit_video.from_cfg import backbone as build
from revit_video.from_cfg.model import reader
from revit_video.length import TokenLength
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.report import print_table, write_report
from revit_video.runtime import output_dir
from revit_video.runtime.logging import progress
from revit_video.stages.calibration import cascade_settings, points_of_cascade
from revit_video.stages.job import Job, gmacs_of

NEED_ASSIGNER = {"assigned", "random"}  # by its choice, its mix of lengths

logger = logging.getLogger(__name__)


def test(job: Job) -> None:
    """Runs every policy over the test list; writes results.json, predictions.csv and the report."""
    cfg, ranks = job.cfg, job.ranks
    _, model = job.trained()
    policies, costs, settings = build_policies(job, model)
    job.record_config()
    batches = job.test_batches(cfg.TEST.SPLIT)
    with progress(batches, len(batches), "test", ranks.is_main) as bar:
        result = evaluate(bar, policies, ranks)
    job.record_skipped("test", result.table.skipped)
    if ranks.is_main:
        results = _results(job, result, costs, model, settings)
        output_dir.write_json(job.path(output_dir.FLOPS), costs)
        write_predictions(job.path(output_dir.PREDICTIONS), result, model.lengths)
        if settings:  # what `load` reads is what was tested
            backbone = build.backbone_payload(cfg, model, job.data.class_names, costs)
            checkpoint.save(job.path(output_dir.MODEL), backbone | settings)
        output_dir.write_json(job.path(output_dir.RESULTS), results)  # last: where it is, all is
        print_table(results)
        logger.info("report: %s", write_report(cfg.OUTPUT_DIR))


def write_predictions(path: str, result: Evaluation, lengths: Sequence[TokenLength]) -> None:
    """One row a test video: its label, the adaptive policy's length and class, each static length's class.

    Without an assigner, as in DVT, the cascade is what adapts.
    """
    names = [str(length) for length in lengths if str(length) in result.predicted]
    adaptive = next((name for name in ("assigned", "cascade") if name in result.predicted), None)
    rows = []
    for n, video in enumerate(result.paths):
        row: list[Any] = [video, int(result.labels[n]), "", ""]
        if adaptive:
            row[2:] = [lengths[int(result.lengths[adaptive][n])], int(result.predicted[adaptive][n])]
        rows.append(row + [int(result.predicted[name][n]) for name in names])
    header = [
        "video",
        "label",
        "adaptive_length",
        "adaptive_prediction",
        *(f"prediction_{name}" for name in names),
    ]
    output_dir.write_csv(path, header, rows)


def build_policies(
    job: Job, model: ResizableModel
) -> tuple[dict[str, Policy], dict[str, Any], dict[str, Any] | None]:
    """The policies to test by name, the cost table, and the assigner's checkpoint.

    Without an assigner the latter holds the policies' settings alone, or is None if nothing was to be set.
    """
    saved = _assigner(job)
    network = build.assigner_from(saved).to(job.ranks.device) if saved else None
    costs = flops.cost_table(model, job.views, network)
    if saved is None and "cascade" in job.cfg.TEST.POLICIES:
        saved = _calibrated_cascade(job, model, costs)
    return _policies(job, model, costs, network, saved["policy"] if saved else {}), costs, saved


def _assigner(job: Job) -> dict[str, Any] | None:
    """The assigner's checkpoint, its settings overridden by the config; None where no policy needs it."""
    path, wanted = job.path(output_dir.ASSIGNER), set(job.cfg.TEST.POLICIES)
    if not wanted & (NEED_ASSIGNER | {"cascade"}):  # the cascade was calibrated with it
        return None
    if not os.path.isfile(path):
        if wanted & NEED_ASSIGNER:
            logger.warning("%s: no assigner, so only policies that need none are tested", path)
        return None
    payload = build.read_assigner(path, job.cfg)
    payload["policy"] |= _overrides(job.cfg, payload["policy"])
    return payload


def _calibrated_cascade(job: Job, model: ResizableModel, costs: dict[str, Any]) -> dict[str, Any] | None:
    """The cascade's settings: the config's, or chosen on the validation list; None where there is none."""
    if job.cfg.ADAPTIVE.CASCADE_THRESHOLD > 0:
        return {"policy": {"cascade_threshold": job.cfg.ADAPTIVE.CASCADE_THRESHOLD}}
    try:
        batches = job.test_batches("val")
    except (ValueError, OSError) as error:
        logger.warning("the cascade is not tested, having no list to be calibrated on: %s", error)
        return None
    table = job.tabulate(model, "val", batches)
    return {"policy": cascade_settings(job.cfg, model, table, costs)}


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
    model: ResizableModel,
    costs: dict[str, Any],
    network: TokenLengthAssigner | None,
    settings: dict[str, Any],
) -> dict[str, Policy]:
    """The policies to test, by name; those that need an assigner only where there is one."""
    cfg = job.cfg
    gmacs = gmacs_of(costs)
    run: dict[str, Any] = {"batch_size": max(1, cfg.TEST.BATCH_SIZE // job.ranks.world_size) * job.views}
    model = reader(cfg, model)
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
    if "cascade" in wanted and "cascade_threshold" in settings:
        policies["cascade"] = Cascade(model, gmacs, settings["cascade_threshold"], **run)
    if "oracle" in wanted:
        policies["oracle"] = Oracle(model, gmacs, **run)
    if not policies:
        raise ValueError(
            f"TEST.POLICIES {cfg.TEST.POLICIES}: nothing to test without an assigner "
            f"({job.path(output_dir.ASSIGNER)}) or, for the cascade, a list to calibrate it on"
        )
    return policies


def _results(
    job: Job,
    result: Evaluation,
    costs: dict[str, Any],
    model: ResizableModel,
    settings: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of results.json."""
    lengths = [str(length) for length in model.lengths]
    # Without the static lengths, speed-ups have nothing to be relative to but the first policy.
    longest = result.scores.get(lengths[0]) or next(iter(result.scores.values()))
    entries = {name: score.as_dict(longest) for name, score in result.scores.items()}
    adaptive = entries.get("assigned")
    if adaptive is not None and settings is not None:
        threshold = settings["policy"]["threshold"]
        adaptive |= {"assigner_gmacs": costs["assigner_gmacs"], "threshold": threshold}
    if "cascade" in entries and settings is not None:
        entries["cascade"]["threshold"] = settings["policy"]["cascade_threshold"]
    return {
        "dataset": os.path.basename(os.path.normpath(job.cfg.DATA.PATH_TO_DATA_DIR)),
        "split": job.cfg.TEST.SPLIT,
        "clips": len(result.table.rows),
        "videos": len(result.videos),
        "skipped": len(result.table.skipped),
        "classes": job.data.class_names,
        "lengths": lengths,
        "command": job.command,
        "seed": job.cfg.RNG_SEED,
        "views": job.views,
        "static": {name: entries[name] for name in lengths if name in entries},
        "adaptive": adaptive,
        "policies": {name: entries[name] for name in ("random", "cascade", "oracle") if name in entries},
        "curves": _curves(result.table, model, costs) if lengths[0] in entries else {},
    }


def _curves(table: Table, model: ResizableModel, costs: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """What each threshold would have given on these videos; the thresholds in use were chosen elsewhere.

    Those of a DVT are fractions of the videos that reach each exit, not confidences.
    """
    gmacs = gmacs_of(costs)
    curves = {"cascade": points_of_cascade(model, table.readings, gmacs)}
    if table.assigned.shape[1]:
        curves["assigned"] = assigned_points(table.assigned, table.readings, gmacs, costs["assigner_gmacs"])
    drawn = {
        name: [{"threshold": p.threshold, "gmacs": p.gmacs, "top1": p.top1} for p in points]
        for name, points in curves.items()
    }
    # A random mix of two lengths lies on the line between them.
    top1 = static_top1(table, model.lengths).values()
    drawn["random"] = [{"gmacs": cost, "top1": value} for cost, value in zip(gmacs, top1, strict=True)][::-1]
    return drawn
