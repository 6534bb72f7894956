"""Counts multiply-accumulates and parameters at every token length; writes flops.json to OUTPUT_DIR."""

import os

import _environment  # noqa: F401

from revit_video import flops
from revit_video.cli import clear_errors, config_parser
from revit_video.from_cfg.model import build_assigner, build_model
from revit_video.from_cfg.resolve import load_checked, resolved
from revit_video.runtime import output_dir


def main() -> None:
    arguments = config_parser(__doc__).parse_args()
    with clear_errors():
        cfg = resolved(load_checked(arguments.cfg, arguments.opts))
        output_dir.ensure_writable(cfg.OUTPUT_DIR)
        views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        # A single length needs no assigner.
        assigner = build_assigner(cfg, random=True) if len(cfg.REVIT.TOKEN_LENGTHS) > 1 else None
        costs = flops.cost_table(build_model(cfg), views, assigner)
        path = os.path.join(cfg.OUTPUT_DIR, output_dir.FLOPS)
        output_dir.write_json(path, costs)
        print(flops.format_table(costs))
        print(path)


if __name__ == "__main__":
    main()
