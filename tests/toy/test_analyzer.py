import numpy as np
import pytest

from likeness.toy.analyzer import ToyFaceAnalyzer
from likeness.toy.clips import draw_clip
from likeness.toy.people import make_person

SEED = 991_000  # people that no world and not the analyzer's training have drawn


@pytest.fixture(scope="module")
def analyzer():
    return ToyFaceAnalyzer()


def clip_of(*people: int, clip: int = 0, **settings):
    drawn = [make_person(np.random.default_rng([SEED, person])) for person in people]
    size = {"num_frames": 3, "height": 64, "width": 64 * len(people), "fps": 4.0, **settings}
    return draw_clip(drawn, np.random.default_rng([SEED, *people, clip]), **size)


def iou(first, second) -> float:
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    overlap = np.prod(np.maximum(high - low, 0))
    return overlap / (np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - overlap)


def test_finds_the_face_of_every_drawn_person_and_its_keypoints(analyzer):
    overlaps, errors = [], []
    for person in range(40):
        clip = clip_of(person)
        (face,) = analyzer(clip.frames[0])
        overlaps.append(iou(face.box, clip.boxes[0, 0]))
        errors.append(np.linalg.norm(face.keypoints - clip.keypoints[0, 0], axis=1).mean())
    assert np.mean(overlaps) > 0.75
    assert np.mean(errors) < 2.0


def test_works_at_the_size_of_the_frame(analyzer):
    clip = clip_of(3, height=128, width=128)
    (face,) = analyzer(clip.frames[0])
    assert iou(face.box, clip.boxes[0, 0]) > 0.6


def test_finds_two_people(analyzer):
    clip = clip_of(1, 2)
    faces = sorted(analyzer(clip.frames[0]), key=lambda face: face.box[0])
    assert len(faces) == 2
    assert all(iou(face.box, clip.boxes[0, place]) > 0.5 for place, face in enumerate(faces))


def test_real_clips_of_32_people_rank_their_own_person_first(analyzer):
    def embedding(person, clip):
        return np.mean([analyzer(frame)[0].embedding for frame in clip_of(person, clip=clip).frames], axis=0)

    gallery = np.stack([embedding(person, 0) for person in range(32)])
    queries = np.stack([embedding(person, 1) for person in range(32)])
    assert ((queries @ gallery.T).argmax(1) == np.arange(32)).mean() >= 0.95


def test_embeddings_have_unit_norm(analyzer):
    (face,) = analyzer(clip_of(5).frames[0])
    assert face.embedding.shape == (64,)
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)


def test_pictures_without_a_face_have_none(analyzer):
    rng = np.random.default_rng(0)
    walls = [np.full((64, 64, 3), rng.integers(0, 255, 3), np.uint8) for _ in range(20)]
    noise = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(20)]
    shuffled = []
    for person in range(20):
        frame = clip_of(person).frames[0]
        tiles = [frame[y : y + 8, x : x + 8] for y in range(0, 64, 8) for x in range(0, 64, 8)]
        order = rng.permutation(64)
        shuffled.append(
            np.concatenate([np.concatenate([tiles[i] for i in order[r * 8 : r * 8 + 8]], 1) for r in range(8)])
        )
    assert sum(bool(analyzer(image)) for image in walls + noise + shuffled) <= 2


def test_impossible_threshold_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        ToyFaceAnalyzer(threshold=1.5)
