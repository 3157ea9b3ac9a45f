from typing import ClassVar

import numpy as np
import pytest
import torch

from likeness.metrics.face_conventions import find_faces
from likeness.metrics.face_similarity import FaceSimilarity
from likeness.models.identity.analyzer import Face


class Given:
    """An analyzer for pictures that say whom they show: pixel (0, 0) is the number of the person, 0 for none."""

    name, embedding_dim = "given", 3
    people: ClassVar = {1: [1.0, 0, 0], 2: [0, 1.0, 0], 3: [0.6, 0.8, 0], 4: [-1.0, 0, 0], 5: [0, 0, 1.0]}

    def __call__(self, image):
        person = int(image[0, 0, 0]) % 128  # a grey border shows nobody
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
    assert any("1 reference pictures show no face: they are left out" in note for note in metric.notes())


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


CLIPS = [([1, 1], 1), ([2, 0], 3), ([0], 2), ([3, 1, 0], 1), ([2], 0)]


def test_order_of_clips_changes_nothing():
    forward, backward = measured(*CLIPS), measured(*CLIPS[::-1])
    for name, value in forward.compute().items():
        torch.testing.assert_close(backward.compute()[name], value, equal_nan=True)


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


@pytest.mark.parametrize("people", [("p", "p"), None])
def test_two_pictures_of_one_person_are_one_reference(people):
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair((1, 0), (1, 0)), [alone(1), alone(3 if people else 1)], people)
    metric.update(pair((5, 0)), [alone(5)], people and ["q"])
    result = values(metric)
    assert result["detection_rate"] == result["retrieval_top1"] == 1
    cosine = 2 / 5**0.5 if people else 1  # with the mean of (1, 0) and (0.6, 0.8)
    assert result["face_similarity"] == pytest.approx((1 + cosine) / 2)


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


def test_confusion_says_who_is_taken_for_whom():
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair((1, 1), (1, 2), (1, 0)), [alone(1), alone(2)])
    assert metric.confusion().tolist() == [[3, 0], [1, 1]]
    assert values(metric)["confusion_rate"] == pytest.approx(1 / 5)


def test_single_references_confuse_nobody():
    assert measured(([1, 2], 1)).confusion().tolist() == [[2]]
    assert FaceSimilarity(analyzer=Given()).confusion().shape == (0, 0)


def test_frames_above_the_threshold_match():
    metric = measured(([1, 3, 2, 0], 1), ([2], 2), threshold=0.55)
    assert values(metric)["match_rate"] == pytest.approx((2 / 4 + 1) / 2)
    assert "match_rate" not in "".join(metric.notes())


def test_unknown_embedding_space_has_no_threshold_and_says_so():
    metric = measured(([1], 1), ([2], 2))
    assert np.isnan(values(metric)["match_rate"])
    assert any("no verification threshold is known for given" in note for note in metric.notes())


def test_likeness_that_is_lost_is_drift():
    result = values(measured(([1, 1, 3, 3, 2, 2], 1)))
    assert result["drift_thirds"] == pytest.approx(-1)
    assert result["drift_slope"] == pytest.approx(-1.2, abs=0.1)
    assert values(measured(([1, 1, 1], 1)))["drift_slope"] == pytest.approx(0)


def test_clip_of_one_frame_has_no_drift_and_says_so():
    metric = measured(([1], 1), ([2], 2))
    assert np.isnan(values(metric)["drift_slope"])
    assert any("2 references have no face at the start or the end" in note for note in metric.notes())


def test_missing_faces_count_zero_in_the_average_over_all_frames():
    assert values(measured(([1, 0, 0, 0], 1)))["face_similarity_all_frames"] == pytest.approx(1 / 4)


def test_similarity_of_every_frame_can_be_had():
    metric = measured(([1, 0, 3], 1), ([2, 2], 2))
    torch.testing.assert_close(metric.per_frame()[0], torch.tensor([[1.0, torch.nan, 0.6]]), equal_nan=True)
    assert metric.per_frame()[1].tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("convention", "expected"), [("consisid", (1 + 0.6 + 0) / 3), ("opens2v_arc", 1.6 / 3), ("opens2v_cur", 1.6 / 2)]
)
def test_published_averages_differ_in_frames_with_similarity_zero(convention, expected):
    metric = measured(([1, 3, 4, 0], 1), convention=convention, num_frames=4)
    assert values(metric)["face_similarity"] == pytest.approx(expected)
    assert values(metric)["detection_rate"] == 3 / 4


@pytest.mark.parametrize(("convention", "expected"), [("consisid", 0), ("opens2v_cur", 0), ("likeness", -1)])
def test_similarity_over_all_frames_takes_negative_ones_as_the_other_does(convention, expected):
    result = values(measured(([4, 4], 1), convention=convention))
    assert result["face_similarity_all_frames"] == expected


@pytest.mark.parametrize(("convention", "num_frames"), [("consisid", 16), ("opens2v_arc", 32), ("opens2v_cur", 32)])
def test_published_evaluations_look_at_this_many_frames(convention, num_frames):
    frames = show(*[1] * 90)
    frames[:, 0, 1, 0] = range(90)
    seen = []

    class Watching(Given):
        def __call__(self, image):
            seen.append(int(image[0, 1, 0]))
            return super().__call__(image)

    metric = FaceSimilarity(analyzer=Watching(), convention=convention)
    metric.update(frames, [frames[0]])
    assert sorted(seen[1:]) == [int(89 * place / (num_frames - 1)) for place in range(num_frames)]
    assert metric.per_clip()["num_analysed"] == num_frames


@pytest.mark.parametrize("convention", ["consisid", "opens2v_arc", "opens2v_cur"])
def test_published_evaluations_score_a_clip_without_faces_zero(convention):
    metric = measured(([0, 0], 1), ([1], 1), convention=convention)
    assert values(metric)["face_similarity"] == pytest.approx(0.5)
    assert any("they count 0 for similarity" in note for note in metric.notes())


def test_short_clip_is_looked_at_repeatedly_only_where_the_published_evaluation_does():
    assert measured(([1, 2], 1)).per_clip()["num_analysed"] == 2
    repeated = measured(([1, 2], 1), convention="consisid")
    assert repeated.per_frame()[0].tolist() == [[1.0] * 15 + [0.0]]


class CloseUp:
    """Finds the face only where the picture has a border: at least 10 pixels high."""

    name, embedding_dim, det_size = "close-up", 3, 320

    def __call__(self, image):
        if len(image) < 10:
            return []
        keypoints = np.full((5, 2), 4.0, np.float32)
        return [Face(np.array([2.0, 3, 6, 7]), keypoints, 1.0, np.array([1.0, 0, 0], np.float32))]


def test_face_that_fills_the_picture_is_found_with_a_border():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    (face,) = find_faces(CloseUp(), frames[0], pads=True)
    assert face.keypoints[0].tolist() == [2, 2]  # 8 * 25 % less
    assert face.box.tolist() == [0, 1, 4, 5]
    for convention, rate in (("consisid", 1), ("likeness", 0)):
        metric = FaceSimilarity(analyzer=CloseUp(), convention=convention)
        metric.update(frames, [frames[0]])
        assert metric.compute()["detection_rate"] == rate


class Reversed:
    """Embedder that sees the opposite of what the picture says."""

    name, embedding_dim = "reversed", 3

    def __call__(self, image, keypoints):
        return -np.array(Given.people[int(image[0, 0, 0])], np.float32)[None].repeat(len(keypoints), 0)


def test_embedder_recognises_what_the_analyzer_finds():
    metric = measured(([1, 4], 4), embedder=Reversed())
    assert values(metric)["face_similarity"] == pytest.approx(0)
    assert metric.features == "reversed, found by given"


def test_pictures_of_one_person_do_not_compete():
    clip, other = show(3), show(2)
    anonymous, named = FaceSimilarity(analyzer=Given()), FaceSimilarity(analyzer=Given())
    for metric, names in ((anonymous, (None, None, None)), (named, (["Ada"], ["Ada"], ["Bob"]))):
        metric.update(clip, [show(1)[0]], names[0])
        metric.update(other, [other[0]], names[1])
        metric.update(show(5), [show(5)[0]], names[2])
    assert values(anonymous)["retrieval_top1"] == pytest.approx(2 / 3)
    assert values(named)["retrieval_top1"] == 1
    assert values(named)["retrieval_chance"] == 0.5


def test_distractors_join_the_gallery(tmp_path):
    for name, person in (("a", 3), ("b", 0)):
        write_pixels(tmp_path / f"{name}.png", show(person)[0])
    metric = measured(([3], 1), distractors=tmp_path)
    assert values(metric)["retrieval_mean_rank"] == 2
    assert values(metric)["retrieval_chance"] == 0.5
    assert any("1 pictures of distractors show no face" in note for note in metric.notes())


def write_pixels(path, pixels):
    from PIL import Image

    Image.fromarray(pixels).save(path)


def test_prefix_stands_before_every_name():
    metric = measured(([1], 1), prefix="arc_")
    names = {*metric.compute(), *metric.per_clip()}
    assert all(name.startswith("arc_") for name in names)
    assert set(metric.compute()) <= set(metric.descriptions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"convention": "consistid"}, "convention=consistid is unknown: choose likeness, consisid"),
        ({"distractors": "gone"}, "distractors=gone holds no picture"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FaceSimilarity(analyzer=Given(), **settings)


def test_published_convention_refuses_another_detector_size():
    analyzer = Given()
    analyzer.det_size = 640
    with pytest.raises(ValueError, match="convention=consisid detects at 320 pixels, not at analyzer.det_size=640"):
        FaceSimilarity(analyzer=analyzer, convention="consisid")
    FaceSimilarity(analyzer=analyzer)


@pytest.mark.parametrize(("frames", "references"), [(0, 1), (1, 0)])
def test_clip_of_nothing_is_refused(frames, references):
    with pytest.raises(ValueError, match=f"a clip has {frames} frames and {references} references"):
        FaceSimilarity(analyzer=Given()).update(show(*[1] * frames).reshape(-1, 2, 2, 3), [show(1)[0]] * references)


@pytest.mark.parametrize(
    ("frame", "first", "missing"),
    [
        ((1, 0), 1, "no frame shows all people"),
        ((0, 0), 1, "no frame shows all"),
        ((1, 2), 0, "confusion_rate is undef"),
    ],
)
def test_undefined_assignment_is_noted(frame, first, missing):
    metric = FaceSimilarity(analyzer=SideBySide())
    metric.update(pair(frame), [alone(first), alone(2)])
    assert any(missing in note for note in metric.notes())


@pytest.mark.parametrize("people", [([0, 0], 0), ([0], 1), ([1], 0), ([1], 1)])
@pytest.mark.parametrize("convention", ["likeness", "consisid", "opens2v_cur"])
def test_no_value_is_undefined_without_a_note(people, convention):
    metric = measured(people, convention=convention)
    if any(value.isnan() for value in metric.compute().values()):
        assert metric.notes()
