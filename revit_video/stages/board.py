"""What TensorBoard shows of a test: its results, the keys that led to them, the config, the confusions."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image

from revit_video.config import dump_cfg, get_cfg
from revit_video.config.load import leaf_keys
from revit_video.config.rules import get
from revit_video.report.results_table import policy_results
from revit_video.runtime import output_dir
from revit_video.stages.job import Job

FIGURES = ("top1", "top5", "mAP", "gmacs", "clips_per_sec", "speedup")
PLACES = ("OUTPUT_DIR", "DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX")  # say where, not how

logger = logging.getLogger(__name__)


def show_on_board(job: Job, results: dict[str, Any]) -> None:
    """Write the results of a test to its folder in tensorboard/, where `TENSORBOARD.ENABLE` asks for it."""
    if not job.cfg.TENSORBOARD.ENABLE:
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

    policies = policy_results(results)
    figures = {
        f"{figure}/{name}": value
        for name, one in policies.items()
        for figure in FIGURES
        if (value := getattr(one, figure)) is not None
    }
    try:
        # A test that is repeated takes the place of the one before.
        with SummaryWriter(job.results_path(output_dir.TENSORBOARD, "test"), purge_step=0) as board:
            board.add_text("command", f"    {results['command']}")
            board.add_text("config", "\n".join(f"    {line}" for line in dump_cfg(job.cfg).splitlines()))
            shown = {f"test {name}": value for name, value in figures.items() if name.endswith("/adaptive")}
            for name, value in figures.items():
                if f"test {name}" not in shown:
                    board.add_scalar(f"test {name}", value, 0)
            # Writes what it shows as scalars, too.
            board.add_hparams(hyperparameters(job.cfg), shown, run_name=".", global_step=0)
            confusions = job.results_path(output_dir.CONFUSION_PICTURE)
            if os.path.isfile(confusions):
                with Image.open(confusions) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                board.add_image("confusion", pixels, 0, dataformats="HWC")
    except OSError as error:  # a full disk: the results themselves are there
        logger.warning("%s: %s", output_dir.TENSORBOARD, error)


def hyperparameters(cfg: CfgNode) -> dict[str, bool | int | float | str]:
    """The keys that are not as by default, and the seed."""
    defaults, found = get_cfg(), {}
    for key in leaf_keys(cfg):
        value = get(cfg, key)
        if key not in PLACES and (value != get(defaults, key) or key == "RNG_SEED"):
            found[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
