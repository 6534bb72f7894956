"""The last stage: adaptive inference against every static length, on the test list."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from torch import Tensor

import revit_video
from revit_video.adaptive import policies
from revit_video.adaptive.calibrate import (
    Point,
    assigned_points,
    cascade_points,
    hybrid_points,
    threshold_points,
)
from revit_video.adaptive.folds import OutOfFold
from revit_video.adaptive.kept import read_calibration
from revit_video.adaptive.labels import labels_in_words
from revit_video.adaptive.policies import SHIPPED, Costs, Hybrid, Settings
from revit_video.adaptive.table import Table, static_top1
from revit_video.data.batch import Batch
from revit_video.evaluate import CONTROL, Answers, Speed, keep_first, replay, speed_of_mix, time_policies
from revit_video.from_cfg.identity import ANSWERS, Record, check_same, settings, test_record
from revit_video.from_cfg.model import data_spec
from revit_video.from_cfg.overlaps import mine_split, remarks
from revit_video.length import TokenLength
from revit_video.meters import counts_by_name
from revit_video.models import checkpoint
from revit_video.models.checkpoint import Checkpoint, CheckpointError, weights_digest
from revit_video.report import print_table, write_report
from revit_video.report.predictions import Predictions, write_predictions
from revit_video.runtime import output_dir
from revit_video.runtime.environment import environment
from revit_video.runtime.logging import printing, quiet
from revit_video.stages.assign import Assigner
from revit_video.stages.board import show_on_board
from revit_video.stages.calibration import cascade_threshold, choose_hybrid
from revit_video.stages.comparison import Comparison, compare, policies_of
from revit_video.stages.job import Job, Trained
from revit_video.stages.solve import with_answers
from revit_video.stages.verdict import verdict

ROUNDS, FEW_ROUNDS = 5, 3  # of the clock; a run with folds is to take a minute, of which that is the most
CLOCK_SHARE, CLOCK_GMACS, CLOCK_BYTES = 0.1, 25, 2 << 30  # see `clock_batches`
NAME_IT = "give the results of this test a name of their own (TEST.NAME)"
ADAPTIVE = ("hybrid", "assigned")  # the first that was tested is "adaptive" in results.json
OTHERS = ("assigned", "random", "cascade", "oracle")  # the others are under "policies"

logger = logging.getLogger(__name__)


def test(job: Job, trained: Trained | None = None, assigned: Assigner | None = None) -> None:
    """Evaluates every policy on the test list; writes results.json, predictions.csv and the report.

    Args:
        trained, assigned: as `train` and `assign` give them; None: from OUTPUT_DIR.
    """
    trained = with_answers(job, trained or job.trained)
    compared, lengths = compare(job, trained, assigned), trained.model.lengths
    record = _checked(job, trained, compared)
    job.record_config(job.results_path(output_dir.CONFIG))
    table, answers, kept = _answered(job, trained, compared)
    if job.cfg.DATA.FOLDS:  # the shipped heads are too sure of these clips: lengths alone are timed
        fixed = {str(length): compared.engine(policies.static(i)) for i, length in enumerate(lengths)}
        speeds = time_policies(fixed, kept, job.ranks, FEW_ROUNDS, job.termination.look)
    else:
        speeds = time_policies(compared.engines(), kept, job.ranks, ROUNDS, job.termination.look)
    if not job.ranks.is_main:
        return
    if job.cfg.DATA.FOLDS:
        speeds |= _speeds_of_mixes(compared, answers, [speeds[str(length)] for length in lengths])
    output_dir.write_json(job.results_path(output_dir.FLOPS), compared.cost_table)
    predictions = _predictions(table, answers, lengths)
    write_predictions(job.results_path(output_dir.PREDICTIONS), predictions, lengths)
    _ship(job, trained, compared)
    results = _results(job, compared, table, answers, speeds) | {"record": record}
    curve = trained.out_of_fold.curve if trained.out_of_fold else {}
    results["verdict"] = verdict(job.cfg, table, answers, curve)
    results["learning_curve"] = [{"clips": clips, "top1": top1} for clips, top1 in curve.items()]
    output_dir.write_json(job.results_path(output_dir.RESULTS), results)  # last: where it is, all is
    page = write_report(job.results_path(), own=True)
    show_on_board(job, results)
    with printing():
        print_table(results)
    logger.info("report: %s", page)


def _answered(
    job: Job, trained: Trained, compared: Comparison
) -> tuple[Table, dict[str, Answers], list[Batch]]:
    """The table of the tested list, every policy's answers (on the main rank), and batches for the clock."""
    cfg = job.cfg
    batches, kept = job.test_batches(cfg.TEST.SPLIT), list[Batch]()
    if cfg.DATA.FOLDS:
        out_of_fold = trained.out_of_fold
        assert out_of_fold is not None
        return out_of_fold.table, _cross_fitted(cfg, compared, out_of_fold), list(islice(batches, 1))
    count = clock_batches(len(batches), compared.batch_size * compared.costs.gmacs[0])
    first = keep_first(batches, kept, count, CLOCK_BYTES)
    stage = f"test {cfg.TEST.NAME}" if cfg.TEST.NAME else "test"
    table = job.tabulate(compared.model, stage, first, compared.reading_assigner, total=len(batches))
    if not job.ranks.is_main:  # its table has no scores
        return table, {}, kept
    answers = {name: replay(table, policy, compared.costs) for name, policy in compared.policies.items()}
    return table, answers, kept


def clock_batches(count: int, gmacs: float) -> int:
    """How many of a rank's `count` batches are kept and timed, each of so many GMACs.

    A share of them; of a small model more, so that the last buckets, which are not full, weigh little.
    """
    return max(2, int(CLOCK_SHARE * count), min(count, int(CLOCK_GMACS / gmacs)))


def _speeds_of_mixes(
    compared: Comparison, answers: Mapping[str, Answers], alone: Sequence[Speed]
) -> dict[str, Speed]:
    """Speeds of the policies that can run, from those of the lengths and what each view ran."""
    hybrid, lengths = compared.settings.hybrid, range(len(alone))
    usable = {"hybrid": hybrid.usable} if hybrid else {}
    cumulative, others = compared.costs.cumulative, {*map(str, compared.model.lengths), "oracle"}
    return {
        name: speed_of_mix(own, alone, cumulative, usable.get(name, lengths))
        for name, own in answers.items()
        if name not in others
    }


def _cross_fitted(cfg: CfgNode, compared: Comparison, out_of_fold: OutOfFold) -> dict[str, Answers]:
    """Every policy's answers, each fold's at operating points that were chosen on the other folds."""
    table, fold, _ = out_of_fold
    parts: dict[str, list[Answers]] = {name: [] for name in compared.policies}
    chosen = Settings()
    for n in fold.unique():
        if compared.settings != Settings():
            with quiet("revit_video.stages.calibration"):  # what is shipped has been said
                chosen = _chosen_on(cfg, table.only(fold != n), compared)
        for name, policy in policies_of(cfg, chosen, compared.model).items():
            parts[name].append(replay(table.only(fold == n), policy, compared.costs))
    return {name: Answers.joined(own) for name, own in parts.items()}


def _chosen_on(cfg: CfgNode, table: Table, compared: Comparison) -> Settings:
    """The settings that some of the clips choose; where one length was found to be best for all, that one."""
    threshold, shipped = cascade_threshold(cfg, table, compared.costs), compared.settings.hybrid
    if shipped is not None and len(shipped.usable) > 1:
        shipped = choose_hybrid(cfg, table, compared.costs)
    return replace(compared.settings, cascade_threshold=threshold, hybrid=shipped)


def _checked(job: Job, trained: Trained, compared: Comparison) -> Record:
    """What shapes the results.

    Raises:
        ValueError: the assigner answers otherwise, or there are results of something else already.
    """
    if compared.record is not None and not job.cfg.TEST.NAME:
        shipped = job.path(output_dir.ASSIGNER)
        check_same(compared.record, settings(job.cfg, ANSWERS), f"{shipped} answers", NAME_IT)
    assigner = weights_digest(compared.assigner.state_dict()) if compared.assigner else ""
    record = test_record(job.cfg, job.data.videos(job.cfg.TEST.SPLIT), trained.weights, assigner)
    path, found = job.results_path(output_dir.RESULTS), None
    # None, or damaged: it is written anew.
    with suppress(OSError, ValueError), output_dir.open_ordinary(path, "r", **output_dir.TEXT) as file:
        found = output_dir.parsed_json(file.read())
    if isinstance(found, dict):
        gone = "" if assigner else f"; {job.path(output_dir.ASSIGNER)} is not there"
        check_same(found.get("record"), record, f"{path} was made", f"{NAME_IT}, or remove that file{gone}")
    return record


def _ship(job: Job, trained: Trained, compared: Comparison) -> None:
    """Writes model.pyth where no stage before has, so that `load` gives the tested policy.

    A test with a name never does, nor one of another checkpoint where there is a model already.
    """
    path, payload = job.path(output_dir.MODEL), compared.payload()
    if job.cfg.TEST.NAME or not payload:
        return
    there = _shipped(path)
    if there is not None:
        same = weights_digest(there.payload["model"]["weights"]) == trained.weights
        if same and there.settings != compared.settings.to_dict():
            logger.warning("%s stays as it is, with other thresholds; remove it to ship these", path)
        if same or job.cfg.TEST.CHECKPOINT_FILE_PATH:
            return
    data = data_spec(job.cfg, job.data.class_names)
    payload = checkpoint.model_payload(trained.model, data, compared.cost_table, trained.record) | payload
    checkpoint.save(path, payload)


def _shipped(path: str) -> Checkpoint | None:
    """The model that is there; a damaged one is written anew."""
    if not os.path.isfile(path):
        return None
    try:
        return checkpoint.read(path)
    except CheckpointError as error:
        logger.warning("%s; it is written anew", error)
        return None


def _predictions(
    table: Table, answers: Mapping[str, Answers], lengths: tuple[TokenLength, ...]
) -> Predictions:
    """The content of predictions.csv; adaptive is the policy that `predict` runs."""
    first = table.first_views
    classes = {name: _classes(answer.videos.predicted) for name, answer in answers.items()}
    adaptive = next((name for name in SHIPPED if name in answers), None)
    return Predictions(
        videos=[table.paths[n] for n in first.tolist()],
        truth=_classes(table.labels[first]),
        static={name: classes[name] for name in map(str, lengths) if name in classes},
        adaptive=classes[adaptive] if adaptive else None,
        chosen=answers[adaptive].lengths[first].numpy() if adaptive else None,
    )


def _classes(labels: Tensor) -> np.ndarray:
    """Class indices `(N,)`, or of several classes a video `(N, classes)` texts such as `3,17`."""
    return labels.numpy() if labels.dim() == 1 else np.array([labels_in_words(row) for row in labels])


def _results(
    job: Job, compared: Comparison, table: Table, answers: Mapping[str, Answers], speeds: Mapping[str, Speed]
) -> dict[str, Any]:
    """The content of results.json."""
    lengths = [str(length) for length in compared.model.lengths]
    entries = {
        name: _entry(each, speeds.get(name), compared.costs, lengths) for name, each in answers.items()
    }
    if "assigned" in entries:
        own = {"assigner_gmacs": compared.costs.assigner, "threshold": compared.settings.threshold}
        entries["assigned"] |= own
    if "hybrid" in entries:
        entries["hybrid"] |= _hybrid(answers["hybrid"], compared, lengths)
    if "cascade" in entries:
        entries["cascade"]["threshold"] = compared.settings.cascade_threshold
    shipped = next((name for name in ADAPTIVE if name in entries), None)
    return {
        "dataset": os.path.basename(os.path.normpath(job.cfg.DATA.PATH_TO_DATA_DIR)),
        "split": "out-of-fold" if job.cfg.DATA.FOLDS else job.cfg.TEST.SPLIT,
        "clips": len(table.rows),
        "videos": len(table.first_views),
        "skipped": len(table.skipped),
        "classes": job.data.class_names,
        "lengths": lengths,
        "command": job.command,
        "seed": job.cfg.RNG_SEED,
        "views": job.views,
        "remarks": remarks(job.cfg, job.data, _seen(job.cfg, compared)),
        "static": {name: entries[name] for name in lengths if name in entries},
        "adaptive": {"policy": shipped} | entries[shipped] if shipped else None,
        "policies": {name: entries[name] for name in OTHERS if name in entries and name != shipped},
        "clock": {"control": _speed(speeds[CONTROL])},
        "curves": _curves(job, table, compared) if lengths[0] in entries else {},
        "environment": environment(job.ranks.device, job.ranks.world_size, revit_video.__version__),
    }


def _seen(cfg: CfgNode, compared: Comparison) -> dict[str, str]:
    """What the lists were used for before; nothing is known of another run's checkpoint."""
    seen, adaptive = {}, cfg.ADAPTIVE
    if cfg.DATA.FOLDS:  # each answer is of heads and thresholds that have not seen the clip
        return {}
    if not cfg.TEST.CHECKPOINT_FILE_PATH:
        seen["train"] = "the backbone was trained on"
    if compared.assigner is not None:
        seen.setdefault(mine_split(cfg), "the assigner was trained on")
    if compared.settings != Settings() and not (adaptive.THRESHOLD and adaptive.CASCADE_THRESHOLD):
        seen["val"] = "thresholds were chosen on"
    return seen


def _hybrid(answers: Answers, compared: Comparison, lengths: list[str]) -> dict[str, Any]:
    """The operating point of policy `hybrid`, its certificate, and the views on each path."""
    point, certificate = compared.settings.hybrid, compared.settings.certificate
    assert point is not None
    paths = Counter(zip(answers.starts.tolist(), answers.lengths.tolist(), strict=True))
    named = {
        " ".join(lengths[i] for i in reversed(point.usable) if stop <= i <= start): count
        for (start, stop), count in sorted(paths.items(), reverse=True)
    }
    return {
        "lengths": [lengths[i] for i in point.usable],
        "threshold": point.threshold,
        "temperatures": point.temperatures,
        "averaged": point.averaged,
        "assigner_gmacs": 0.0 if point.prices is None else compared.costs.assigner,
        "path_counts": named,
        "certificate": asdict(certificate) if certificate else None,
    }


def _entry(answers: Answers, speed: Speed | None, costs: Costs, lengths: list[str]) -> dict[str, Any]:
    """The figures of one policy; those of speed are left out where it was not timed."""
    entry = {
        "top1": answers.videos.topk(1),
        "top5": answers.videos.topk(5),
        **({} if (precision := answers.videos.mean_average_precision) is None else {"mAP": precision}),
        "gmacs": answers.mean_gmacs,
        "macs_speedup": costs.gmacs[0] / answers.mean_gmacs,
        "length_counts": counts_by_name(answers.lengths, lengths),
    }
    return entry | (_speed(speed) if speed else {})


def _speed(speed: Speed) -> dict[str, Any]:
    """Medians, and lower and upper quartiles."""
    content: dict[str, Any] = {}
    for name in ("clips_per_sec", "speedup"):
        low, content[name], high = getattr(speed, name)
        content[f"{name}_quartiles"] = [low, high]
    return content


def _curves(job: Job, table: Table, compared: Comparison) -> dict[str, list[dict[str, Any]]]:
    """The points that each threshold gives on these videos; the thresholds in use were chosen elsewhere.

    Those of a DVT are the ratio q of `exit_thresholds`.
    """
    costs = compared.costs
    curves = {"cascade": cascade_points(table, costs)}
    if "hybrid" in compared.policies and compared.settings.hybrid is not None:
        curves["hybrid"] = _hybrid_curve(job, table, compared, compared.settings.hybrid)
    if "assigned" in compared.policies:
        curves["assigned"] = assigned_points(table, costs, compared.settings.per_view)
    drawn: dict[str, list[dict[str, Any]]] = {
        name: [{"threshold": p.threshold, "gmacs": p.gmacs, "top1": p.top1, "mix": p.mix} for p in points]
        for name, points in curves.items()
    }
    # A random mix of two lengths lies on the line between them.
    top1 = static_top1(table, compared.model.lengths).values()
    drawn["random"] = [{"gmacs": g, "top1": t} for g, t in zip(costs.gmacs, top1, strict=True)][::-1]
    return drawn


def _hybrid_curve(job: Job, table: Table, compared: Comparison, chosen: Hybrid) -> list[Point]:
    """What the front of policy `hybrid` on the validation list gives on these videos, cheapest first.

    Where the outputs for that list were not kept, only the threshold varies.
    """
    costs, kept = compared.costs, read_calibration(job.path(output_dir.CALIBRATION))
    if kept is None or job.cfg.DATA.FOLDS or kept.table.scores.shape[1] != len(costs.gmacs):
        return threshold_points(table, costs, chosen)
    known = kept.table
    if compared.assigner is None:
        known = replace(known, assigned=known.assigned[:, :0])
    points = []
    for point in hybrid_points(known, costs, chosen.temperatures, chosen.per_view):
        assert point.hybrid is not None
        here = replay(table, point.hybrid.policy(), costs)
        mix = here.lengths.bincount(minlength=len(costs.gmacs)).double() / len(here.lengths)
        points.append(point._replace(top1=here.videos.topk(1), gmacs=here.mean_gmacs, mix=mix.tolist()))
    return sorted(points, key=lambda point: point.gmacs)
