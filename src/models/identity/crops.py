"""ConsisID's crop of a reference face: a square around the head, and the same square grown by a fifth.

Source: ConsisID's released code (`crop_images`).
"""

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]
MARGIN = 0.2  # of the square's side, on all four sides
CROP_SIZE = 480


def square_box(box: Sequence[float], height: int, width: int) -> Box:
    """Return the square (left, top, right, bottom) around `box` (xyxy, pixels) in a picture of `height` and `width`.

    Its side is the longer one of the box, with fractions cut off. It is pushed into the picture, and smaller where the
    picture is.
    """
    left, top, right, bottom = (int(value) for value in box)
    side = max(right - left, bottom - top)
    (left, right), (top, bottom) = _span((left + right) // 2, side, width), _span((top + bottom) // 2, side, height)
    return left, top, right, bottom


def expanded_box(box: Sequence[float], height: int, width: int) -> Box:
    """Return the square of `square_box` grown by MARGIN on each side; what the picture cuts off makes it smaller."""
    margin = int(max(int(box[2]) - int(box[0]), int(box[3]) - int(box[1])) * MARGIN)
    left, top, right, bottom = square_box(box, height, width)
    left, top = max(left - margin, 0), max(top - margin, 0)
    right, bottom = min(right + margin, width), min(bottom + margin, height)
    side = min(right - left, bottom - top)
    return left, top, left + side, top + side


def crop_and_resize(image: np.ndarray, box: Box, size: int = CROP_SIZE) -> np.ndarray:
    """Return the part `box` of `image` (h w 3 uint8) as (size size 3) uint8, with Lanczos."""
    from PIL import Image

    left, top, right, bottom = box
    part = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    return np.asarray(part.resize((size, size), Image.Resampling.LANCZOS))


def pad_pictures(pictures: np.ndarray, count: int) -> np.ndarray:
    """Return exactly `count` of `pictures` (n ...): black ones follow, or the last ones are left out."""
    padding = [(0, max(count - len(pictures), 0))] + [(0, 0)] * (pictures.ndim - 1)
    return np.pad(pictures[:count], padding)


def _span(centre: int, side: int, limit: int) -> tuple[int, int]:
    low = max(centre - side // 2, 0)
    high = min(low + side, limit)
    return (low if low == 0 else max(high - side, 0)), high
