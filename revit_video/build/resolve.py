"""What a config leaves open, filled in from the data and from the checkpoint that a run starts from."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from revit_video.build.data import num_classes

MEAN, STD = [0.45] * 3, [0.225] * 3  # TimeSformer's


def resolved(cfg: CfgNode) -> CfgNode:
    """`cfg` with `MODEL.NUM_CLASSES`, `DATA.MEAN` and `DATA.STD` given, frozen.

    Raises:
        ValueError: NUM_CLASSES is 0 and the data folder names no classes.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.NUM_CLASSES = cfg.MODEL.NUM_CLASSES or num_classes(cfg)
    cfg.DATA.MEAN = cfg.DATA.MEAN or MEAN
    cfg.DATA.STD = cfg.DATA.STD or STD
    cfg.freeze()
    return cfg
