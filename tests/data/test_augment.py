from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from revit_video.data.augment import Mixing, RandAugment, RandomErasing
from revit_video.runtime.rng import seeded_generator

MEAN, STD = [0.5, 0.4, 0.3], [0.1, 0.05, 0.1]


def clip(frames: int = 1) -> torch.Tensor:
    """uint8 (3, frames, 40, 48), all frames equal."""
    picture = torch.randint(0, 256, (3, 1, 40, 48), dtype=torch.uint8, generator=seeded_generator(0))
    return picture.repeat(1, frames, 1, 1)


@pytest.mark.parametrize(
    "augment", [RandAugment("rand-m9-mstd0.5-inc1", 40, MEAN), RandomErasing(1.0, MEAN, STD)]
)
def test_an_augmentation_is_a_function_of_its_generator(augment) -> None:
    before = clip()
    results = []
    for seed in range(12):
        random.seed(seed)
        np.random.seed(seed)
        results.append([augment(before, seeded_generator(number)) for number in range(8)])
    assert all(torch.equal(one, other) for row in results for one, other in zip(row, results[0], strict=True))
    assert len({result.numpy().tobytes() for result in results[0]}) > 3
    assert torch.equal(before, clip())


def test_the_largest_magnitudes_too() -> None:
    """Where nothing is left of the colours, Pillow refuses."""
    augment = RandAugment("rand-m10-p1-inc1", 40, MEAN)
    results = [augment(clip(), seeded_generator(seed)) for seed in range(40)]
    assert any(not result.any() for result in results) and all(r.shape == clip().shape for r in results)


def test_frames_are_augmented_alike_and_the_world_goes_on() -> None:
    augment = RandAugment("rand-m9-mstd0.5-inc1", 40, MEAN)
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    for seed in range(20):
        result = augment(clip(3), seeded_generator(seed))
        assert torch.equal(result, result[:, :1].expand(-1, 3, -1, -1))
    assert (random.random(), np.random.rand()) == expected


def test_erased_boxes_hold_the_datas_noise() -> None:
    erased, noise, shares = 0, [], []
    for seed in range(300):
        plain = torch.zeros(3, 2, 40, 48, dtype=torch.uint8)
        result = RandomErasing(0.25, MEAN, STD)(plain, seeded_generator(seed))
        changed = (result != 0).all(dim=0)
        if not changed.any():
            continue
        erased += 1
        rows, columns = changed[0].nonzero().unbind(dim=1)
        box = result[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box != 0).float().mean() > 0.99
        shares.append(box[0, 0].numel() / (40 * 48))
        noise.append(box.flatten(1) / 255)
    assert 50 < erased < 100
    assert 0.015 < min(shares) < 0.06 and 0.25 < max(shares) < 0.35
    values = torch.cat(noise, dim=1)
    torch.testing.assert_close(values.mean(dim=1), torch.tensor(MEAN), rtol=0, atol=0.01)
    torch.testing.assert_close(values.std(dim=1), torch.tensor(STD), rtol=0, atol=0.01)


# ---- Mixing ----------------------------------------------------------------------------------------------


def batch(size: int = 6, frames: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips each of one colour, which is their label."""
    labels = torch.arange(size)
    return labels.float().view(-1, 1, 1, 1, 1).repeat(1, 3, frames, 16, 16), labels


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_are_the_pixels_shares(mixup: float, cutmix: float) -> None:
    """A pixel's expected colour is the sum over the classes of their share times their colour."""
    mix = Mixing(mixup, cutmix, 1.0, 0.5, num_classes=6)
    for number in range(20):
        clips, labels = mix(*batch(), epoch=0, batch=number)
        assert labels.shape == (6, 6)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))
        torch.testing.assert_close(clips.mean(dim=(1, 2, 3, 4)), labels @ torch.arange(6.0))
        assert torch.equal(clips[:, :, 0], clips[:, :, 1])


def test_both_ways_of_mixing_take_turns_and_repeat_themselves() -> None:
    mix = Mixing(0.8, 1.0, 1.0, 0.5, num_classes=6)
    cut = []
    for number in range(40):
        clips, _ = mix(*batch(), 1, number)
        assert torch.equal(clips, Mixing(0.8, 1.0, 1.0, 0.5, 6)(*batch(), 1, number)[0])
        cut.append(len(clips[0].unique()) > 1)
    assert 10 < sum(cut) < 30
    seeded = [Mixing(0.8, 1.0, 1.0, 0.5, 6, seed)(*batch(), 1, 0)[0] for seed in (0, 1)]
    assert not torch.equal(*seeded)


def test_how_often_a_batch_is_mixed() -> None:
    mix = Mixing(0.8, 0.0, 0.25, 0.5, num_classes=6)
    mixed = [not torch.equal(mix(*batch(), 0, number)[0], batch()[0]) for number in range(200)]
    assert 30 < sum(mixed) < 70
    clips, labels = Mixing(0.8, 0.0, 0.0, 0.5, 6)(*batch(), 0, 0)
    assert torch.equal(clips, batch()[0]) and torch.equal(labels, F.one_hot(torch.arange(6)).float())


def test_an_odd_batch_stays_as_it_is() -> None:
    clips, labels = Mixing(0.8, 1.0, 1.0, 0.5, num_classes=6)(*batch(5), 0, 0)
    assert torch.equal(clips, batch(5)[0]) and torch.equal(labels, torch.arange(5))
