"""The paper's own figures, by its numbers of tables and figures; none was measured here.

Source: Zhu et al. (2021), "Make A Long Image Short: Adaptive Token Length for Vision Transformers",
arXiv 2112.01686.
"""

from __future__ import annotations

from typing import NamedTuple

LENGTHS = ("14x14", "10x10", "7x7")

IMAGES = "DeiT-S on ImageNet-1K, top-1 in percent at 14x14, 10x10 and 7x7"
VIDEOS = (
    "TimeSformer on Kinetics-400, pretrained on ImageNet-1K; TFLOPs are multiply-accumulates of three views"
)


class Table1(NamedTuple):
    """Top-1 in percent and TFLOPs of three views; `saved` is in percent of the cost, as section 4 says."""

    baseline: tuple[float, float]
    adaptive: tuple[float, float]
    saved: int


TABLE1 = (
    Table1((75.8, 0.59), (75.3, 0.39), 33),
    Table1((77.8, 5.11), (77.4, 3.68), 28),  # HR
)

# Table 2: top-1 in percent at LENGTHS.
SINGLES = (79.85, 74.68, 72.41)
NO_DISTILLATION = (80.12, 74.24, 70.15)
TAU = {0.5: (79.92, 76.16, 71.33), 0.9: (79.83, 76.86, 74.21)}

# Table 3. A tick in its columns means an own embedding for each length: its last row is Table 2's.
SHARED_PATCH = (65.14, 61.30, 58.35)
SHARED_POSITION = (75.24, 71.32, 69.73)
NEITHER_SHARED = (79.83, 76.85, 74.21)

# Fig. 5 and section 4, on an RTX 3090 at batch 32, ImageNet-1K.
OPERATING_POINTS = (
    "DeiT-S, lengths 14x14, 10x10, 7x7: 50 % more images/s at 0.3 points less than always 14x14",
    "LV-ViT-S at 448 px: 0.2 points more than LV-ViT-S at 384 px, and slightly faster",
)
