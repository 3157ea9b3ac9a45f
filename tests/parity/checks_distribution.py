"""Distances between sets of features and the inception score, against the originals' numbers."""

import numpy as np
import pytest
import torch

from likeness.metrics.face_inception import FACE_SIZE, FaceInceptionDistance
from likeness.metrics.frechet import FeatureDistance
from likeness.metrics.inception_score import InceptionScore
from likeness.models.identity.analyzer import ARCFACE_TEMPLATE, Face

from .golden import Case, fill


def check_metrics_fid_is(case: Case) -> None:
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in case.inputs}
    values = {name: fill(name, shape, case.seed) for name, shape in shapes.items()}
    num_classes = shapes["input.logits"][1]
    real, generated = values["input.real"] * 4 + 1, values["input.fake"] * 5 + np.float32(1.2)
    logits = torch.from_numpy(values["input.logits"].astype(np.float64)) * np.sqrt(num_classes) * 2
    distance = FeatureDistance(
        name="fid", features="given", comparison="fid", dim=real.shape[1], ddof=1, num_resamples=2
    )
    for row in torch.from_numpy(real):
        distance.update(row[None], real=True)
    for row in torch.from_numpy(generated):
        distance.update(row[None])
    score = InceptionScore(features=_Given(), num_frames=len(logits))
    score.update(logits.softmax(dim=1).numpy())
    found = {name: value.item() for name, value in (distance.compute() | score.compute()).items()}
    expected = {
        "fid": case.scalars["fid"],
        "inception_score": case.scalars["inception_score_mean"],
        "inception_score_std": case.scalars["inception_score_std"],
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=case.tolerance["rtol"], abs=case.tolerance["atol"]), name


def check_face_distance(case: Case) -> None:
    """The part of ConsisID's kind `face_metrics` that its evaluation calls FID; the rest is FaceSimilarity's."""
    entries = {entry["name"]: entry for entry in case.inputs}

    def unit(name: str, key: str) -> torch.Tensor:
        shape = tuple(entries[name]["shape"])
        return torch.from_numpy(fill(key, shape, case.seed) * np.float32(np.sqrt(np.prod(shape[1:]))))

    found = entries["face found"]["values"]
    reference = unit("reference inception feature", "input.ref_inception")
    frames = 0.5 * unit("frame inception features", "input.frame_inception") + 0.5 * reference
    faces = _NumberedFaces(torch.cat([reference, frames]), [True, *found])
    pictures = faces.pictures()
    rtol = float(case.tolerance["scalars"].split()[-1])
    for shown, expected in ((pictures[1:], case.scalars["face_fid"]), (pictures[1:][~np.array(found)], 0.0)):
        metric = FaceInceptionDistance(analyzer=faces, features=faces, num_frames=len(found), faceless="zero")
        metric.update(shown, pictures[:1])
        assert metric.compute()["face_inception_distance"].item() == pytest.approx(expected, rel=rtol)
    each = FaceInceptionDistance(analyzer=faces, features=faces)
    for picture in pictures[1:][np.array(found)]:
        each.update(picture[None], pictures[:1])
    expected = case.scalars["face_fid_per_found_frame"]
    assert each.per_clip()["face_inception_distance"].tolist() == pytest.approx(expected, rel=rtol)


class _NumberedFaces:
    """Analyzer and features of pictures whose level is the number of a row of given features."""

    name = "given"
    embedding_dim = 1

    def __init__(self, features: torch.Tensor, found: list[bool]):
        self.features, self.found, self.dim = features, found, features.shape[1]

    def pictures(self) -> np.ndarray:
        numbers = np.arange(len(self.features), dtype=np.uint8)[:, None, None, None]
        return np.tile(numbers, (1, FACE_SIZE, FACE_SIZE, 3))

    def __call__(self, picture: np.ndarray):
        if picture.ndim == 4:
            return self.features[picture[:, FACE_SIZE // 2, FACE_SIZE // 2, 0].astype(int)]
        is_found = self.found[picture[len(picture) // 2, len(picture) // 2, 0]]
        embedding = np.ones(1, np.float32)
        return [Face(np.array([0, 0, 9, 9.0]), ARCFACE_TEMPLATE * 2, 1.0, embedding)] if is_found else []


class _Given:
    """Class probabilities are what is given as frames."""

    name = "given"

    def probabilities(self, frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames)


KINDS = {"metrics_fid_is": check_metrics_fid_is}
