from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from revit_video.data.augment import MixToken
from revit_video.data.targets import Targets
from revit_video.data.token_labels import TokenLabels
from revit_video.length import TokenLength
from revit_video.models.revit import inside
from tests.label_maps import constant_map

CLASSES = 6
LABELS = torch.tensor([0, 3, 1, 5])
LENGTH = TokenLength(4, 4)
BOX = (0.0, 0.25, 0.5, 0.75)  # a quarter of the frame


def token_labels() -> TokenLabels:
    maps = torch.stack([constant_map(shown).float() for shown in (4, 3, 2, 1)])
    return TokenLabels(maps, torch.tensor([[0, 0.1, 1, 0.9]]).repeat(4, 1))


def test_clips_are_mixed_by_the_part_that_the_box_takes() -> None:
    expected = 0.75 * F.one_hot(LABELS, CLASSES) + 0.25 * F.one_hot(LABELS.flip(0), CLASSES)
    torch.testing.assert_close(Targets(LABELS, box=BOX).of_clips(LENGTH, CLASSES), expected)
    shares = F.one_hot(LABELS, CLASSES).float()
    torch.testing.assert_close(Targets(shares, box=BOX).of_clips(LENGTH, CLASSES), expected)
    assert torch.equal(Targets(LABELS).of_clips(LENGTH, CLASSES), LABELS)


@pytest.mark.parametrize("cells", [14, 10, 7])
def test_shares_are_those_of_the_tokens_that_the_model_mixes(cells: int) -> None:
    """A box of 5 x 5 of 7 x 7 cells is one of 8 x 8 of 10 x 10, which is more."""
    box, length = (1 / 7, 1 / 7, 6 / 7, 6 / 7), TokenLength(cells, cells)
    taken = inside(box, length).float().mean()
    shares = Targets(LABELS, box=box).of_clips(length, CLASSES)
    torch.testing.assert_close(shares[0, LABELS[-1]], taken)
    assert bool(taken > 0.6) == (cells == 10)


def test_tokens_have_their_own_label_whatever_the_box() -> None:
    for box in (None, BOX):
        of_tokens = Targets(LABELS, box=box).of_tokens(LENGTH, CLASSES)
        assert of_tokens.shape == (4, 16, CLASSES)
        assert torch.equal(of_tokens.argmax(dim=2), LABELS.unsqueeze(1).expand(-1, 16))
        told = Targets(LABELS, token_labels(), box).of_tokens(LENGTH, CLASSES)
        assert torch.equal(told.argmax(dim=2), torch.tensor([4, 3, 2, 1]).unsqueeze(1).expand(-1, 16))


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("maps", [None, token_labels()])
def test_parts_are_batches_of_their_own(parts: int, maps: TokenLabels | None) -> None:
    whole = Targets(LABELS, maps, BOX)
    chunks, labels = whole.chunk(parts), LABELS.chunk(parts)
    assert list(map(len, chunks)) == list(map(len, labels)) and len(whole) == 4
    for chunk, own in zip(chunks, labels, strict=True):
        assert torch.equal(chunk.of_clips(LENGTH, CLASSES), Targets(own, box=BOX).of_clips(LENGTH, CLASSES))
    of_tokens = torch.cat([chunk.of_tokens(LENGTH, CLASSES) for chunk in chunks])
    torch.testing.assert_close(of_tokens, whole.of_tokens(LENGTH, CLASSES))


# ---- MixToken --------------------------------------------------------------------------------------------


def test_boxes_lie_on_the_coarsest_grid_and_follow_from_seed_and_place() -> None:
    mix = MixToken(1.0, 1.0, TokenLength(7, 5))
    boxes = [mix(epoch, batch) for epoch in range(10) for batch in range(100)]
    drawn = torch.tensor([box for box in boxes if box is not None])
    on_grid = drawn * torch.tensor([7, 5, 7, 5])
    torch.testing.assert_close(on_grid, on_grid.round())
    assert (drawn[:, :2] >= 0).all() and (drawn[:, 2:] <= 1).all() and (drawn[:, :2] < drawn[:, 2:]).all()
    assert boxes == [MixToken(1.0, 1.0, TokenLength(7, 5))(e, b) for e in range(10) for b in range(100)]
    assert len(set(boxes)) > 100 and MixToken(1.0, 1.0, TokenLength(7, 5), seed=1)(0, 0) != boxes[0]


def test_how_much_of_the_frame_the_boxes_take() -> None:
    """About a uniform place, r - r²/4 of a side r are left on average; r² = 1 - λ is uniform as well."""
    mix = MixToken(1.0, 1.0, TokenLength(100, 100))
    boxes = [mix(0, batch) or (0, 0, 0, 0) for batch in range(4000)]
    areas = [(bottom - top) * (right - left) for top, left, bottom, right in boxes]
    # The mean of (r - r²/4)² = r² - r³/2 + r⁴/16.
    assert sum(areas) / len(areas) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.012)
    assert sum(MixToken(1.0, 0.25, TokenLength(9, 9))(0, n) is not None for n in range(400)) in range(60, 140)
