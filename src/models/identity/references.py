"""From a photograph to the reference picture of a method: find the face, align it, black what is behind.

Source: Concat-ID, `sample_video.py` of the authors' repository.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from .alignment import template_points
from .analyzer import Face, FaceAnalyzer, similarity_transform

log = logging.getLogger(__name__)

# Of jonathandinu/face-parsing: background, hat, earring, necklace, cloth. 17, the neck, is kept, although a comment in
# the authors' code says otherwise.
BACKGROUND_LABELS = (0, 14, 15, 16, 18)


class FaceParser(Protocol):
    """Names the part of the face that each pixel belongs to. `name` says which model does."""

    name: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the label of every pixel, (h w) integers, of an RGB `image` (h w 3, uint8)."""
        ...


@dataclass(frozen=True)
class PreparedReference:
    """What became of a picture. `unmasked` (h w 3, uint8): the aligned crop, or the whole picture without a `face`.

    `foreground` (h w, bool): the pixels of the person; None without a parser. `is_masked`: the rest is black in `crop`.
    """

    unmasked: np.ndarray
    face: Face | None = None
    foreground: np.ndarray | None = None
    is_masked: bool = False

    @property
    def crop(self) -> np.ndarray:
        """The picture for the model, (h w 3) uint8."""
        if self.foreground is None or not self.is_masked:
            return self.unmasked
        return self.unmasked * self.foreground[..., None].astype(np.uint8)

    @property
    def foreground_share(self) -> float | None:
        """The share of pixels that belong to the person, in [0, 1]; None without a parser."""
        return None if self.foreground is None else float(self.foreground.mean())

    @property
    def record(self) -> dict[str, Any]:
        """What happened, for the records of a run."""
        return {
            "face_found": self.face is not None,
            "foreground_share": self.foreground_share,
            "is_masked": self.is_masked,
        }


class ReferencePreprocessor:
    """Cuts the largest face of a picture out, upright and `size` pixels wide, and blacks its background.

    The five keypoints are brought to `template` by a similarity transform: the name of one in `alignment.TEMPLATES`, or
    5 points as fractions of the side; null for ArcFace's. Pixels that `parser` gives one of `background_labels` become
    black, but only where the other ones cover at least `min_foreground` of the crop. Without a parser, the background
    stays. Raises ValueError for settings that are out of range.
    """

    def __init__(
        self,
        *,
        analyzer: FaceAnalyzer | None,
        parser: FaceParser | None = None,
        size: int = 448,
        template: str | Sequence[Sequence[float]] | None = None,
        min_foreground: float = 0.4,
        background_labels: Sequence[int] = BACKGROUND_LABELS,
    ):
        if analyzer is None:
            raise ValueError("preprocess needs a face analyzer: analyzer=insightface (photographs) or analyzer=toy")
        if size < 1:
            raise ValueError(f"size={size} must be at least 1 pixel: preprocess.size")
        if not 0 <= min_foreground <= 1:
            raise ValueError(f"min_foreground={min_foreground} must lie in [0, 1]: preprocess.min_foreground")
        is_named = template is None or isinstance(template, str)
        points = template_points(str(template or "arcface"), 1) if is_named else np.asarray(template)
        points = points.astype(np.float32)
        if points.shape != (5, 2):
            raise ValueError(f"template has the shape {points.shape}, it must be 5 points x, y: preprocess.template")
        self.analyzer, self.parser = analyzer, parser
        self.size, self.template = size, points
        self.min_foreground, self.background_labels = min_foreground, tuple(background_labels)

    @property
    def description(self) -> dict[str, Any]:
        """What is done to a picture, for the records: the models and their settings."""
        return {
            "analyzer": self.analyzer.name,
            "parser": None if self.parser is None else self.parser.name,
            "size": self.size,
            "template": self.template.round(6).tolist(),
            "min_foreground": self.min_foreground,
            "background_labels": list(self.background_labels),
        }

    def __call__(self, image: np.ndarray, name: str = "the picture") -> PreparedReference:
        """Return what becomes of `image` (h w 3, uint8 RGB). Without a face, `name` is warned of, and used whole."""
        faces = self.analyzer(image)
        if not faces:
            log.warning("no face was found in %s: the whole picture is the reference", name)
            return self._mask(image, None)
        return self.cut(image, faces[0])

    def cut(self, image: np.ndarray, face: Face) -> PreparedReference:
        """Return the reference picture of one `face` of `image`."""
        matrix = similarity_transform(face.keypoints, self.template * self.size)
        return self._mask(warp(image, matrix, self.size), face)

    def _mask(self, picture: np.ndarray, face: Face | None) -> PreparedReference:
        if self.parser is None:
            return PreparedReference(picture, face, None, False)
        foreground = ~np.isin(self.parser(picture), self.background_labels)
        return PreparedReference(picture, face, foreground, bool(foreground.mean() >= self.min_foreground))


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return the (size size 3) uint8 picture whose pixel at `matrix` (2 3) times (x, y, 1) shows `image` at (x, y).

    Bilinear; black outside of `image` (h w 3, uint8); pixel centres at integers, as cv2.warpAffine has them.
    """
    height, width = image.shape[:2]
    to_image = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    rows, columns = np.mgrid[:size, :size].reshape(2, -1)
    x, y = to_image @ np.stack([columns, rows, np.ones_like(rows)])
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    pixels = np.zeros((size * size, image.shape[2]))
    for right, down in product((0, 1), (0, 1)):
        weight = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
        column, row = left + right, top + down
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels[inside] += weight[inside, None] * image[row[inside], column[inside]]
    return pixels.round().clip(0, 255).astype(np.uint8).reshape(size, size, -1)
