"""Easy, medium and hard clips: examples at each chosen length (as in Fig. 6 of the paper)."""

from __future__ import annotations

import base64
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice

import matplotlib.image
import numpy as np
import torch

from revit_video.data.clips import open_video
from revit_video.data.isolate import isolated
from revit_video.data.video import DecodeError, decode_errors, is_image
from revit_video.report.files import Missing, Run
from revit_video.report.style import length_colours
from revit_video.report.template import as_html

CLIPS, WRONG = 6, 2  # cards per length, and at most how many of them are mistakes
FRAMES_AT = (0.1, 0.5, 0.9)  # position in the video
SHORT_SIDE = 144  # pixels
UNREADABLE = 100  # videos that are tried beyond the cards: all may be gone
TIMEOUT = 10.0  # seconds for decoding a video


def gallery(run: Run) -> str:
    """HTML of the gallery, shortest length first; of videos of the data folder, and of no others.

    They are decoded in a child process, which may crash or hang on them.
    """
    predictions, own = run.predictions, run.own_videos
    if predictions.chosen is None:
        raise Missing("the adaptive policy was not run")
    decode = isolated(_jpegs, 0, 0, TIMEOUT)

    def frames(path: str) -> list[bytes]:
        if path not in own:
            raise DecodeError(path, "not of the data folder")
        return decode(None, path)

    parts = []
    for position in reversed(range(len(run.lengths))):
        rows = np.flatnonzero(predictions.chosen == position)
        is_right = predictions.correct[rows]
        right = diverse(rows[is_right].tolist(), predictions.truth)
        wrong = diverse(rows[~is_right].tolist(), predictions.truth)
        few = _cards(run, wrong, WRONG, frames)
        cards = _cards(run, right, CLIPS - len(few), frames) + few
        name = {len(run.lengths) - 1: "Easy", 0: "Hard"}.get(position, "Medium")
        share = 100 * len(rows) / len(predictions.videos)
        kind = "cards images" if is_image(predictions.videos[0]) else "cards"
        shown = (
            f'<div class="{kind}">{"".join(cards)}</div>'
            if cards
            else "<p>None that can be read in the data folder.</p>"
        )
        colour = length_colours(run.lengths)[position]
        parts.append(
            f'<h3><span class="chip" style="background:{colour}">{run.lengths[position]}</span> {name} '
            f"<small>{len(rows):,} videos, {share:.0f} %</small></h3>{shown}"
        )
    return "".join(parts)


def diverse(rows: list[int], truth: np.ndarray) -> Iterator[int]:
    """`rows` reordered so that any first few of them show as many classes as possible, far apart."""
    of_class = defaultdict(list)
    for row in rows:
        of_class[int(truth[row])].append(row)
    stride = max(1, len(of_class) // CLIPS)
    classes = sorted(of_class)
    classes = [c for first in range(stride) for c in classes[first::stride]]
    for turn in range(max(map(len, of_class.values()), default=0)):
        yield from (of_class[c][turn] for c in classes if turn < len(of_class[c]))


def _cards(run: Run, rows: Iterator[int], most: int, frames: Callable[[str], list[bytes]]) -> list[str]:
    """Cards of the first `most` videos among `rows` that can be read; a few that cannot are passed over."""
    cards: list[str] = []
    for row in islice(rows, most + UNREADABLE):
        if len(cards) == most:
            break
        with suppress(DecodeError):
            cards.append(_card(run, row, frames(run.predictions.videos[row])))
    return cards


def _card(run: Run, row: int, frames: list[bytes]) -> str:
    predictions, names = run.predictions, run.class_names
    images = "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(frame).decode()}">' for frame in frames
    )
    truth, predicted = (as_html(names[of[row]]) for of in (predictions.truth, predictions.predicted))
    right = bool(predictions.correct[row])
    verdict = f"{truth} ✓" if right else f"{truth}, taken for {predicted} ✗"
    return (
        f'<figure class="card {"right" if right else "wrong"}"><div class="frames">{images}</div>'
        f"<figcaption><b>{verdict}</b><span>{as_html(os.path.basename(predictions.videos[row]))}</span>"
        "</figcaption></figure>"
    )


def frames_of(path: str) -> torch.Tensor:
    """Frames of a video at `FRAMES_AT`, or the one of an image, uint8 `(T, H, W, 3)`.

    Raises:
        DecodeError: the file cannot be read.
    """
    with decode_errors(path), closing(open_video(path)) as video:
        frames = (torch.tensor(FRAMES_AT) * len(video.times)).long().unique().tolist()
        return video.read(frames, SHORT_SIDE).permute(1, 2, 3, 0)


def _jpegs(_: None, path: str) -> list[bytes]:
    return [_jpeg(frame) for frame in frames_of(path)]


def _jpeg(frame: torch.Tensor) -> bytes:
    data = io.BytesIO()
    matplotlib.image.imsave(data, frame.numpy(), format="jpg", pil_kwargs={"quality": 88})
    return data.getvalue()
