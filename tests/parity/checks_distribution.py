"""Distances between sets of features and the inception score, against the originals' numbers."""

import numpy as np
import pytest
import torch

from likeness.metrics.frechet import FeatureDistance
from likeness.metrics.inception_score import InceptionScore

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


class _Given:
    """Class probabilities are what is given as frames."""

    name = "given"

    def probabilities(self, frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames)


KINDS = {"metrics_fid_is": check_metrics_fid_is}
