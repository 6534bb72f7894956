"""The subject of the test: a trained model, its assigner, and the policies with their operating points."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fvcore.common.config import CfgNode

from revit_video import flops
from revit_video.adaptive import policies
from revit_video.adaptive.engine import Engine
from revit_video.adaptive.kept import read_calibration
from revit_video.adaptive.policies import Costs, Policy, Settings
from revit_video.from_cfg.identity import Record, assigner_record, check_same
from revit_video.from_cfg.inputs import eval_batch_size
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.untrusted import believed
from revit_video.runtime import output_dir
from revit_video.stages.assign import Assigner
from revit_video.stages.calibration import (
    calibrated_here,
    cascade_threshold,
    costs_in_wish,
    takes_hybrid,
)
from revit_video.stages.job import Job, Trained
from revit_video.stages.solve import answers_out_of_fold

NEED_ASSIGNER = {"assigned", "random"}  # for its choice, its mix of lengths
NEED_CALIBRATION = NEED_ASSIGNER | {"hybrid", "cascade"}  # which was done with the assigner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """A model and the policies to compare.

    Attributes:
        model: as `Trained.reader` gives it.
        assigner: as it was trained; `reading_assigner` is what runs.
        policies: by name; a static policy has the name of its length.
        cost_table: see `flops.cost_table`.
        batch_size: views in one pass of this rank.
        record: the assigner's, see `Assigner`.
    """

    model: ResizableModel
    assigner: TokenLengthAssigner | None
    settings: Settings
    policies: dict[str, Policy]
    cost_table: dict[str, Any]
    batch_size: int
    record: Record | None = None

    @property
    def costs(self) -> Costs:
        return Costs.from_table(self.cost_table, self.model.carries_state)

    def engine(self, policy: Policy) -> Engine:
        """Runs `policy` on the model."""
        return Engine(self.model, policy, self.costs, self.reading_assigner, self.batch_size)

    @cached_property
    def reading_assigner(self) -> TokenLengthAssigner | None:
        """The copy of the assigner for inference."""
        return None if self.assigner is None else self.assigner.for_inference()

    def engines(self) -> dict[str, Engine]:
        """Every policy's but the oracle's, which cannot run; the first is always the longest length's."""
        longest = {str(self.model.lengths[0]): policies.static(0)}
        runnable = {name: policy for name, policy in self.policies.items() if name != "oracle"}
        return {name: self.engine(policy) for name, policy in (longest | runnable).items()}

    def payload(self) -> dict[str, Any]:
        """The parts of a checkpoint for the assigner and the settings, those that there are."""
        if self.assigner is not None:
            return checkpoint.assigner_payload(self.assigner, self.settings.to_dict(), self.record)
        return {"policy": self.settings.to_dict()} if self.settings != Settings() else {}


def compare(job: Job, trained: Trained, assigned: Assigner | None = None) -> Comparison:
    """The policies that `TEST.POLICIES` names, those that need an assigner only where there is one.

    Args:
        assigned: as `assign` gives it; None: from OUTPUT_DIR, if there is one.

    Raises:
        ValueError: there is nothing to test.
    """
    cfg, model, reader = job.cfg, trained.model, trained.reader
    assigner, settings, cost_table = None, Settings(), trained.costs
    if set(cfg.TEST.POLICIES) & NEED_CALIBRATION:
        assigned = assigned or _assigner(job, trained)
        if assigned is not None:
            assigner, cost_table = assigned.network, assigned.costs
            settings = assigned.settings
        else:
            settings = _without_assigner(job, trained, Costs.from_table(cost_table, model.carries_state))
    found = policies_of(cfg, settings, model)
    if not found:
        raise ValueError(
            f"TEST.POLICIES {cfg.TEST.POLICIES}: nothing to test without an assigner "
            f"({job.path(output_dir.ASSIGNER)}) or, for the cascade, a list to calibrate it on"
        )
    batch_size = eval_batch_size(cfg, job.ranks, job.views) * job.views
    record = assigned.record if assigned is not None else None
    return Comparison(reader, assigner, settings, found, cost_table, batch_size, record)


def policies_of(cfg: CfgNode, settings: Settings, model: ResizableModel) -> dict[str, Policy]:
    """The policies that `TEST.POLICIES` names, by name, as far as there are settings for them."""
    found = settings.policies(len(model.lengths), cfg.RNG_SEED)
    found |= {str(length): policies.static(i) for i, length in enumerate(model.lengths)}
    found["oracle"] = policies.oracle()
    wanted = list(cfg.TEST.POLICIES)
    if {"static", "oracle"} & set(wanted):
        wanted += map(str, model.lengths)
    return {name: policy for name, policy in found.items() if name in wanted}


def _assigner(job: Job, trained: Trained) -> Assigner | None:
    """The assigner in OUTPUT_DIR, None if there is none."""
    path = job.path(output_dir.ASSIGNER)
    if not os.path.isfile(path):
        if set(job.cfg.TEST.POLICIES) & NEED_ASSIGNER:
            logger.warning("%s: no assigner, so only policies that need none are tested", path)
        return None
    saved = checkpoint.read_assigner(path, len(job.cfg.REVIT.TOKEN_LENGTHS))
    made, now = saved.record("assigner"), assigner_record(job.cfg, trained.weights, job.data.class_names)
    check_same(made, now, f"{path} was trained", "train the assigner again, or remove it")
    network = saved.assigner()
    assert network is not None
    network = network.to(job.ranks.device)
    costs = flops.with_assigner(trained.costs, trained.model, network)
    with believed(path, "policy"):
        chosen = Settings.of(saved.settings)
    own = Costs.from_table(costs, trained.model.carries_state)
    wished = _as_wished(job, chosen, own, trained.reader, network.for_inference())
    return Assigner(network, wished, costs, made)


def _as_wished(
    job: Job, chosen: Settings, costs: Costs, reader: ResizableModel, network: TokenLengthAssigner
) -> Settings:
    """The settings chosen with the assigner, or others if `ADAPTIVE` is not what it was then."""
    kept = read_calibration(job.path(output_dir.CALIBRATION))
    if kept is None:
        logger.warning(
            "no %s, as in older runs: the thresholds stay those chosen with the assigner, whatever "
            "ADAPTIVE.MAX_DROP, SAFETY, BUDGET, LATENCY_MS and CERTIFY say; with ASSIGNER.ENABLE they are "
            "chosen again",
            output_dir.CALIBRATION,
        )
        return _overridden(job.cfg, chosen)
    adaptive = job.cfg.ADAPTIVE
    changed = [f"ADAPTIVE.{key}" for key, value in adaptive.items() if kept.adaptive.get(key, value) != value]
    if not changed:
        return chosen
    logger.info("%s changed: operating points are chosen again, on the same videos", ", ".join(changed))
    return calibrated_here(job.cfg, kept.table, costs, reader, network, job.ranks)


def _overridden(cfg: CfgNode, chosen: Settings) -> Settings:
    """The settings chosen with the assigner, with those that the config fixes."""
    adaptive = cfg.ADAPTIVE
    threshold = None if adaptive.POLICY == "argmax" else adaptive.THRESHOLD or chosen.threshold
    if adaptive.POLICY != "argmax" and threshold is None:
        raise ValueError(
            "ADAPTIVE.POLICY cumulative: no threshold was chosen with this assigner, which used argmax; "
            "give ADAPTIVE.THRESHOLD, or train the assigner again"
        )
    return replace(
        chosen,
        threshold=threshold,
        per_view=adaptive.DECISION == "view",
        cascade_threshold=adaptive.CASCADE_THRESHOLD or chosen.cascade_threshold,
    )


def _without_assigner(job: Job, trained: Trained, costs: Costs) -> Settings:
    """The settings of `hybrid` and `cascade`, as far as they are tested, chosen on the validation list.

    Those that the config fixes alone, where there is no such list.
    """
    cfg = job.cfg
    fixed, wanted = Settings(cascade_threshold=cfg.ADAPTIVE.CASCADE_THRESHOLD or None), cfg.TEST.POLICIES
    hybrid = "hybrid" in wanted and takes_hybrid(cfg)
    if not hybrid and ("cascade" not in wanted or fixed != Settings()):
        return fixed
    fold = None
    if cfg.DATA.FOLDS:
        table, fold, _ = answers_out_of_fold(job, trained)
    else:
        try:
            batches = job.test_batches("val")
        except (ValueError, OSError) as error:
            logger.warning("no list to calibrate hybrid and cascade on, so they are not tested: %s", error)
            return fixed
        table = job.tabulate(trained.reader, "val", batches)
    if hybrid:
        return calibrated_here(cfg, table, costs, trained.reader, None, job.ranks, fold)
    costs = costs_in_wish(cfg, costs, trained.reader, None, job.ranks)
    threshold = job.ranks.from_main(lambda: cascade_threshold(cfg, table, costs))
    return Settings(cascade_threshold=threshold)
