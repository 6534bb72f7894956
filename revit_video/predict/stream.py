"""Many files through a model: decoded in workers, batched by token length across files, answered in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.adaptive.engine import Prediction
from revit_video.data.batch import Batch
from revit_video.data.clips import ClipSampling, VideoViews, ViewGrid, eval_views
from revit_video.data.datasets import EvalClips
from revit_video.data.loader import EvalBatches, Loading
from revit_video.data.video import DecodeError
from revit_video.predict import check_kind
from revit_video.runtime.machine import usable_cores

if TYPE_CHECKING:
    from revit_video.predict import Predictor, VideoPrediction

HELD = 16  # batches whose answers may wait for an earlier file, whose bucket is not full
FILES_PER_WORKER = 8  # fewer do not pay for another worker


def answers_in_order(
    predictor: Predictor, paths: Sequence[str], batch_size: int, num_workers: int | None
) -> Iterator[VideoPrediction | DecodeError]:
    """See `Predictor.predict_many`."""
    size = max(1, batch_size // predictor.grid.num_views)
    engine = predictor.new_engine(batch_size)
    answers = _Answers(predictor, paths)
    for batch in file_batches(predictor, paths, size, num_workers):
        answers.note(batch, size)
        if len(batch):
            answers.add(engine.submit(batch.clips, batch.rows))
        if answers.held > HELD * size:
            answers.add(engine.flush())
        yield from answers.ready()
    answers.add(engine.flush())
    yield from answers.ready()


def file_batches(
    predictor: Predictor, paths: Sequence[str], size: int, num_workers: int | None
) -> EvalBatches:
    """The views of files, `size` files in a batch; see `Predictor.predict_many`."""
    if num_workers is None:
        num_workers = min(usable_cores(), len(paths) // FILES_PER_WORKER)
    files = _Files(
        LabeledVideoPaths([(p, 0) for p in paths]), predictor.sampling, predictor.grid, predictor.timeout
    )
    loading = Loading(predictor.device, num_workers, max_skipped=1.0)
    return EvalBatches(files, range(len(paths)), size, predictor.normalize, loading)


def file_views(path: str, sampling: ClipSampling, grid: ViewGrid) -> VideoViews:
    """`eval_views` of a file that is to be classified.

    Raises:
        DecodeError: it cannot be read, or is an image for a model of videos.
    """
    check_kind(path, sampling)
    return eval_views(path, sampling, grid)


class _Files(EvalClips):
    """Files to classify, which nobody has looked at before."""

    def _views(self, row: int, path: str) -> VideoViews:
        return file_views(path, self._sampling, self._grid)


class _Answers:
    """Views of many files, put together to answers in the order of the files."""

    def __init__(self, predictor: Predictor, paths: Sequence[str]) -> None:
        self._predictor, self._paths = predictor, paths
        self._row_of: list[int] = []  # of each view, by its number
        self._views: dict[int, list[Prediction]] = {}  # by row, of files that wait for some of their views
        self._done: dict[int, Prediction | DecodeError] = {}
        self._read = self._given = 0

    @property
    def held(self) -> int:
        """Files that were read and not answered yet."""
        return self._read - self._given

    def note(self, batch: Batch, size: int) -> None:
        """A batch of the next `size` files is about to be submitted."""
        rows = batch.rows.tolist()
        self._row_of += rows
        first, self._read = self._read, min(self._read + size, len(self._paths))
        reasons = dict(batch.skipped)
        for row in set(range(first, self._read)) - set(rows):
            path = self._paths[row]
            self._done[row] = DecodeError(path, reasons[path])

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Predictions of some views."""
        for part in predictions:
            for view in part.views():
                row = self._row_of[int(view.numbers)]
                views = self._views.setdefault(row, [])
                views.append(view)
                if len(views) == self._predictor.grid.num_views:
                    self._done[row] = Prediction.joined(self._views.pop(row))

    def ready(self) -> Iterator[VideoPrediction | DecodeError]:
        """The answers whose turn it is: the guard against drift sees them in order, short ones not first."""
        while self._given in self._done:
            done, path = self._done.pop(self._given), self._paths[self._given]
            self._given += 1
            yield done if isinstance(done, DecodeError) else self._predictor.answer(path, done)
