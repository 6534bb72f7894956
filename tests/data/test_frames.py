"""Frames in memory are classified as the file that they come from."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

import revit_video
from revit_video.data.frames import FrameArray


def test_frames_of_a_file_give_the_files_answer(toy_run: Path, videos: Path) -> None:
    predictor = revit_video.load(toy_run, "cpu", clips=2)
    path = videos / "test" / "00000_left.mp4"
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    array = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    expected = predictor.predict(path)
    tensor = torch.from_numpy(array)
    for given in (frames, array, list(array), tensor, tensor.permute(0, 3, 1, 2)):
        answer = predictor.predict(given, fps=8)
        assert torch.equal(answer.logits, expected.logits) and answer.length == expected.length
    assert predictor.predict(array).longest_gmacs == pytest.approx(expected.longest_gmacs / 2)  # one clip


def test_frames_are_scaled_and_repeated() -> None:
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    frames[1] = 200
    clip = FrameArray(frames, 1).read([2, 1, 1], short_side=20)
    assert clip.shape == (3, 3, 20, 30)
    assert clip.float().mean(dim=(0, 2, 3)).tolist() == [0, 200, 200]


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3)), [], np.zeros((2, 8, 8, 4), np.uint8)]
)
def test_what_is_no_frames_is_refused(frames: object, toy_run: Path) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \(T, H, W, 3\)"):
        revit_video.load(toy_run, "cpu").predict(frames)
