"""Token lengths: reading, ordering, and the patches that a crop is cut into."""

from __future__ import annotations

import pytest

from revit_video.length import (
    TokenLength,
    find,
    nested_frames,
    patch_geometry,
    stem_geometry,
    token_lengths,
)


@pytest.mark.parametrize("value", [14, "14", "14x14", " 14 x 14 ", (14, 14), [14, 14], TokenLength(14, 14)])
def test_all_spellings_of_one_length(value: object) -> None:
    assert TokenLength.parse(value) == TokenLength(14, 14)  # type: ignore[arg-type]


def test_text_round_trip_and_count() -> None:
    length = TokenLength(10, 7)
    assert str(length) == "10x7"
    assert TokenLength.parse(str(length)) == length
    assert length.count == 70


@pytest.mark.parametrize(
    "value", ["", "x", "14x", "1x2x3x4", "0x8x8", "-1", (14,), (0, 8, 8), ("a", "b"), 1.5, None]
)
def test_what_is_no_length(value: object) -> None:
    with pytest.raises(ValueError, match="not a token length"):
        TokenLength.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, "0x3", (3, -1)])
def test_sides_are_positive(value: object) -> None:
    with pytest.raises(ValueError, match="both sides must be at least 1"):
        TokenLength.parse(value)  # type: ignore[arg-type]


def test_lengths_are_longest_first() -> None:
    assert token_lengths(["14x14", 10, (7, 7)]) == tuple(TokenLength(n, n) for n in (14, 10, 7))


@pytest.mark.parametrize("values", [[7, 14], [14, 14], ["4x6", "6x4"]])
def test_token_counts_descend_strictly(values: list[object]) -> None:
    with pytest.raises(ValueError, match="strictly descending, longest first, got"):
        token_lengths(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["4x10x7", " 4 x 10 x 7", (4, 10, 7)])
def test_a_length_may_name_its_frames(value: object) -> None:
    length = TokenLength.parse(value)  # type: ignore[arg-type]
    assert length == TokenLength(10, 7, frames=4)
    assert (str(length), length.count, str(length.grid)) == ("4x10x7", 70, "10x7")


def test_tokens_of_all_frames_descend_strictly() -> None:
    assert token_lengths(["16x6x6", "8x8x8", "4x8x8"])[0].frames == 16
    with pytest.raises(ValueError, match="strictly descending, longest first, got 8x8x8, 16x6x6"):
        token_lengths(["8x8x8", "16x6x6"])
    with pytest.raises(ValueError, match="all token lengths or none must have a number of frames"):
        token_lengths(["16x8x8", "6x6"])


@pytest.mark.parametrize("counts", [(16, 8, 4), (16, 4), (12, 6, 3, 1), (8,)])
def test_fewer_frames_are_among_more_and_evenly_spaced(counts: tuple[int, ...]) -> None:
    lengths = token_lengths([(count, 8, 8) for count in counts])
    chosen = nested_frames(lengths, counts[0])
    assert [len(frames) for frames in chosen] == list(counts)
    for more, fewer in zip(chosen, chosen[1:], strict=False):
        assert set(fewer) < set(more)
    for frames in chosen:
        assert len({b - a for a, b in zip(frames, frames[1:], strict=False)}) <= 1
        assert abs(frames[0] - (counts[0] - 1 - frames[-1])) <= counts[0] // len(frames)  # about the middle


def test_frames_of_a_length_without_a_number_are_all() -> None:
    assert nested_frames(token_lengths([8, 4]), 3) == [[0, 1, 2]] * 2
    with pytest.raises(ValueError, match="6 frames are not evenly spaced ones of 16"):
        nested_frames(token_lengths(["16x8x8", "6x8x8"]), 16)


def test_a_model_has_lengths() -> None:
    with pytest.raises(ValueError, match="at least one token length"):
        token_lengths([])


def test_find_lists_what_exists() -> None:
    lengths = token_lengths([14, 7])
    assert [find(lengths, value) for value in ("14x14", 7)] == [0, 1]
    with pytest.raises(ValueError, match="token length 9x9 not in this model; it has 14x14, 7x7"):
        find(lengths, 9)


@pytest.mark.parametrize(
    ("size", "cells", "expected"),
    [
        (224, 14, (16, 0, 0)),
        (224, 7, (32, 0, 0)),
        (224, 10, (23, 3, 3)),  # DVT's
        (448, 20, (23, 6, 6)),
        (48, 5, (10, 1, 1)),
        (7, 4, (2, 0, 1)),  # an odd rest goes behind
        (6, 6, (1, 0, 0)),
        (56, 20, (3, 2, 2)),
    ],
)
def test_patch_geometry(size: int, cells: int, expected: tuple[int, int, int]) -> None:
    assert patch_geometry(size, cells) == expected


def test_patches_cover_every_crop_that_can_be_cut() -> None:
    for size in range(1, 60):
        for cells in range(1, 60):
            try:
                kernel, before, after = patch_geometry(size, cells)
            except ValueError:
                continue
            assert before + size + after == kernel * cells
            assert before <= after < kernel


@pytest.mark.parametrize(("size", "cells"), [(6, 7), (10, 7), (224, 200)])
def test_crops_that_cannot_be_cut(size: int, cells: int) -> None:
    with pytest.raises(ValueError, match=f"{size} px cannot be cut into {cells} patches"):
        patch_geometry(size, cells)


@pytest.mark.parametrize(
    ("size", "length", "expected"),
    [
        (224, "14x14", (4, 4)),  # to the grid itself
        (224, "7x7", (5, 5)),
        (224, "10x10", (3, 4)),  # to 28 px, 3 a patch
        (448, "20x20", (3, 4)),  # to 56 px, 3 a patch
        (96, "4x4", (3, 4)),  # to 12 px, 3 a patch
        (224, "12x12", (2, 4)),  # 28 px would be too few
        (224, "14x7", (4, 4)),  # by the finer side
        (32, "16x16", (1, 1)),
    ],
)
def test_stem_geometry(size: int, length: str, expected: tuple[int, int]) -> None:
    assert stem_geometry(size, TokenLength.parse(length), 1024) == expected


@pytest.mark.parametrize(("size", "length"), [(225, "15x15"), (32, "32x32"), (32, "10x10"), (32, "40x40")])
def test_frames_that_a_stem_cannot_halve(size: int, length: str) -> None:
    with pytest.raises(ValueError, match=f"{size} px cannot be halved and then cut into {length} patches"):
        stem_geometry(size, TokenLength.parse(length), 1024)
