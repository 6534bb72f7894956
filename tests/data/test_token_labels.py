"""Label maps and what they tell of crops, checked by colours that tell a pixel's place."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import DataLoader

from revit_video.data.batch import Batch, collate
from revit_video.data.clips import ClipSampling
from revit_video.data.datasets import TrainClips
from revit_video.data.order import TrainOrder
from revit_video.data.token_labels import TokenLabelMaps, TokenLabels
from revit_video.data.transforms import TrainTransform
from revit_video.data.video import DecodeError
from revit_video.length import Box, TokenLength
from tests.label_maps import GRID, constant_map, label_map, write_map

LENGTHS = [TokenLength(side, side) for side in (14, 10, 7)]
CLASSES = 6
EVERYTHING = (0.0, 0.0, 1.0, 1.0)


def tokens(content: torch.Tensor, box: Box, length: TokenLength) -> torch.Tensor:
    """Shares `(h, w, classes)` in the tokens of one crop."""
    labels = TokenLabels(content.float().unsqueeze(0), torch.tensor([box]))
    return labels.at(length, CLASSES).view(length.h, length.w, CLASSES)


def centres(start: float, end: float, cells: int) -> torch.Tensor:
    return start + (end - start) * (torch.arange(cells) + 0.5) / cells


# ---- From maps to tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "box", [EVERYTHING, (0, 0, 1, 0.5), (0, 1, 1, 0.2), (0.3, 0.1, 0.9, 0.7), (0.25, 0.6, 0.6, 0.1)]
)
def test_tokens_show_the_quarter_that_they_lie_in(length: TokenLength, box: Box) -> None:
    """Classes 0 and 1 above 2 and 3; a box whose left is larger than its right is a mirrored crop."""
    half = (torch.arange(GRID) >= GRID // 2).long()
    quarters = F.one_hot(2 * half.unsqueeze(1) + half, 5).permute(2, 0, 1)
    shown = tokens(label_map(9.0 * quarters), box, length)
    down, across = centres(box[0], box[2], length.h), centres(box[1], box[3], length.w)
    high, wide = ((abs(box[i + 2] - box[i]) / length.w + 1 / GRID) / 2 for i in (0, 1))
    clear = ((down - 0.5).abs() > high).unsqueeze(1) & ((across - 0.5).abs() > wide)  # of the border
    expected = 2 * (down > 0.5).long().unsqueeze(1) + (across > 0.5).long()
    assert clear.float().mean() > 0.3
    assert torch.equal(shown.argmax(dim=2)[clear], expected[clear])


def test_a_constant_map_says_the_same_everywhere() -> None:
    expected = F.softmax(torch.tensor([0.0, 0, 0, 7, 0, 0]), dim=0)
    for length in LENGTHS:
        for box in (EVERYTHING, (0.1, 0.9, 0.8, 0.3), (0.95, 0.0, 1.0, 0.04)):
            shown = tokens(constant_map(3, 7.0), box, length)
            torch.testing.assert_close(shown, expected.expand_as(shown))


def test_scores_are_averaged_before_the_softmax() -> None:
    """By hand: 2 x 2 cells score 1, 2, 3, 6 for class 4, one 8 for class 1; a class that is not named, 0."""
    scores = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 8.0]]])
    classes = torch.tensor([[[4.0, 4.0], [4.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    shown = tokens(torch.stack([scores, classes]), EVERYTHING, TokenLength(1, 1))
    torch.testing.assert_close(shown[0, 0], F.softmax(torch.tensor([0.0, 2, 0, 0, 3, 0]), dim=0))


# ---- Reading ---------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Twelve images of different sizes in two classes; R and G are the place across and down, B the number.

    Their maps say the same: the scores of classes 0, 1 and 2 are 8 times the place, and the number.
    """
    generator = np.random.default_rng(0)
    paths = []
    for number in range(12):
        height, width = generator.integers(60, 120, 2)
        place = np.empty((height, width, 3))
        place[..., 0] = (np.arange(width) + 0.5) / width
        place[..., 1] = ((np.arange(height) + 0.5) / height)[:, None]
        place[..., 2] = number / 12
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * place).round().astype(np.uint8)).save(path)
        cells = centres(0, 1, GRID).expand(GRID, GRID)
        scores = torch.stack([8 * cells, 8 * cells.T, torch.full_like(cells, number), 0 * cells, 0 * cells])
        write_map(tmp_path / "maps", path, label_map(scores))
        paths.append(path)
    return paths


SPEC = ClipSampling(num_frames=1, duration=Fraction(1))


def epoch(images: list[Path], transform: TrainTransform, workers: int) -> list[Batch]:
    maps = TokenLabelMaps(str(images[0].parents[2] / "maps"), list(map(str, images)), CLASSES)
    videos = LabeledVideoPaths([(str(path), n % 2) for n, path in enumerate(images)])
    clips = TrainClips(videos, SPEC, transform, seed=3, timeout=20 if workers else None, label_maps=maps)
    order = TrainOrder(len(clips), batch_size=3, seed=3)
    return list(DataLoader(clips, 3, sampler=order, num_workers=workers, collate_fn=collate))


@pytest.mark.parametrize(
    "transform",
    [TrainTransform((), 56, flip=True, areas=(0.2, 1)), TrainTransform((56, 90), 56, flip=True)],
    ids=["any area", "any scale"],
)
def test_the_labels_of_tokens_are_those_of_their_pixels(
    transform: TrainTransform, images: list[Path]
) -> None:
    """Through a real folder, two workers and their decoders: right image, right crop, right flip."""
    mirrored = 0
    for batch in epoch(images, transform, workers=2):
        assert batch.token_labels is not None and len(batch.token_labels.boxes) == len(batch) == 3
        mirrored += (batch.token_labels.boxes[:, 1] > batch.token_labels.boxes[:, 3]).sum().item()
        for length in LENGTHS:
            shares = batch.token_labels.at(length, CLASSES)
            scores = shares.log()[..., :3] - shares.log()[..., 5:]  # class 5 is in no map: its score is 0
            told = scores.transpose(1, 2).unflatten(2, (length.h, length.w))
            seen = F.adaptive_avg_pool2d(batch.clips[:, :, 0] / 255, (length.h, length.w))
            assert (told[:, :2] / 8 - seen[:, :2]).abs().max() < 0.04
            assert (told[:, 2] / 12 - seen[:, 2]).abs().max() < 0.01
    assert 2 < mirrored < 10


def test_label_maps_change_no_pixels(images: list[Path]) -> None:
    transform = TrainTransform((), 56, flip=True, areas=(0.2, 1), brightness=0.3)
    videos = LabeledVideoPaths([(str(path), 0) for path in images])
    plain = TrainClips(videos, SPEC, transform, seed=3)
    for batch in epoch(images, transform, workers=0):
        alone = collate([plain[0, row] for row in batch.rows.tolist()])
        assert torch.equal(batch.clips, alone.clips) and alone.token_labels is None


BROKEN = {
    "missing": (None, "no label map "),
    "not a tensor": ([1, 2], "it holds no tensor of scores and classes"),
    "whole numbers": (torch.zeros(2, 5, GRID, GRID, dtype=torch.long), "it holds no tensor of scores"),
    "an object": (Path("a"), "damaged, or more than a tensor"),
    "of three parts": (torch.zeros(3, 5, GRID, GRID), "its shape is (3, 5, 18, 18), not 2 x K x H x W"),
    "of another grid": (torch.zeros(2, 5, 9, 9), "its shape is (2, 5, 9, 9), that of others (2, 5, 18, 18)"),
    "of other classes": (constant_map(0) + 3, "it holds classes other than 0 to 5"),
    "not finite": (constant_map(0, float("nan")), "it holds scores that are not finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_image_with_a_broken_map_is_replaced_and_named(kind: str, images: list[Path]) -> None:
    content, reason = BROKEN[kind]
    path = write_map(images[0].parents[2] / "maps", images[4], content)
    if content is None:
        path.unlink()
    batches = epoch(images, TrainTransform((), 56, flip=True, areas=(0.2, 1)), workers=0)
    assert all(len(batch) == 3 and 4 not in batch.rows for batch in batches)
    ((name, why),) = [skip for batch in batches for skip in batch.skipped]
    assert name == str(images[4]) and reason in why and "\n" not in why and str(path) in why


def test_a_damaged_map(images: list[Path]) -> None:
    path = images[0].parents[2] / "maps" / "a" / "4.pt"
    maps = TokenLabelMaps(str(path.parents[1]), list(map(str, images)), CLASSES)
    for content in (b"", b"no map", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(DecodeError, match="4.png: label map .*4.pt: damaged, or more than a tensor"):
            maps.read(str(images[4]))


def test_a_batch_of_nothing_has_no_label_maps(images: list[Path]) -> None:
    folder = images[0].parents[2] / "maps"
    maps = TokenLabelMaps(str(folder), list(map(str, images)), CLASSES)
    for path in folder.glob("*/*.pt"):
        path.unlink()
    videos = LabeledVideoPaths([(str(path), 0) for path in images])
    transform = TrainTransform((), 56, flip=True, areas=(0.2, 1))
    batch = collate([TrainClips(videos, SPEC, transform, label_maps=maps)[0, 0]])
    assert len(batch) == 0 and batch.token_labels is None and len(batch.to("cpu").skipped) == 10


def test_wrong_folders_show_at_the_start(images: list[Path], tmp_path: Path) -> None:
    listed = list(map(str, images))
    with pytest.raises(ValueError, match="DATA.TOKEN_LABELS: no such folder: '.*nowhere'"):
        TokenLabelMaps(str(tmp_path / "nowhere"), listed, CLASSES)
    with pytest.raises(ValueError, match="label maps are of images, but .*a.mp4 is none"):
        TokenLabelMaps(str(tmp_path / "maps"), [*listed, "a/a.mp4"], CLASSES)
    with pytest.raises(ValueError, match=r"no such folder: '.*maps/c', for the label map of c/1.png"):
        TokenLabelMaps(str(tmp_path / "maps"), [*listed, "c/1.png"], CLASSES)
    with pytest.raises(ValueError, match="the first 10 maps are unreadable; .*0.png: .*other than 0 to 2"):
        TokenLabelMaps(str(tmp_path / "maps"), listed, 3)
