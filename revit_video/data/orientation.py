"""Display matrices: how a decoded picture is turned and mirrored to be seen upright, as ffmpeg does it."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image


class Orientation(NamedTuple):
    """A picture is transposed first, then its axes are mirrored, then it is rotated by what is left.

    Attributes:
        degrees: clockwise, about the centre and within the picture's own frame; 0 for the eight orientations
            of a camera.
    """

    transposes: bool = False
    mirrors_rows: bool = False
    mirrors_columns: bool = False
    degrees: float = 0.0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The picture (H, W, C) upright."""
        if self.transposes:
            picture = picture.swapaxes(0, 1)
        picture = picture[:: -1 if self.mirrors_rows else 1, :: -1 if self.mirrors_columns else 1]
        if not self.degrees:
            return picture
        image = Image.fromarray(np.ascontiguousarray(picture))
        return np.asarray(image.rotate(-self.degrees, Image.Resampling.BILINEAR))


UPRIGHT = Orientation()


def orientation(display_matrix: bytes) -> Orientation:
    """The orientation that a display matrix asks for (nine native int32: a b u c d v x y w).

    A point moves from (x, y) to (a x + c y, b x + d y). Within a degree of a quarter turn the picture is only
    transposed and mirrored; a matrix that would flatten or shear it is ignored.
    """
    a, b, _, c, d = struct.unpack("9i", display_matrix)[:5]
    across, down = math.hypot(a, b), math.hypot(c, d)
    if not across * down or abs(a * c + b * d) > 0.1 * across * down:
        return UPRIGHT
    clockwise = math.degrees(math.atan2(b, a)) % 360
    if min(clockwise % 90, -clockwise % 90) > 1:
        return Orientation(degrees=clockwise)
    if abs(a) > abs(b):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)
