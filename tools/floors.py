"""What a set of clips gives without learning to see: floors that an accuracy has to be compared with.

    python tools/floors.py VIDEOS [--group 'seq\\d+'] [--folds 10]

VIDEOS is a data folder with class folders or train.csv. Prints chance, the largest class, and the accuracy
out of fold of ridge regression on the middle frame's pixels and on motion energy (the mean size of the
difference between frames, over time and over an 8 x 8 grid).
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction

import _environment  # noqa: F401
import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.adaptive.folds import cut_into_folds
from revit_video.data.clips import ClipSampling, ViewGrid, eval_views
from revit_video.data.folders import DataFolder
from revit_video.data.groups import groups_of
from revit_video.data.lists import labelled_files
from revit_video.data.video import DecodeError
from revit_video.meters import topk
from revit_video.train.closed_form import out_of_fold

FRAMES, SIZE, GRID = 16, 32, 8


def described(clip: Tensor) -> tuple[Tensor, Tensor]:
    """The middle frame's pixels, and motion energy, of a uint8 clip `(3, T, H, W)`."""
    frames = clip.float().transpose(0, 1) / 255  # (T, 3, H, W)
    change = (frames[1:] - frames[:-1]).abs().mean(dim=1)  # (T - 1, H, W)
    over_grid = F.adaptive_avg_pool2d(change.mean(dim=0)[None], GRID).flatten()
    return frames[FRAMES // 2].flatten(), torch.cat([change.mean(dim=(1, 2)), over_grid])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos")
    parser.add_argument("--group", default="", help="as DATA.GROUP")
    parser.add_argument("--folds", type=int, default=10, help="as DATA.FOLDS")
    args = parser.parse_args()
    try:
        data = DataFolder(args.videos, {"train": 1.0})
        files = list(labelled_files(data.videos("train")))
        groups = groups_of([path for path, _ in files], args.group, args.videos)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sampling = ClipSampling(FRAMES, Fraction(1), sampling="uniform")
    read, kept = [], []
    for n, (path, _) in enumerate(files):
        try:
            read.append(described(eval_views(path, sampling, ViewGrid(SIZE, squash=True)).clips[0]))
            kept.append(n)
        except DecodeError as error:
            print(f"left out: {error}", file=sys.stderr)
    labels = torch.tensor([files[n][1] for n in kept])
    own = [groups[n] for n in kept]
    fold = cut_into_folds(own, labels.tolist(), min(args.folds, len(set(own))), 0)
    classes = int(labels.max()) + 1
    print(f"{len(kept)} clips, {classes} classes, {len(set(own))} groups")
    print(f"chance           {100 / classes:5.1f} %")
    print(f"largest class    {100 * int(labels.bincount().max()) / len(labels):5.1f} %")
    frame, motion = (torch.stack(part)[:, None] for part in zip(*read, strict=True))
    middle = out_of_fold(frame, labels, classes, [frame.shape[-1]], fold)
    energy = out_of_fold(motion, labels, classes, [FRAMES - 1, GRID**2], fold)
    print(f"middle frame     {topk(middle, labels, 1):5.1f} %")
    print(f"motion energy    {topk(energy, labels, 1):5.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
