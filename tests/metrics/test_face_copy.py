import numpy as np
import pytest

from likeness.metrics.face_copy import FaceCopy, overlap, pose_distance
from likeness.models.identity.analyzer import ARCFACE_TEMPLATE, Face

SIDE = 112
RNG = np.random.default_rng(0)
FACES = [
    np.repeat(np.repeat(np.random.default_rng(seed).integers(0, 255, (14, 14, 3), np.uint8), 8, 0), 8, 1)
    for seed in range(4)
]
TURNED = ARCFACE_TEMPLATE + np.array([[0, 0], [-6, 0], [14, 0], [0, 0], [-6, 0]], np.float32)


class Marked:
    """Finds a face where pixel (0, 0) is not black; its first number says how the face stands: 1 straight, 2 turned."""

    name, embedding_dim = "marked", 3

    def __call__(self, image):
        pose = int(image[0, 0, 0])
        if not pose:
            return []
        keypoints = ARCFACE_TEMPLATE if pose == 1 else TURNED
        box = np.array([20, 20, 92, 110], np.float32)
        return [Face(box, keypoints, 1.0, np.array([1.0, 0, 0], np.float32))]


def view(face: int, pose: int = 1) -> np.ndarray:
    image = FACES[face].copy()
    image[0, 0] = pose
    return image


def values(*clips) -> dict[str, float]:
    return {name: value.item() for name, value in measured(*clips).compute().items()}


def measured(*clips) -> FaceCopy:
    metric = FaceCopy(analyzer=Marked())
    for frames, references in clips:
        metric.update(np.stack(frames), references)
    return metric


def test_pasted_photo_is_a_copy_in_every_frame():
    metric = measured(([view(0)] * 4, [view(0)]))
    result = {name: value.item() for name, value in metric.compute().items()}
    assert result["face_copy"] == 1
    assert result["pose_distance"] == pytest.approx(0, abs=1e-5)
    assert result["face_correlation"] == pytest.approx(1, abs=1e-4)
    assert result["crop_overlap"] == pytest.approx(1)
    assert result["face_motion"] == pytest.approx(0, abs=1e-5)
    assert result["frame_equality"] == 1
    assert "1 of 1 clips show the reference picture's own face" in metric.notes()[0]


def test_another_face_in_the_same_pose_and_the_same_face_in_another_pose_are_no_copies():
    assert values(([view(1)] * 4, [view(0)]))["face_copy"] == 0
    turned = values(([view(0, pose=2)] * 4, [view(0)]))
    assert turned["face_copy"] == 0
    assert turned["pose_distance"] > 0.1


def test_share_of_copied_frames_is_counted():
    result = values(([view(0), view(0), view(0), view(1, pose=2)], [view(0)]))
    assert result["face_copy"] == pytest.approx(3 / 4)
    assert result["frame_equality"] == pytest.approx(3 / 4)
    assert result["face_motion"] > 0


def test_of_several_references_the_copied_one_counts():
    assert values(([view(2)] * 3, [view(1), view(2)]))["face_copy"] == 1


def test_what_cannot_be_compared_is_undefined_and_noted():
    metric = measured(([view(0, pose=0)] * 2, [view(0)]), ([view(0)] * 2, [view(0, pose=0)]), ([view(0)], [view(0)]))
    assert metric.per_clip()["face_copy"].isnan().tolist() == [True, True, False]
    assert metric.per_clip()["face_motion"].isnan().all()
    notes = " | ".join(metric.notes())
    assert "1 clips have no reference picture with a face" in notes
    assert "1 clips show no face" in notes
    assert "1 clips show a face in one frame only" in notes


def test_pose_distance_is_blind_to_place_size_and_roll_only():
    angle = 0.3
    turn = 1.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert pose_distance(ARCFACE_TEMPLATE @ turn.T + 9, ARCFACE_TEMPLATE) == pytest.approx(0, abs=1e-5)
    opened = ARCFACE_TEMPLATE + np.array([[0, 0], [0, 0], [0, 0], [0, 8], [0, 8]], np.float32)
    assert pose_distance(opened, ARCFACE_TEMPLATE) > 0.05


def test_overlap_of_boxes():
    assert overlap(np.array([0, 0, 2, 2.0]), np.array([1, 0, 3, 2.0])) == pytest.approx(1 / 3)
    assert overlap(np.array([0, 0, 1, 1.0]), np.array([2, 2, 3, 3.0])) == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_clip_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="has seen no clip"):
        FaceCopy(analyzer=Marked()).compute()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="num_frames=0"):
        FaceCopy(analyzer=Marked(), num_frames=0)
    with pytest.raises(ValueError, match="1 frames and 0 references"):
        FaceCopy(analyzer=Marked()).update(np.stack([view(0)]), [])
