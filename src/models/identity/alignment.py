"""Where alignment brings the five points of a face, and how they come out of 68 or 98 landmarks.

Five points: left and right eye, nose, left and right corner of the mouth, as seen in the picture.
Source: Celeb Basis code (`align`), insightface (`arcface_dst`), facexlib and the FFHQ data set (arXiv 1812.04948).
"""

from dataclasses import dataclass

import numpy as np

from .analyzer import ARCFACE_TEMPLATE, similarity_transform

FFHQ_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
SET1_TEMPLATE = np.array([[41.125, 50.75], [71.75, 49.4375], [49.875, 73.0625], [45.9375, 87.9375], [70.4375, 87.9375]])
MTCNN_TEMPLATE = np.array(
    [
        [40.95041, 52.341854],
        [70.90203, 52.17619],
        [56.02142, 69.376114],
        [43.716904, 86.910675],
        [68.52042, 86.77348],
    ]
)
# As shares of the side, so that one template serves every size: FFHQ's at 512 for ConsisID, at 256 for Celeb Basis;
# ArcFace's at 112 for recognition, at 448 for Concat-ID's references.
TEMPLATES = {
    "ffhq": FFHQ_TEMPLATE / 512,
    "arcface": ARCFACE_TEMPLATE.astype(np.float64) / 112,
    "set1": SET1_TEMPLATE / 112,
    "mtcnn": MTCNN_TEMPLATE / 112,
}


def template_points(name: str, size: int) -> np.ndarray:
    """Return the five points (5, 2) of a template in a crop of `size` pixels. Raises ValueError for an unknown one."""
    if name not in TEMPLATES:
        raise ValueError(f"template={name!r} is not one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name] * size


def alignment(points: np.ndarray, template: str, size: int) -> np.ndarray:
    """Return the (2, 3) matrix that brings five `points` (5, 2) to a template in a crop of `size` pixels."""
    return similarity_transform(points, template_points(template, size))


def five_from_98(landmarks: np.ndarray) -> np.ndarray:
    """Return the five points (5, 2) of WFLW's 98 `landmarks` (98, 2)."""
    landmarks = np.asarray(landmarks, np.float64)
    eyes = [landmarks[[60, 64, 96]].mean(0), landmarks[[68, 72, 97]].mean(0)]
    return np.stack([*eyes, landmarks[54], landmarks[76], landmarks[82]])


def five_from_68(landmarks: np.ndarray) -> np.ndarray:
    """Return the five points (5, 2) of iBUG's 68 `landmarks` (68, 2)."""
    landmarks = np.asarray(landmarks, np.float64)
    eyes = [landmarks[36:42].mean(0), landmarks[42:48].mean(0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def source_quad(matrix: np.ndarray, size: int) -> np.ndarray:
    """Return the corners (4, 2) of the crop of `size` pixels in the picture that `matrix` (2, 3) aligns.

    Upper left, lower left, lower right, upper right.
    """
    corners = np.array([[0, 0], [0, size], [size, size], [size, 0]], np.float64)
    return np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T


@dataclass(frozen=True)
class FFHQCrop:
    """The square that the FFHQ data set cuts out: `quad` (4, 2), upper left, lower left, lower right, upper right."""

    quad: np.ndarray
    size: float


def ffhq_crop(landmarks: np.ndarray) -> FFHQCrop:
    """Return the crop of the FFHQ data set for iBUG's 68 `landmarks` (68, 2).

    Its x axis lies along the eyes and across the line from eyes to mouth, its centre a little below the eyes.
    """
    landmarks = np.asarray(landmarks, np.float64)
    left_eye, right_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    eyes, between_eyes = (left_eye + right_eye) / 2, right_eye - left_eye
    to_mouth = (landmarks[48] + landmarks[54]) / 2 - eyes
    x = between_eyes - _turned(to_mouth)
    x *= max(np.hypot(*between_eyes) * 2.0, np.hypot(*to_mouth) * 1.8) / np.hypot(*x)
    y, centre = _turned(x), eyes + to_mouth * 0.1
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    return FFHQCrop(quad, float(np.hypot(*x) * 2))


def cut_ffhq(image: np.ndarray, crop: FFHQCrop, size: int) -> np.ndarray:
    """Return the square `crop` of `image` (h w 3 uint8) as (size size 3) uint8.

    Shrunk first where it is much larger than `size`; what lies outside of the picture is its mirror image, blurred and
    faded to the median colour.
    """
    from PIL import Image

    picture, quad, side = Image.fromarray(np.ascontiguousarray(image)), crop.quad + 0.5, crop.size
    shrink = int(np.floor(side / size * 0.5))
    if shrink > 1:
        small = [round(length / shrink) for length in picture.size]
        picture, quad, side = (
            picture.resize((small[0], small[1]), Image.Resampling.LANCZOS),
            quad / shrink,
            side / shrink,
        )
    pixels, quad = _bordered(np.asarray(picture), quad, side)
    picture = Image.fromarray(pixels)
    done = picture.transform((4 * size,) * 2, Image.Transform.QUAD, tuple(quad.ravel()), Image.Resampling.BILINEAR)
    return np.asarray(done.resize((size, size), Image.Resampling.LANCZOS))


def _bordered(pixels: np.ndarray, quad: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the picture around `quad`, with a border made up where it ends, and the quad in it."""
    height, width = pixels.shape[:2]
    border = max(int(np.rint(side * 0.1)), 3)
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    first, last = np.maximum(low - border, 0), np.minimum(high + border, (width, height))
    part, quad = pixels[first[1] : last[1], first[0] : last[0]], quad - first
    before = np.maximum(border - low, 0)
    after = np.maximum(high + border - (width, height), 0)
    if max(*before, *after) <= border - 4:
        return part, quad
    before, after = (np.maximum(pad, int(np.rint(side * 0.3))) for pad in (before, after))
    padded = np.pad(part.astype(np.float32), ((before[1], after[1]), (before[0], after[0]), (0, 0)), "reflect")
    return _faded(padded, before, after, side * 0.02), quad + before


def _faded(pixels: np.ndarray, before: np.ndarray, after: np.ndarray, blur: float) -> np.ndarray:
    from PIL import Image, ImageFilter

    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    distances = [
        np.minimum(place / max(start, 1), (length - 1 - place) / max(end, 1))
        for place, length, start, end in (
            (columns, pixels.shape[1], before[0], after[0]),
            (rows, pixels.shape[0], before[1], after[1]),
        )
    ]
    outside = 1 - np.minimum(*np.broadcast_arrays(*distances))[..., None]
    source = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
    blurred = np.asarray(source.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    pixels = pixels + (blurred - pixels) * (outside * 3 + 1).clip(0, 1)
    pixels = pixels + (np.median(pixels, axis=(0, 1)) - pixels) * outside.clip(0, 1)
    return pixels.clip(0, 255).round().astype(np.uint8)


def _turned(vector: np.ndarray) -> np.ndarray:
    """Return `vector` turned by a quarter: (-y, x)."""
    return np.array([-vector[1], vector[0]])
