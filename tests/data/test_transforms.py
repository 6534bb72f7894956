from __future__ import annotations

import pytest
import torch

from revit_video.data.transforms import Normalize, TrainTransform, draw_cut, spatial_crops
from revit_video.runtime.rng import seeded_generator


def coordinates(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """A clip (3, T, H, W) whose first channel is the row and whose second is the column of the pixel."""
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).expand(height, width)
    picture = torch.stack([rows, columns, torch.full_like(rows, 100)]).to(torch.uint8)
    return picture.unsqueeze(1).repeat(1, frames, 1, 1)


def test_crop_is_a_window_anywhere_and_the_same_in_all_frames():
    transform = TrainTransform((40, 60), crop_size=32, flip=False)
    corners = set()
    for seed in range(400):
        clip, _ = transform(coordinates(34, 36), seeded_generator(seed))
        top, left = clip[0, 0, 0, 0].item(), clip[1, 0, 0, 0].item()
        assert torch.equal(clip, coordinates(34, 36)[..., top : top + 32, left : left + 32])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(5)}


def test_boxes_are_of_any_area_and_shape_within_the_limits():
    boxes = [draw_cut(100, 160, (0.1, 0.5), 4 / 3, seeded_generator(seed)) for seed in range(1000)]
    areas = [high * wide / 16000 for _, _, high, wide in boxes]
    shapes = [wide / high for _, _, high, wide in boxes]
    assert 0.098 < min(areas) < 0.11 and 0.49 < max(areas) < 0.51
    assert 0.73 < min(shapes) < 0.77 and 1.3 < max(shapes) < 1.37
    assert 0.45 < sum(shape < 1 for shape in shapes) / 1000 < 0.6
    assert all(0 <= top <= 100 - high and 0 <= left <= 160 - wide for top, left, high, wide in boxes)
    assert draw_cut(10, 400, (0.9, 1), 4 / 3, seeded_generator(0)) is None


def test_a_crop_of_random_area_is_a_box_scaled():
    """The picture's channels are its rows and columns: their ranges tell where the box lay."""
    transform = TrainTransform((), 20, flip=False, areas=(0.1, 0.9))
    assert transform.draw_short_side(seeded_generator(0)) is None
    for seed in range(50):
        top, left, high, wide = draw_cut(60, 80, (0.1, 0.9), 4 / 3, seeded_generator(seed))
        crop, _ = transform(coordinates(60, 80), seeded_generator(seed))
        assert crop.shape == (3, 2, 20, 20)
        for channel, start, extent in ((0, top, high), (1, left, wide)):
            expected = start + (torch.arange(20) + 0.5) * extent / 20 - 0.5
            values = crop[channel, 0].float().mean(dim=1 - channel)
            torch.testing.assert_close(values[2:-2], expected[2:-2], rtol=0, atol=1.0)


@pytest.mark.parametrize("areas", [(), (0.1, 0.9)])
def test_crops_tell_where_they_were_cut_out(areas: tuple[float, ...]) -> None:
    """The first and last pixels of a crop are those at the sides that it tells, also of mirrored ones."""
    transform = TrainTransform((50, 50), 50, flip=True, areas=areas)
    mirrored = 0
    for seed in range(60):
        clip, (top, left, bottom, right) = transform(coordinates(100, 200), seeded_generator(seed))
        columns, rows = clip[1, 0].float().mean(dim=0), clip[0, 0].float().mean(dim=1)
        for values, start, end in ((columns, 200 * left, 200 * right), (rows, 100 * top, 100 * bottom)):
            expected = start + (torch.arange(50) + 0.5) * (end - start) / 50 - 0.5
            torch.testing.assert_close(values[2:-2], expected[2:-2], rtol=0, atol=1.0)
        mirrored += left > right
    assert 15 < mirrored < 45


def test_a_frame_longer_than_any_crop_gives_its_middle():
    transform = TrainTransform((), 20, flip=False, areas=(0.9, 1))
    crop, _ = transform(coordinates(15, 200), seeded_generator(0))
    assert crop[1].min() >= 90 and crop[1].max() < 110 and crop[0].max() - crop[0].min() >= 13


def test_half_of_the_clips_are_mirrored_only_if_asked():
    clip = coordinates(8, 8)
    transform = TrainTransform((8, 8), 8, flip=True)
    mirrored = [torch.equal(transform(clip, seeded_generator(seed))[0], clip.flip(-1)) for seed in range(400)]
    assert 150 < sum(mirrored) < 250


def test_short_side_covers_the_scales():
    transform = TrainTransform((256, 320), 224, flip=True)
    sides = {transform.draw_short_side(seeded_generator(seed)) for seed in range(1000)}
    assert sides == set(range(256, 321))


def test_photometric_jitter_is_one_factor_a_clip():
    clip = coordinates(8, 8, frames=3)
    transform = TrainTransform((8, 8), 8, flip=False, brightness=0.5)
    results = [transform(clip, seeded_generator(seed))[0] for seed in range(50)]
    factors = [result[2, :, 0, 0] / 100 for result in results]
    assert all((factor == factor[0]).all() for factor in factors)
    assert 0.5 <= min(f[0] for f in factors) < 0.6 and 1.4 < max(f[0] for f in factors) <= 1.5
    assert all(result.dtype == torch.uint8 and result.is_contiguous() for result in results)


def test_all_jitters_follow_the_generator():
    transform = TrainTransform((8, 12), 8, True, brightness=0.4, contrast=0.4, saturation=0.4)
    clip = coordinates(12, 12)
    first, again, other = (transform(clip, seeded_generator(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("shape", "axis"), [((8, 20), 1), ((20, 8), 0)])
def test_three_crops_along_the_longer_side(shape, axis):
    views = spatial_crops(coordinates(*shape), 8, 3)
    assert views.shape == (3, 3, 2, 8, 8)
    assert views[:, axis, 0, 0, 0].tolist() == [0, 6, 12]
    assert views[:, 1 - axis, 0, 0, 0].tolist() == [0, 0, 0]


def test_one_crop_is_the_centre():
    view = spatial_crops(coordinates(10, 20), 8, 1)
    assert view[0, :2, 0, 0, 0].tolist() == [1, 6]


def test_normalize_by_the_formula():
    normalize = Normalize([0.45, 0.4, 0.5], [0.225, 0.2, 0.25])
    clips = torch.randint(0, 256, (2, 3, 4, 5, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ([0.45, 0.4, 0.5], [0.225, 0.2, 0.25]))
    assert normalize(clips).dtype == torch.float32
    torch.testing.assert_close(normalize(clips), (clips / 255 - mean) / std, rtol=0, atol=1e-5)
    assert not normalize.state_dict()  # mean and std are stored by name in a checkpoint, not as weights


def test_squashed_crops_are_of_the_frames_shape_and_whole_without_areas() -> None:
    whole = TrainTransform((40, 60), crop_size=32, flip=False, squash=True)
    assert whole.draw_short_side(seeded_generator(0)) is None
    clip, box = whole(coordinates(40, 200), seeded_generator(0))
    assert clip.shape[-2:] == (32, 32) and box == (0, 0, 1, 1)
    part = TrainTransform((40, 60), crop_size=32, flip=False, areas=(0.5, 0.8), squash=True)
    boxes = [part(coordinates(40, 200), seeded_generator(seed))[1] for seed in range(200)]
    shares = [(bottom - top) * (right - left) for top, left, bottom, right in boxes]
    assert 0.44 < min(shares) < max(shares) <= 0.8
    stretches = [(bottom - top) / (right - left) for top, left, bottom, right in boxes]
    assert 0.7 < min(stretches) < 0.85 < 1.15 < max(stretches) < 1.4
