from typing import ClassVar

import numpy as np
import pytest
import torch

from likeness.metrics.face_similarity import FaceSimilarity
from likeness.models.identity.analyzer import Face


class Given:
    """An analyzer for pictures that say whom they show: pixel (0, 0) is the number of the person, 0 for none."""

    name, embedding_dim = "given", 3
    people: ClassVar = {1: [1.0, 0, 0], 2: [0, 1.0, 0], 3: [0.6, 0.8, 0]}

    def __call__(self, image):
        person = int(image[0, 0, 0])
        if not person:
            return []
        return [Face(np.zeros(4), np.zeros((5, 2)), 1.0, np.array(self.people[person], np.float32))]


def show(*people) -> np.ndarray:
    frames = np.zeros((len(people), 2, 2, 3), np.uint8)
    frames[:, 0, 0, 0] = people
    return frames


def measured(*clips, **settings) -> FaceSimilarity:
    metric = FaceSimilarity(analyzer=Given(), **settings)
    for frames, reference in clips:
        metric.update(show(*frames), show(reference)[0])
    return metric


def values(metric: FaceSimilarity) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_known_answer():
    result = values(measured(([1, 1], 1), ([3, 3], 2)))
    assert result["face_similarity"] == pytest.approx((1 + 0.8) / 2)
    assert result["detection_rate"] == 1
    assert result["retrieval_top1"] == 1
    assert result["retrieval_chance"] == 0.5


def test_wrong_person_ranks_behind():
    result = values(measured(([2, 2], 1), ([2], 2)))
    assert result["face_similarity"] == pytest.approx(0.5)
    assert result["retrieval_top1"] == 0.5
    assert result["retrieval_mean_rank"] == 1.5


def test_frames_without_a_face_lower_the_detection_rate_and_not_the_similarity():
    metric = measured(([1, 0, 0, 0], 1), ([2], 2))
    assert values(metric)["face_similarity"] == 1
    assert values(metric)["detection_rate"] == pytest.approx(2 / 5)


def test_clip_without_any_face_is_a_failure_and_noted():
    metric = measured(([0, 0], 1), ([2], 2))
    result = values(metric)
    assert result["face_similarity"] == 1
    assert result["retrieval_top1"] == 0.5
    assert any("1 clips have no face" in note for note in metric.notes())


def test_reference_without_a_face_is_left_out_and_noted():
    metric = measured(([1], 0), ([2], 2), ([1], 1))
    result = values(metric)
    assert result["retrieval_top1"] == 1
    assert result["face_similarity"] == 1
    assert any("reference picture without a face" in note for note in metric.notes())


def test_single_reference_says_that_retrieval_means_nothing():
    assert any("at least two" in note for note in measured(([1], 1), ([1], 1)).notes())


def test_several_clips_of_a_person_are_one_entry_of_the_gallery():
    assert values(measured(([1], 1), ([1], 1), ([2], 2)))["retrieval_chance"] == 0.5


def test_only_the_given_number_of_frames_is_analysed():
    metric = measured(([1] * 50, 1), num_frames=4)
    assert metric.per_clip()["num_analysed"].item() == 4


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_clip_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="has seen no clip"):
        FaceSimilarity(analyzer=Given()).compute()


def test_merging_two_halves_equals_one_run():
    clips = [([1, 1], 1), ([2, 0], 3), ([0], 2), ([3], 1)]
    together, first, second = measured(*clips), measured(*clips[:2]), measured(*clips[2:])
    states = ("clip_embeddings", "reference_embeddings", "similarity", "num_found", "num_analysed")
    for name in states:
        setattr(first, name, getattr(first, name) + getattr(second, name))
    for name, value in together.compute().items():
        torch.testing.assert_close(first.compute()[name], value, equal_nan=True)
