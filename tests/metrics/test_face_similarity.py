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
        metric.update(show(*frames), [show(reference)[0]])
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
    assert any("1 references have no face" in note for note in metric.notes())


def test_reference_without_a_face_is_left_out_and_noted():
    metric = measured(([1], 0), ([2], 2), ([1], 1))
    result = values(metric)
    assert result["retrieval_top1"] == 1
    assert result["face_similarity"] == 1
    assert any("1 reference pictures show no face" in note for note in metric.notes())


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
    for name in first.metric_state:
        setattr(first, name, getattr(first, name) + getattr(second, name))
    for name, value in together.compute().items():
        torch.testing.assert_close(first.compute()[name], value, equal_nan=True)


class SideBySide:
    """Pixels (0, 0) and (0, 1) say who stands left and right, 0 for nobody; the one at the right is larger."""

    name, embedding_dim = "side by side", 3

    def __call__(self, image):
        people = [(x, int(image[0, x, 0])) for x in (1, 0) if image[0, x, 0]]
        size = np.zeros((5, 2))
        return [
            Face(np.array([x, 0, x + 1 + x, 1.0]), size, 1.0, np.array(Given.people[person], np.float32))
            for x, person in people
        ]


def pair(*people) -> np.ndarray:
    frames = np.zeros((len(people), 2, 2, 3), np.uint8)
    frames[:, 0, :, 0] = people
    return frames


def alone(person: int) -> np.ndarray:
    return pair((person, 0))[0]


def test_two_people_in_their_places():
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair((1, 2), (1, 2), (1, 0)), [alone(1), alone(2)])
    result = values(metric)
    assert result["face_similarity"] == 1
    assert result["detection_rate"] == pytest.approx(5 / 6)
    assert (result["assignment_accuracy"], result["assignment_chance"]) == (1, 0.5)
    assert result["all_faces_rate"] == pytest.approx(2 / 3)
    assert result["retrieval_top1"] == 1


def test_swapped_people_keep_the_similarity_and_lose_the_assignment():
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair((2, 1)), [alone(1), alone(2)])
    result = values(metric)
    assert result["face_similarity"] == 1
    assert result["assignment_accuracy"] == 0


def test_one_person_twice_is_right_once():
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair((1, 1)), [alone(1), alone(2)])
    result = values(metric)
    assert result["face_similarity"] == pytest.approx(0.5)
    assert result["assignment_accuracy"] == 0.5


def test_values_of_a_clip_are_the_mean_over_its_references():
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair((1, 1)), [alone(1), alone(2)])
    metric.update(pair((3, 0)), [alone(3)])
    torch.testing.assert_close(metric.per_clip()["similarity"], torch.tensor([0.5, 1.0]))
    assert values(metric)["assignment_accuracy"] == 0.5


def test_single_references_have_no_assignment():
    assert "assignment_accuracy" not in measured(([1], 1)).compute()
