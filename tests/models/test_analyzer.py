import copy

import numpy as np
import pytest

from likeness.models.identity.analyzer import ARCFACE_TEMPLATE, CachedAnalyzer, similarity_transform


def test_similarity_transform_recovers_rotation_scale_and_shift():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(5, 2))
    angle, scale, shift = 0.7, 2.5, np.array([3.0, -4.0])
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity_transform(source, source @ rotation.T + shift)
    np.testing.assert_allclose(matrix, np.concatenate([rotation, shift[:, None]], 1), atol=1e-9)


def test_similarity_transform_never_mirrors():
    source = ARCFACE_TEMPLATE.astype(float)
    mirrored = source * [-1, 1]
    assert np.linalg.det(similarity_transform(source, mirrored)[:, :2]) > 0


@pytest.mark.filterwarnings("ignore")
def test_similarity_transform_equals_insightface():
    face_align = pytest.importorskip("insightface.utils.face_align")
    rng = np.random.default_rng(1)
    for _ in range(5):
        points = ARCFACE_TEMPLATE * rng.uniform(1, 3) + rng.normal(0, 3, (5, 2)) + rng.uniform(0, 100, 2)
        np.testing.assert_allclose(
            similarity_transform(points, ARCFACE_TEMPLATE),
            face_align.estimate_norm(points.astype(np.float32), 112),
            rtol=1e-4,
            atol=1e-3,
        )


def test_cached_analyzer_looks_once_and_forgets_the_oldest():
    looked = []

    class Watching:
        name, embedding_dim, det_size = "watching", 3, 320

        def __call__(self, image):
            looked.append(int(image[0, 0, 0]))
            return []

    cached = CachedAnalyzer(Watching(), num_pictures=2)
    first, second, third = (np.full((2, 2, 3), value, np.uint8) for value in (1, 2, 3))
    for image in (first, second, first.copy(), second, third, first):
        assert cached(image) == []
    assert looked == [1, 2, 3, 1]
    assert (cached.name, cached.embedding_dim, cached.det_size) == ("watching", 3, 320)
    with pytest.raises(AttributeError):
        cached.missing  # noqa: B018
    assert copy.copy(cached).name == "watching"
