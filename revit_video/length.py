"""Token lengths: the spatial grids of patch tokens at which a model can run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Box = tuple[float, float, float, float]
"""Top, left, bottom and right of a part of the frame, as fractions of its sides."""


@dataclass(frozen=True)
class TokenLength:
    """A grid of `h` x `w` patch tokens per frame; `str()` gives `"14x14"`.

    With `frames`, only so many frames of the clip are read: `"8x14x14"`. 0 stands for all of them.
    """

    h: int
    w: int
    frames: int = 0

    def __post_init__(self) -> None:
        if self.h < 1 or self.w < 1 or self.frames < 0:
            raise ValueError(f"token length {self.h}x{self.w}: both sides must be at least 1")

    @classmethod
    def parse(cls, value: int | str | Sequence[int] | TokenLength) -> TokenLength:
        """`14`, `"14"`, `"14x14"` or `(14, 14)` -> `TokenLength(14, 14)`; `"8x14x14"` has frames first.

        Raises:
            ValueError: for anything else.
        """
        if isinstance(value, TokenLength):
            return value
        if isinstance(value, int):
            return cls(value, value)
        sides: Sequence[int | str] = value
        if isinstance(value, str) and re.fullmatch(r"\s*\d+(\s*x\s*\d+){0,2}\s*", value):
            sides = [int(side) for side in value.split("x")] * (1 if "x" in value else 2)
        if isinstance(sides, Sequence) and len(sides) in (2, 3) and all(isinstance(n, int) for n in sides):
            *frames, h, w = map(int, sides)
            if 0 not in frames:
                return cls(h, w, *frames)
        raise ValueError(f"not a token length: {value!r}; write 14, '14x14', or '8x14x14' with 8 frames")

    @property
    def count(self) -> int:
        """Patch tokens per frame."""
        return self.h * self.w

    @property
    def grid(self) -> TokenLength:
        """The same grid, without a number of frames."""
        return TokenLength(self.h, self.w)

    def __str__(self) -> str:
        return "x".join(map(str, (*([self.frames] if self.frames else []), self.h, self.w)))


def token_lengths(values: Iterable[int | str | Sequence[int] | TokenLength]) -> tuple[TokenLength, ...]:
    """A model's lengths, longest first.

    Raises:
        ValueError: there is none, the token counts are not strictly descending, or only some have frames.
    """
    lengths = tuple(TokenLength.parse(value) for value in values)
    if not lengths:
        raise ValueError("a model needs at least one token length")
    listed = ", ".join(map(str, lengths))
    if len({length.frames == 0 for length in lengths}) > 1:
        raise ValueError(f"all token lengths or none must have a number of frames, got {listed}")
    tokens = [length.count * max(length.frames, 1) for length in lengths]
    if any(longer <= shorter for longer, shorter in pairwise(tokens)):
        raise ValueError(f"token lengths must be strictly descending, longest first, got {listed}")
    return lengths


def find(lengths: Sequence[TokenLength], value: int | str | Sequence[int] | TokenLength) -> int:
    """Position of `value` in `lengths`; ValueError with the available lengths if it is unknown."""
    length = TokenLength.parse(value)
    if length not in lengths:
        raise ValueError(f"token length {length} not in this model; it has {', '.join(map(str, lengths))}")
    return lengths.index(length)


def nested_frames(lengths: Sequence[TokenLength], num_frames: int) -> list[list[int]]:
    """The frames of a clip that each length reads, evenly spaced; those of fewer are among those of more.

    So a model that goes on to more frames reads none twice. 16, 8 and 4 of 16 are 0 1 2 …, 0 2 4 … and
    2 6 10 14: each time, the half whose middle is nearer to the clip's.

    Raises:
        ValueError: a number of frames does not divide the next larger one, or `num_frames`.
    """
    chosen = {num_frames: list(range(num_frames))}
    for count in sorted({length.frames for length in lengths} - {0, num_frames}, reverse=True):
        larger = chosen[min(chosen)]
        step, rest = divmod(len(larger), count)
        if rest or count > len(larger):
            words = f"{count} frames are not evenly spaced ones of {len(larger)}"
            raise ValueError(f"{words}; a number of frames must divide the next larger one")
        starts = [larger[offset::step] for offset in range(step)]
        chosen[count] = min(starts, key=lambda frames: abs(frames[0] + frames[-1] + 1 - num_frames))
    return [chosen[length.frames or num_frames] for length in lengths]


def cells_of(box: Box, length: TokenLength) -> tuple[int, int, int, int]:
    """`box` in whole cells of the grid: first row, first column, end row, end column (ends excluded)."""
    top, left, bottom, right = box
    rows, columns = (
        [math.floor(side * cells + 0.5) for side in sides]
        for sides, cells in (((top, bottom), length.h), ((left, right), length.w))
    )
    return rows[0], columns[0], rows[1], columns[1]


def patch_geometry(size: int, cells: int) -> tuple[int, int, int]:
    """Cut `size` pixels into `cells` patches: `(kernel = stride, padding before, padding after)`.

    The smallest kernel that covers the side, with the excess padded evenly, as in DVT: 224 px in 10 cells are
    kernel 23 with 3 px of padding on each side.

    Raises:
        ValueError: there are more cells than pixels, or a whole patch would be padding.
    """
    kernel = -(-size // cells)
    padding = kernel * cells - size
    if cells > size or padding - padding // 2 >= kernel:
        raise ValueError(f"{size} px cannot be cut into {cells} patches: one would hold only padding")
    return kernel, padding // 2, padding - padding // 2


def halved(size: int) -> int:
    """Side of the frame after LV-ViT's stem, half of `size`; ValueError if that is odd."""
    if size % 2:
        raise ValueError(f"LV-ViT's stem halves the frame, which has an odd side, {size} px")
    return size // 2


def stem_geometry(size: int, length: TokenLength, width: int) -> tuple[int, int]:
    """Number of halvings of `size` pixels in a convolutional stem for `length`, and of channel doublings.

    The doublings are log2 of the patch size, rounded down: 4 for 14x14 and for 10x10 of 224 px. If as many
    halvings end at the grid, they are taken (14x14). Otherwise there are fewer, and the last convolution
    has patches of several pixels with little padding: 3 halvings for 10x10, to 28 px, and patches of 3 px.

    Returns:
        `(halvings, doublings)`.

    Raises:
        ValueError: the frame cannot be halved and then cut into patches, or the width cannot be halved.
    """
    cells = max(length.h, length.w)
    doublings = (size // cells).bit_length() - 1
    meets = cells << max(doublings, 0) == size
    for halvings in range(doublings if meets else doublings - 1, 0, -1):
        if size % 2**halvings == 0 and _can_cut(size >> halvings, length):
            break
    else:
        raise ValueError(
            f"{size} px cannot be halved and then cut into {length} patches, as a conv stem does"
        )
    if width % (first := 2 ** (doublings - 1)):
        raise ValueError(f"a convolutional stem for {length} needs a width divisible by {first}, not {width}")
    return halvings, doublings


PUBLISHED_SPLITS = ((7, 4, 2), (11, 6, 5), (14, 8, 3))  # T2T-ViT's, and DVT's for 10x10 and 7x7 of 224 px
LATER_SPLIT = (3, 2, 1)


def soft_splits(size: int, cells: int) -> list[tuple[int, int, int]]:
    """Kernel, stride and padding of T2T-ViT's three splits of `size` pixels into `cells` patches.

    The last two halve the grid. The first is a published one where that meets the grid, else one whose kernel
    overlaps its neighbours by as much as that of 7 px at stride 4.

    Raises:
        ValueError: no first split leads to this grid.
    """
    strides = range(max(1, size // (4 * cells) + 1), 0, -1)
    others = [(2 * stride - 1, stride, padding) for stride in strides for padding in range(stride)]
    for kernel, stride, padding in (*PUBLISHED_SPLITS, *others):
        first = (size + 2 * padding - kernel) // stride + 1
        if padding < kernel <= size and (first + 3) // 4 == cells:
            return [(kernel, stride, padding), LATER_SPLIT, LATER_SPLIT]
    raise ValueError(f"{size} px cannot be split softly into {cells} patches, as T2T-ViT does")


def _can_cut(size: int, length: TokenLength) -> bool:
    try:
        return bool(patch_geometry(size, length.h) and patch_geometry(size, length.w))
    except ValueError:
        return False
