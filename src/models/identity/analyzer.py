"""The interface of every face stack: an image in, faces with boxes, keypoints and identity embeddings out."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Where ArcFace expects left eye, right eye, nose, left and right mouth corner in a 112 x 112 crop (insightface
# `arcface_dst`).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the image that it was found in.

    `box` (4,) xyxy; `keypoints` (5, 2): eyes, nose, mouth corners, the person's right side (left in the image) first;
    `score` in [0, 1]; `embedding` (d,) float32 of unit norm.
    """

    box: np.ndarray
    keypoints: np.ndarray
    score: float
    embedding: np.ndarray

    @property
    def area(self) -> float:
        return float(np.prod(np.maximum(self.box[2:] - self.box[:2], 0)))


class FaceAnalyzer(Protocol):
    """Finds and recognises faces.

    `name` and `embedding_dim` identify the embedding space: never compare across names.
    """

    name: str
    embedding_dim: int

    def __call__(self, image: np.ndarray) -> list[Face]:
        """Return the faces of an RGB `image` (h w 3, uint8), the largest first; an empty list where there is none."""
        ...


class FaceEmbedder(Protocol):
    """Recognises faces that an analyzer has found, in an embedding space of its own; see `FaceAnalyzer` for `name`."""

    name: str
    embedding_dim: int

    def __call__(self, image: np.ndarray, keypoints: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit vectors (n d) of the faces of an RGB `image` (h w 3, uint8) with these n `keypoints` (5 2)."""
        ...


class CachedAnalyzer:
    """An analyzer that remembers the last `num_pictures`, for metrics that look at the same frames one after another.

    Everything else is asked of `analyzer` itself.
    """

    def __init__(self, analyzer: FaceAnalyzer, *, num_pictures: int = 256):
        self.analyzer, self.num_pictures = analyzer, num_pictures
        self.name, self.embedding_dim = analyzer.name, analyzer.embedding_dim
        self._found: OrderedDict[bytes, list[Face]] = OrderedDict()

    def __call__(self, image: np.ndarray) -> list[Face]:
        key = digest(image)
        if key not in self._found:
            self._found[key] = self.analyzer(image)
            if len(self._found) > self.num_pictures:
                self._found.popitem(last=False)
        return list(self._found[key])

    def __getattr__(self, name: str):
        if name == "analyzer":  # not there yet, while a copy is being made
            raise AttributeError(name)
        return getattr(self.analyzer, name)


def digest(image: np.ndarray) -> bytes:
    """Return what tells the contents of one picture from another's."""
    return hashlib.blake2b(repr(image.shape).encode() + image.tobytes(), digest_size=16).digest()


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the (2, 3) similarity transform that takes points `source` (n 2) to `target` (n 2) in least squares.

    Source: Umeyama 1991, equations 34 to 43 (rotation, uniform scale and translation, no reflection).
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred_source, centred_target = source - source_mean, target - target_mean
    covariance = centred_target.T @ centred_source / len(source)
    u, singular_values, vt = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = (singular_values * signs).sum() / centred_source.var(0).sum()
    translation = target_mean - scale * rotation @ source_mean
    return np.concatenate([scale * rotation, translation[:, None]], axis=1)
