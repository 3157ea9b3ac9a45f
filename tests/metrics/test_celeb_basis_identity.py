import numpy as np
import pytest
import torch

from likeness.metrics.celeb_basis_identity import CelebBasisIdentity, compare_embeddings
from likeness.models.identity.analyzer import Face

VECTORS = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)


class Numbered:
    """A picture shows the face of its first number, from 1; 0 for none, and 9 for two, the smaller one surer."""

    name, embedding_dim = "numbered", 2

    def __call__(self, image):
        number = int(image[0, 0, 0])
        if number == 9:
            return [self._face(4, 0.7), self._face(1, 0.9)]
        return [self._face(number, 0.8)] if number else []

    def _face(self, number: int, score: float) -> Face:
        return Face(np.zeros(4), np.full((5, 2), number, np.float32), score, VECTORS[number - 1])


class ByKeypoint:
    name, embedding_dim = "by keypoint", 2

    def __call__(self, image, keypoints):
        return np.stack([VECTORS[int(points[0, 0]) - 1] for points in keypoints])


def pictures(*numbers: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), number, np.uint8) for number in numbers]


def measured(*prompts: tuple[list[int], int]) -> CelebBasisIdentity:
    metric = CelebBasisIdentity(analyzer=Numbered(), embedder=ByKeypoint())
    for made, photo in prompts:
        metric.update(pictures(*made), pictures(photo))
    return metric


def values(*prompts: tuple[list[int], int]) -> dict[str, float]:
    return {name: value.item() for name, value in measured(*prompts).compute().items()}


def test_mean_over_prompts_of_the_mean_over_faces():
    result = values(([1, 2, 0], 1), ([1], 1))
    assert result["celeb_basis_identity"] == pytest.approx((0.8 + 1) / 2)
    # |a - b|^2 / d = (2 - 2 cos) / d
    assert result["celeb_basis_mse"] == pytest.approx(((2 - 1.6) / 2 + 0) / 2)
    assert result["celeb_basis_l2"] == pytest.approx(np.sqrt(0.1 * 2) / 2)


def test_rates_with_and_without_the_photo():
    result = values(([1, 2, 0, 0], 1))
    assert result["celeb_basis_detection_rate"] == pytest.approx(2 / 4)
    assert result["celeb_basis_detection_rate_published"] == pytest.approx(3 / 5)


def test_prompts_without_likeness_or_face_are_left_out_and_noted():
    metric = measured(([1], 1), ([4, 3], 1), ([0], 1), ([1], 0))
    assert metric.compute()["celeb_basis_identity"] == 1
    assert metric.per_clip()["celeb_basis_cosine"].isnan().tolist() == [False, True, True, True]
    notes = " | ".join(metric.notes())
    assert "1 photos show no face" in notes
    assert "1 prompts have no picture with a face" in notes
    assert "1 prompts have a mean cosine of at most 0" in notes


def test_surest_face_counts():
    assert values(([9], 1))["celeb_basis_identity"] == 1


def test_comparison_of_a_known_pair():
    scores = compare_embeddings(torch.tensor([[2.0, 0]]), torch.tensor([[0, 3.0]]))
    assert scores["cosine"].item() == 0
    assert scores["mse"].item() == 1
    assert scores["l2"].item() == pytest.approx(np.sqrt(2) / 2)


def test_several_photos_are_refused():
    with pytest.raises(ValueError, match="there are 2 references"):
        CelebBasisIdentity(analyzer=Numbered(), embedder=ByKeypoint()).update(pictures(1), pictures(1, 2))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_picture_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="has seen no picture"):
        measured().compute()
