"""The last stage: adaptive inference against every static length, on the test list."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from revit_video import flops
from revit_video.adaptive import policies
from revit_video.adaptive.calibrate import assigned_points, cascade_points
from revit_video.adaptive.engine import Engine
from revit_video.adaptive.policies import Costs, Policy
from revit_video.adaptive.settings import Settings
from revit_video.adaptive.table import Table, static_top1
from revit_video.data.batch import Batch
from revit_video.evaluate import CONTROL, Answers, Speed, keep_first, replay, time_policies
from revit_video.from_cfg.model import data_spec
from revit_video.length import TokenLength
from revit_video.meters import counts_by_name
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.report import print_table, write_report
from revit_video.report.predictions import Predictions, write_predictions
from revit_video.runtime import output_dir
from revit_video.stages.calibration import cascade_threshold
from revit_video.stages.job import Job

NEED_ASSIGNER = {"assigned", "random"}  # by its choice, its mix of lengths
CLOCK_SHARE, CLOCK_BYTES = 0.1, 2 << 30  # of a rank's batches, the first ones are kept and timed

logger = logging.getLogger(__name__)


def test(job: Job) -> None:
    """Evaluates every policy on the test list; writes results.json, predictions.csv and the report."""
    cfg = job.cfg
    _, model = job.trained()
    contest = prepare(job, model)
    job.record_config()
    batches, kept = job.test_batches(cfg.TEST.SPLIT), list[Batch]()
    first = keep_first(batches, kept, max(2, int(CLOCK_SHARE * len(batches))), CLOCK_BYTES)
    table = job.tabulate(contest.model, "test", first, contest.assigner, total=len(batches))
    answers = {name: replay(table, policy, contest.costs) for name, policy in contest.policies.items()}
    speeds = time_policies(contest.engines(), kept, job.ranks)
    if not job.ranks.is_main:
        return
    output_dir.write_json(job.path(output_dir.FLOPS), contest.cost_table)
    predictions = _predictions(table, answers, model.lengths)
    write_predictions(job.path(output_dir.PREDICTIONS), predictions, model.lengths)
    if contest.payload:  # what `load` reads is what was tested
        backbone = checkpoint.model_payload(model, data_spec(cfg, job.data.class_names), contest.cost_table)
        checkpoint.save(job.path(output_dir.MODEL), backbone | contest.payload)
    results = _results(job, contest, table, answers, speeds)
    output_dir.write_json(job.path(output_dir.RESULTS), results)  # last: where it is, all is
    print_table(results)
    logger.info("report: %s", write_report(cfg.OUTPUT_DIR))


# ---- What is tested --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """A trained model and the policies to compare.

    Attributes:
        model: as `Job.reader` gives it.
        policies: by name; a static policy has the name of its length.
        settings: of the policies that need any.
        payload: the part of the checkpoint that holds assigner and settings; None if nothing was to be set.
        batch_size: views in one pass of this rank.
    """

    model: ResizableModel
    assigner: TokenLengthAssigner | None
    policies: dict[str, Policy]
    settings: Settings
    payload: dict[str, Any] | None
    cost_table: dict[str, Any]
    batch_size: int

    @property
    def costs(self) -> Costs:
        return Costs.from_table(self.cost_table, self.model.carries_state)

    def engine(self, policy: Policy) -> Engine:
        """What runs `policy` on this model."""
        return Engine(self.model, policy, self.costs, self.assigner, self.batch_size)

    def engines(self) -> dict[str, Engine]:
        """Every policy's but the oracle's, which cannot run; the first is always the longest length."""
        longest = {str(self.model.lengths[0]): policies.static(0)}
        runnable = {name: policy for name, policy in self.policies.items() if name != "oracle"}
        return {name: self.engine(policy) for name, policy in (longest | runnable).items()}


def prepare(job: Job, model: ResizableModel) -> Contest:
    """The policies that `TEST.POLICIES` names, those that need an assigner only where there is one.

    Raises:
        ValueError: there is nothing to test.
    """
    cfg = job.cfg
    reader, payload = job.reader(model), _assigner(job)
    assigner = checkpoint.assigner_of(payload).to(job.ranks.device) if payload else None
    cost_table = flops.cost_table(model, job.views, assigner)
    if payload is None and "cascade" in cfg.TEST.POLICIES:
        payload = _cascade(job, reader, Costs.from_table(cost_table, model.carries_state))
    settings = Settings(**payload["policy"]) if payload else Settings()
    found = _policies(cfg, settings, model.lengths)
    if not found:
        raise ValueError(
            f"TEST.POLICIES {cfg.TEST.POLICIES}: nothing to test without an assigner "
            f"({job.path(output_dir.ASSIGNER)}) or, for the cascade, a list to calibrate it on"
        )
    batch_size = max(1, cfg.TEST.BATCH_SIZE // job.ranks.world_size) * job.views
    return Contest(reader, assigner, found, settings, payload, cost_table, batch_size)


def _policies(cfg: CfgNode, settings: Settings, lengths: tuple[TokenLength, ...]) -> dict[str, Policy]:
    wanted = set(cfg.TEST.POLICIES)
    found: dict[str, Policy] = {}
    if wanted & {"static", "oracle"}:
        found |= {str(length): policies.static(i) for i, length in enumerate(lengths)}
    chosen = settings.policies(len(lengths), cfg.RNG_SEED)
    found |= {name: policy for name, policy in chosen.items() if name in wanted}
    if "oracle" in wanted:
        found["oracle"] = policies.oracle()
    return found


def _assigner(job: Job) -> dict[str, Any] | None:
    """The assigner's checkpoint, its settings overridden by the config; None where no policy needs it."""
    path, wanted = job.path(output_dir.ASSIGNER), set(job.cfg.TEST.POLICIES)
    if not wanted & (NEED_ASSIGNER | {"cascade"}):  # the cascade was calibrated with it
        return None
    if not os.path.isfile(path):
        if wanted & NEED_ASSIGNER:
            logger.warning("%s: no assigner, so only policies that need none are tested", path)
        return None
    payload = checkpoint.read_assigner(path, len(job.cfg.REVIT.TOKEN_LENGTHS)).payload
    payload["policy"] |= _overrides(job.cfg, payload["policy"])
    return payload


def _cascade(job: Job, reader: ResizableModel, costs: Costs) -> dict[str, Any] | None:
    """The cascade's settings: the config's, or chosen on the validation list; None where there is none."""
    threshold: float | list[float] = job.cfg.ADAPTIVE.CASCADE_THRESHOLD
    if threshold == 0:
        try:
            batches = job.test_batches("val")
        except (ValueError, OSError) as error:
            logger.warning("the cascade is not tested, having no list to be calibrated on: %s", error)
            return None
        threshold = cascade_threshold(job.cfg, job.tabulate(reader, "val", batches), costs)
    return {"policy": Settings(cascade_threshold=threshold).to_dict()}


def _overrides(cfg: CfgNode, saved: dict[str, Any]) -> dict[str, Any]:
    """The settings that the config fixes, whatever was chosen with the assigner."""
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


# ---- What comes out --------------------------------------------------------------------------------------


def _predictions(
    table: Table, answers: Mapping[str, Answers], lengths: tuple[TokenLength, ...]
) -> Predictions:
    """The content of predictions.csv. Without an assigner, as in DVT, the cascade is what adapts."""
    first = table.first_views
    classes = {name: answer.videos.predicted.numpy() for name, answer in answers.items()}
    adaptive = next((name for name in ("assigned", "cascade") if name in answers), None)
    return Predictions(
        videos=[table.paths[n] for n in first.tolist()],
        truth=table.labels[first].numpy(),
        static={name: classes[name] for name in map(str, lengths) if name in classes},
        adaptive=classes[adaptive] if adaptive else None,
        chosen=answers[adaptive].lengths[first].numpy() if adaptive else None,
    )


def _results(
    job: Job, contest: Contest, table: Table, answers: Mapping[str, Answers], speeds: Mapping[str, Speed]
) -> dict[str, Any]:
    """The content of results.json."""
    lengths = [str(length) for length in contest.model.lengths]
    entries = {name: _entry(each, speeds.get(name), contest.costs, lengths) for name, each in answers.items()}
    if adaptive := entries.get("assigned"):
        adaptive |= {"assigner_gmacs": contest.costs.assigner, "threshold": contest.settings.threshold}
    if "cascade" in entries:
        entries["cascade"]["threshold"] = contest.settings.cascade_threshold
    return {
        "dataset": os.path.basename(os.path.normpath(job.cfg.DATA.PATH_TO_DATA_DIR)),
        "split": job.cfg.TEST.SPLIT,
        "clips": len(table.rows),
        "videos": len(table.first_views),
        "skipped": len(table.skipped),
        "classes": job.data.class_names,
        "lengths": lengths,
        "command": job.command,
        "seed": job.cfg.RNG_SEED,
        "views": job.views,
        "static": {name: entries[name] for name in lengths if name in entries},
        "adaptive": adaptive,
        "policies": {name: entries[name] for name in ("random", "cascade", "oracle") if name in entries},
        "clock": {"control": _speed(speeds[CONTROL])},
        "curves": _curves(table, contest) if lengths[0] in entries else {},
    }


def _entry(answers: Answers, speed: Speed | None, costs: Costs, lengths: list[str]) -> dict[str, Any]:
    """The figures of one policy; those of speed are left out where it was not timed."""
    entry = {
        "top1": answers.videos.topk(1),
        "top5": answers.videos.topk(5),
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


def _curves(table: Table, contest: Contest) -> dict[str, list[dict[str, float]]]:
    """The points that each threshold gives on these videos; the thresholds in use were chosen elsewhere.

    Those of a DVT are the ratio q of `exit_thresholds`.
    """
    costs = contest.costs
    curves = {"cascade": cascade_points(table, costs)}
    if "assigned" in contest.policies:
        curves["assigned"] = assigned_points(table, costs, contest.settings.per_view)
    drawn = {
        name: [{"threshold": p.threshold, "gmacs": p.gmacs, "top1": p.top1} for p in points]
        for name, points in curves.items()
    }
    # A random mix of two lengths lies on the line between them.
    top1 = static_top1(table, contest.model.lengths).values()
    drawn["random"] = [{"gmacs": g, "top1": t} for g, t in zip(costs.gmacs, top1, strict=True)][::-1]
    return drawn
