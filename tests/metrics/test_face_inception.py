import numpy as np
import pytest
import torch

from likeness.metrics.face_inception import FACE_SIZE, FaceFrechetDistance, FaceInceptionDistance, faces_of
from likeness.metrics.image_features import SmallImageFeatures
from likeness.metrics.inception_score import InceptionScore
from likeness.models.identity.analyzer import ARCFACE_TEMPLATE, Face

torch.set_num_threads(1)


class FoundByBrightness:
    """Finds a face in pictures that are not black, where an aligned one has it."""

    name, embedding_dim = "by brightness", 2

    def __call__(self, image: np.ndarray) -> list[Face]:
        if image[len(image) // 2, len(image) // 2, 0] == 0:
            return []
        return [Face(np.array([0, 0, 200, 200.0]), ARCFACE_TEMPLATE * 2, 1.0, np.array([1, 0], np.float32))]


class Brightness:
    name, dim = "brightness", 2

    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        middle = torch.from_numpy(frames[:, FACE_SIZE // 2, FACE_SIZE // 2, 0].astype(np.float32))
        return torch.stack([middle, torch.zeros_like(middle)], dim=1)


def pictures(*levels: int) -> np.ndarray:
    return np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, FACE_SIZE, FACE_SIZE, 3), np.uint8)


def distance(**settings) -> FaceInceptionDistance:
    return FaceInceptionDistance(analyzer=FoundByBrightness(), features=Brightness(), **settings)


def test_distance_is_the_mean_square_over_frames_with_a_face():
    metric = distance()
    metric.update(pictures(10, 0, 14), [pictures(12)[0]])
    metric.update(pictures(12, 12), [pictures(12)[0]])
    assert metric.per_clip()["face_inception_distance"].tolist() == [4, 0]
    assert metric.compute()["face_inception_distance"].item() == 2


def test_frames_of_a_short_clip_count_several_times_as_released():
    metric = distance(num_frames=4)
    metric.update(pictures(12, 15), [pictures(12)[0]])
    assert metric.compute()["face_inception_distance"].item() == 9 / 4  # frames 0, 0, 0, 1


def test_clip_without_a_face_is_left_out_or_counts_as_zero_as_released():
    for settings, expected in (({}, 4), ({"faceless": "zero"}, 2)):
        metric = distance(**settings)
        metric.update(pictures(10), [pictures(12)[0]])
        metric.update(pictures(0, 0), [pictures(12)[0]])
        assert metric.compute()["face_inception_distance"].item() == expected
        assert len(metric.notes()) == (0 if settings else 1)
    with pytest.raises(ValueError, match="faceless=skip"):
        distance(faceless="skip")


def test_aligned_face_is_unchanged_and_searched_again_within_a_border():
    assert np.array_equal(faces_of(pictures(9), FoundByBrightness()), pictures(9))

    class OnlyWithinBorder(FoundByBrightness):
        def __call__(self, image):
            return super().__call__(image) if len(image) > FACE_SIZE else []

    found = faces_of(pictures(9), OnlyWithinBorder())
    assert found.shape == (1, FACE_SIZE, FACE_SIZE, 3)
    # Moved by the border, in which faces are only searched: outside of the picture all is black, as cv2 warps it.
    assert found[0, 0, 0, 0] == 0 and found[0, -1, -1, 0] == 9


def test_face_frechet_distance_compares_clips_with_references():
    alike, other = (
        FaceFrechetDistance(analyzer=FoundByBrightness(), features=Brightness(), num_frames=2) for _ in range(2)
    )
    for level in range(40, 60):
        alike.update(pictures(level, level), [pictures(level)[0]])
        other.update(pictures(level + 100, level + 100), [pictures(level)[0]])
    other.update(pictures(0), [pictures(0)[0]])
    assert alike.compute()["face_fid"].item() == pytest.approx(0, abs=0.1)
    assert other.compute()["face_fid"].item() == pytest.approx(100**2, rel=1e-3)
    assert any("left out 2 clips or references: they show no face" in note for note in other.notes())


def test_inception_score_needs_no_full_parts_and_no_order_of_clips():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (6, 4, 16, 16, 3), np.uint8)

    def measure(chosen: np.ndarray) -> float:
        metric = InceptionScore(features=SmallImageFeatures(), num_splits=2, num_frames=4)
        for frames in chosen:
            metric.update(frames)
        return metric.compute()["inception_score"].item()

    assert measure(clips) > 1
    assert measure(clips[::-1]) == measure(clips)
    metric = InceptionScore(features=SmallImageFeatures(), num_frames=4)
    metric.update(clips[0])
    assert metric.compute()["inception_score"].isfinite()
    assert metric.notes() == ["inception_score is over 2 parts instead of 10: there are 4 frames"]
    with pytest.raises(ValueError, match="InceptionScore has seen no clip"):
        InceptionScore(features=SmallImageFeatures()).compute()
