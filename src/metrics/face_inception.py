"""Faces of the clip against the reference's, in Inception's features: ConsisID's "FID" and a true one beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..models.identity.analyzer import ARCFACE_TEMPLATE, Face, FaceAnalyzer, similarity_transform
from ..models.identity.references import warp
from .clip_metric import ClipMetric
from .face_conventions import find_faces
from .frechet import SetDistance
from .image_features import ImageFeatures
from .states import evenly_spaced, spread

FACE_SIZE = 224


class FaceInceptionDistance(ClipMetric):
    """Mean squared distance of Inception features between the faces of `num_frames` frames and the reference's face.

    What ConsisID's evaluation calls FID: a single picture has no covariance, so only the means are left of it. Under
    its own name here; `FaceFrechetDistance` is the set-level one. A clip without a face has none; ConsisID counts it as
    0, the best there is (`faceless=zero`). Source: arXiv 2411.17440, released evaluation.
    """

    def __init__(
        self,
        *,
        analyzer: FaceAnalyzer,
        features: ImageFeatures,
        num_frames: int = 16,
        faceless: str = "left_out",
        **kwargs: Any,
    ):
        if faceless not in ("left_out", "zero"):
            raise ValueError(f"faceless={faceless} is not left_out or zero: metrics.face_inception_distance.faceless")
        super().__init__(
            descriptions={
                "face_inception_distance": "squared distance of the faces' features from the reference's: 0 and up, "
                "lower is more alike"
            },
            undefined="in which, or in whose reference, no face was found",
            features=f"{analyzer.name}, {features.name}",
            **kwargs,
        )
        self.analyzer, self.network = analyzer, features
        self.num_frames, self.faceless = num_frames, faceless

    def update(self, frames: np.ndarray, references: Sequence[np.ndarray]) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, of which the first counts, uint8 RGB."""
        found = faces_of(frames[spread(len(frames), self.num_frames)], self.analyzer)
        reference = faces_of(references[:1], self.analyzer)
        distance = 0.0 if self.faceless == "zero" else float("nan")
        if len(found) and len(reference):
            distance = face_inception_distance(self.network(reference), self.network(found))
        self.add({"face_inception_distance": distance})


class FaceFrechetDistance(SetDistance):
    """Frechet distance between the faces in `num_frames` frames of all clips and the faces of all references.

    The faces of `references` are the real set. Needs many people to mean anything; see `SetDistance`.
    """

    def __init__(
        self,
        *,
        analyzer: FaceAnalyzer,
        features: ImageFeatures,
        num_frames: int = 16,
        name: str = "face_fid",
        **kwargs: Any,
    ):
        super().__init__(
            name=name,
            features=f"{analyzer.name}, {features.name}",
            comparison=f"{name} over {num_frames} frames a clip",
            dim=features.dim,
            ddof=1,
            left_out="clips or references: they show no face",
            **kwargs,
        )
        self.analyzer, self.network, self.num_frames = analyzer, features, num_frames

    def update(self, frames: np.ndarray, references: Sequence[np.ndarray]) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, uint8 RGB. Pictures without a face are left out."""
        for pictures, real in ((frames[evenly_spaced(len(frames), self.num_frames)], False), (references, True)):
            faces = faces_of(pictures, self.analyzer)
            if len(faces):
                self.add(self.network(faces), real)
            else:
                self.num_left_out = self.num_left_out + 1


def face_inception_distance(reference: Tensor, frames: Tensor) -> float:
    """Return the mean squared distance of the rows `frames` (n d) from `reference` (1 d)."""
    return float((frames.double() - reference.double()).square().sum(dim=1).mean())


def faces_of(pictures: Sequence[np.ndarray] | np.ndarray, analyzer: FaceAnalyzer) -> np.ndarray:
    """Return the largest face of each picture that has one, aligned as for ArcFace (n 224 224 3) uint8.

    A picture without a face is searched once more within a grey border, as ConsisID does; what lies outside of the
    picture itself is black.
    """
    found = [(picture, find_faces(analyzer, picture, pads=True)) for picture in pictures]
    aligned = [_align(picture, faces[0]) for picture, faces in found if faces]
    return np.stack(aligned) if aligned else np.zeros((0, FACE_SIZE, FACE_SIZE, 3), np.uint8)


def _align(picture: np.ndarray, face: Face) -> np.ndarray:
    return warp(picture, similarity_transform(face.keypoints, ARCFACE_TEMPLATE * FACE_SIZE / 112), FACE_SIZE)
