"""What a frozen backbone gives for the clips of a list: computed once, kept for all later runs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video.data.batch import Skipped
from revit_video.data.lists import labelled_files
from revit_video.data.shards import local_file, open_bytes, shard_part
from revit_video.from_cfg.identity import CLIPS, settings
from revit_video.from_cfg.inputs import eval_batches
from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError, weights_digest
from revit_video.models.frozen import FrozenReViT
from revit_video.runtime.logging import progress
from revit_video.stages.job import Job
from revit_video.stages.watch import timed

VERSION = 2  # of what `describe` and decoding make of a file; another number makes everything kept void
OF_TRAINING = (
    *("num_classes", "drop_rate", "drop_path", "drop_path_per"),
    *("init", "qk_init_gain", "act_checkpoint"),
)
"""Settings of a model that change nothing of what the backbone gives."""
OfLengths = list[Tensor]  # of one clip: for each length, longest first, `(views, D_i)`

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """What the heads read of N clips, those of a list that could be read.

    Attributes:
        rows, labels: position in the list, and class label `(N,)`.
        values: for each length, longest first, `(N, views, D_i)`; the first view is that of the test.
        skipped: unreadable videos.
    """

    paths: list[str]
    rows: Tensor
    labels: Tensor
    values: list[Tensor]
    skipped: list[Skipped]


def features_of(job: Job, model: FrozenReViT, videos: LabeledVideoPaths) -> Features:
    """The features of all clips of a list, in its order: those that are kept, and new ones of the others.

    Args:
        model: as `from_cfg.model.reader` gives it.

    Raises:
        ValueError: no clip can be read, or too few.
    """
    paths, labels = zip(*labelled_files(videos), strict=True)
    own = range(job.ranks.rank, len(paths), job.ranks.world_size)
    kept = FeatureFolder(job, model)
    names = {row: name for row in own if kept.folder and (name := kept.name(paths[row]))}
    found = {row: values for row in names if (values := kept.read(names[row])) is not None}
    missing = [row for row in own if row not in found]
    if len(missing) < len(own):
        logger.info("features of %d of %d files are found in %s", len(found), len(own), kept.folder)
    skipped: list[Skipped] = []
    for row, values in _computed(job, model, videos, missing, skipped):
        found[row] = values
        if kept.folder and row in names:
            kept.write(names[row], values)
    everywhere = {row: values for share in job.ranks.gather(found) for row, values in share.items()}
    rows = sorted(everywhere)
    all_skipped = job.gathered(skipped)
    job.record_skipped("features", all_skipped)
    if not rows:
        raise ValueError(f"no file of the list can be read; the first: {': '.join(all_skipped[0])}")
    return Features(
        [paths[row] for row in rows],
        torch.tensor(rows),
        torch.tensor([labels[row] for row in rows]),
        [torch.stack(values) for values in zip(*(everywhere[row] for row in rows), strict=True)],
        all_skipped,
    )


def _computed(
    job: Job, model: FrozenReViT, videos: LabeledVideoPaths, rows: list[int], skipped: list[Skipped]
) -> Iterator[tuple[int, OfLengths]]:
    """The features of some rows, each as soon as it is there; unreadable videos are appended to `skipped`."""
    cfg = job.cfg
    if not rows:
        return
    batches = eval_batches(cfg, videos, job.ranks, 1, 1, rows=rows)
    with job.recording("features"), progress(batches, len(batches), "features", job.ranks.is_main) as bar:
        for batch in timed(bar, len(batches), "reading the clips", job.ranks.device):
            job.termination.look()
            skipped += batch.skipped
            if not len(batch):
                continue
            clips = batch.clips.to(model.dtype)
            with torch.inference_mode():
                views = [model.descriptions(clips)]
                if cfg.DATA.RANDOM_FLIP:
                    views.append(model.descriptions(clips.flip(-1)))
            lengths = [torch.stack(each, dim=1).float().cpu() for each in zip(*views, strict=True)]
            for n, row in enumerate(batch.rows.tolist()):
                yield row, [each[n].clone() for each in lengths]


class FeatureFolder:
    """A folder of features, one file for each clip and way of reading it; a name follows from both contents.

    Attributes:
        folder: empty to keep none.
    """

    def __init__(self, job: Job, model: FrozenReViT) -> None:
        cfg = job.cfg
        self.folder = cfg.TRAIN.FEATURES
        if not self.folder:
            return
        weights = {name: w for name, w in model.state_dict().items() if not name.startswith("heads.")}
        way = settings(cfg, (*CLIPS, "DATA.TEST_SCALE", "DATA.DECODING_BACKEND", "DATA.RANDOM_FLIP"))
        model_words = {k: v for k, v in model.config.to_dict().items() if k not in OF_TRAINING}
        words = f"{VERSION} {weights_digest(weights)} {model_words} {sorted(way.items())}"
        self.folder = os.path.join(self.folder, hashlib.sha256(words.encode()).hexdigest()[:16])
        views = 2 if cfg.DATA.RANDOM_FLIP else 1
        self._shapes = [(views, head.in_features) for head in model.heads]

    def name(self, path: str) -> str:
        """The file for the clip at `path`; empty if that cannot be read."""
        part, sha = shard_part(path), hashlib.sha256()
        try:
            whole = local_file(path)  # no pipe
            with open_bytes(part) if part else open(whole, "rb") as file:
                while some := file.read(1 << 20):
                    sha.update(some)
        except (OSError, ValueError):
            return ""
        return os.path.join(self.folder, sha.hexdigest()[:32])

    def read(self, name: str) -> OfLengths | None:
        """What was kept, None if nothing was, or if it is damaged or something else."""
        with suppress(CheckpointError):
            values = checkpoint.load_payload(name).get("features")
            if isinstance(values, list) and all(isinstance(value, Tensor) for value in values):
                usable = all(value.dtype == torch.float32 and value.isfinite().all() for value in values)
                if usable and [tuple(value.shape) for value in values] == self._shapes:
                    return values
        return None

    def write(self, name: str, values: OfLengths) -> None:
        """Keeps the features of a clip, if there is room for them."""
        own = f"{name}.{os.getpid()}"  # another run may be writing the same
        try:
            checkpoint.save(own, {"features": values})
            os.replace(own, name)
        except (CheckpointError, OSError) as error:
            logger.warning("features are not kept from here on: %s", error)
            self.folder = ""
