"""Easy, medium and hard clips: examples at each chosen length (as in Fig. 6 of the paper)."""

from __future__ import annotations

import base64
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

import av
import matplotlib.image
import numpy as np
import torch

from revit_video.data.clips import open_video
from revit_video.data.isolate import isolated
from revit_video.data.video import DecodeError, decode_errors
from revit_video.report.files import Missing, Run

CLIPS, WRONG = 6, 2  # cards per length, and at most how many of them are mistakes
FRAMES_AT = (0.1, 0.5, 0.9)  # position in the video
SHORT_SIDE = 144  # pixels
UNREADABLE = 100  # videos that are tried beyond the cards: all may be gone
TIMEOUT = 10.0  # seconds for decoding a video
CLIP_SECONDS, CLIP_RATE = 4.0, 8.0  # of a playable clip: its beginning, in so many pictures a second
CLIP_BYTES = 3_600_000  # of all clips together, which the page holds as text, a third longer

Looks = tuple[list[bytes], bytes]  # frames as JPEGs, and a video


class Card(NamedTuple):
    """One video of the gallery; `frames` and `clip` are data URIs, and `clip` is empty if there is none."""

    right: bool
    truth: str
    said: str
    file: str
    frames: list[str]
    clip: str


class Examples(NamedTuple):
    """The videos that ran at one length: its position, and how many there are, in percent of all too."""

    position: int
    name: str
    length: str
    videos: int
    percent: float
    cards: list[Card]


def gallery(run: Run) -> list[Examples]:
    """Examples at each length, the shortest first; of videos of the data folder, and of no others.

    They are decoded in a child process, which may crash or hang on them.
    """
    predictions, own = run.predictions, run.own_videos
    if predictions.chosen is None:
        raise Missing("the adaptive policy was not run")
    decode = isolated(_looks, 0, 0, TIMEOUT)

    def looks(path: str) -> Looks:
        if path not in own:
            raise DecodeError(path, "not of the data folder")
        return decode(None, path)

    groups = []
    for position in reversed(range(len(run.lengths))):
        rows = np.flatnonzero(predictions.chosen == position)
        is_right = predictions.correct[rows]
        right = diverse(rows[is_right].tolist(), predictions.truth)
        wrong = diverse(rows[~is_right].tolist(), predictions.truth)
        few = _cards(run, wrong, WRONG, looks)
        cards = _cards(run, right, CLIPS - len(few), looks) + few
        name = {len(run.lengths) - 1: "Easy", 0: "Hard"}.get(position, "Medium")
        percent = 100 * len(rows) / len(predictions.videos)
        groups.append(Examples(position, name, str(run.lengths[position]), len(rows), percent, cards))
    return groups


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


def _cards(run: Run, rows: Iterator[int], most: int, looks: Callable[[str], Looks]) -> list[Card]:
    """Cards of the first `most` videos among `rows` that can be read; a few that cannot are passed over."""
    cards: list[Card] = []
    for row in islice(rows, most + UNREADABLE):
        if len(cards) == most:
            break
        with suppress(DecodeError):
            cards.append(_card(run, row, *looks(run.predictions.videos[row])))
    return cards


def _card(run: Run, row: int, frames: list[bytes], clip: bytes) -> Card:
    predictions, names = run.predictions, run.class_names
    most = CLIP_BYTES / (CLIPS * len(run.lengths))
    return Card(
        bool(predictions.correct[row]),
        names[predictions.truth[row]],
        names[predictions.predicted[row]],
        os.path.basename(predictions.videos[row]),
        [_data_uri("image/jpeg", frame) for frame in frames],
        _data_uri("video/mp4", clip) if 0 < len(clip) <= most else "",
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _looks(_: None, path: str) -> Looks:
    """Frames of a video as JPEGs, and its beginning as a small video; of an image itself alone."""
    with decode_errors(path), closing(open_video(path)) as video:
        count = len(video.times)
        places = (torch.tensor(FRAMES_AT) * count).long().unique()
        pictures = video.read(places.tolist(), SHORT_SIDE).permute(1, 2, 3, 0)
        jpegs = [_jpeg(picture) for picture in pictures]
        if count == 1:
            return jpegs, b""
        seconds = min(CLIP_SECONDS, float(video.duration))
        shown = torch.tensor([float(time) for time in video.times if time < seconds])
        wanted = torch.arange(max(2, round(seconds * CLIP_RATE))) / CLIP_RATE
        frames = torch.searchsorted(shown, wanted.clamp(max=float(shown[-1]))).unique().tolist()
        return jpegs, _mp4(video.read(frames, SHORT_SIDE).permute(1, 2, 3, 0).numpy(), len(frames) / seconds)


def _mp4(pictures: np.ndarray, rate: float) -> bytes:
    """A small H.264 video, the same for the same pictures; nothing where there is no encoder."""
    data, (height, width) = io.BytesIO(), (side - side % 2 for side in pictures.shape[1:3])
    # x264's macroblock tree reads memory that nobody wrote, so that its files differ each time.
    options = {"crf": "30", "threads": "1", "x264-params": "mbtree=0"}
    try:
        with av.open(data, "w", format="mp4") as output:
            stream = output.add_stream("libx264", Fraction(rate).limit_denominator(1000), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for picture in pictures[:, :height, :width]:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    except (av.FFmpegError, ValueError):  # such as an ffmpeg without H.264
        return b""
    return data.getvalue()


def _jpeg(frame: torch.Tensor) -> bytes:
    data = io.BytesIO()
    matplotlib.image.imsave(data, frame.numpy(), format="jpg", pil_kwargs={"quality": 88})
    return data.getvalue()
