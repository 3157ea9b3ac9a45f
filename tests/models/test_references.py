"""From photographs to reference pictures: alignment, the background rule, and what is said where there is no face."""

import logging

import numpy as np
import pytest
from omegaconf import OmegaConf

from likeness.config import CONF_DIR
from likeness.models.identity.analyzer import ARCFACE_TEMPLATE, Face, similarity_transform
from likeness.models.identity.references import BACKGROUND_LABELS, ReferencePreprocessor, warp
from likeness.toy.analyzer import TEMPLATE, ToyFaceAnalyzer
from likeness.toy.clips import draw_clip
from likeness.toy.people import make_person


def turned(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    """The (2, 3) matrix that turns, scales and shifts points."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def smooth_picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 17 + y / 31), 255 * x / width, 255 * y / height], -1).astype(np.uint8)


class KnownFaces:
    """An analyzer that is told what it finds."""

    name, embedding_dim = "known", 4

    def __init__(self, *keypoints: np.ndarray):
        self.faces = [
            Face(np.concatenate([points.min(0), points.max(0)]), points, 1.0, np.eye(4, dtype=np.float32)[0])
            for points in keypoints
        ]

    def __call__(self, image: np.ndarray) -> list[Face]:
        return sorted(self.faces, key=lambda face: -face.area)


class Bands:
    """A parser that gives each label a band of the picture's rows, of a share of the height."""

    name = "bands"

    def __init__(self, **shares: float):
        self.shares = {int(label.removeprefix("label")): share for label, share in shares.items()}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        heights = [round(share * len(image)) for share in self.shares.values()]
        rows = np.repeat(list(self.shares), heights).astype(np.uint8)
        return np.broadcast_to(rows[:, None], image.shape[:2])


@pytest.mark.parametrize("matrix", [turned(1.7, 0.3, (9.4, -20.2)), turned(0.31, -1.2, (40, 60)), turned(1, 0, (0, 0))])
def test_warp_equals_opencv(matrix):
    cv2 = pytest.importorskip("cv2")
    image = smooth_picture(150, 200)
    expected = cv2.warpAffine(image, matrix, (120, 120), borderValue=0.0).astype(int)
    ours = warp(image, matrix, 120).astype(int)
    inside = (expected > 0).all(-1) & (ours > 0).all(-1)
    assert inside.mean() > 0.15
    # OpenCV rounds coordinates to 1/32 of a pixel; this picture changes by up to 6 a pixel.
    assert np.abs(ours - expected)[inside].max() <= 1
    assert np.abs(ours - expected).mean() < 0.2


def test_warp_is_black_outside_and_exact_on_whole_pixels():
    image = smooth_picture(20, 30)
    moved = warp(image, np.array([[1.0, 0, 5], [0, 1, 2]]), 40)
    np.testing.assert_array_equal(moved[2:22, 5:35], image)
    assert moved[:2].sum() == moved[:, :5].sum() == moved[22:].sum() == moved[:, 35:].sum() == 0


@pytest.mark.filterwarnings("ignore")
def test_crop_equals_insightface():
    face_align = pytest.importorskip("insightface.utils.face_align")
    matrix = turned(2.1, 0.2, (100, 40))
    points = (ARCFACE_TEMPLATE @ matrix[:, :2].T + matrix[:, 2] + [[2, -1], [0, 3], [1, 1], [-2, 0], [1, 2]]).astype(
        "f4"
    )
    image = smooth_picture(400, 400)
    ours = ReferencePreprocessor(analyzer=KnownFaces(points))(image).crop.astype(int)
    expected = face_align.norm_crop(image, points, 448).astype(int)
    assert ours.shape == (448, 448, 3)
    assert np.abs(ours - expected).max() <= 2


@pytest.mark.parametrize("angle", [-0.6, 0.0, 0.9])
def test_keypoints_land_on_the_template_times_four(angle):
    matrix = turned(0.8, angle, (150, 120))
    points = ARCFACE_TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    image = np.zeros((400, 400, 3), np.uint8)
    y, x = np.mgrid[:400, :400]
    for channel, number in enumerate((0, 2, 4)):  # soft dots, whose centre of mass can be measured
        distance = (x - points[number, 0]) ** 2 + (y - points[number, 1]) ** 2
        image[..., channel] = 255 * np.exp(-distance / 18)
    crop = ReferencePreprocessor(analyzer=KnownFaces(points))(image).crop.astype(float)
    y, x = np.mgrid[:448, :448]
    for channel, number in enumerate((0, 2, 4)):
        weight = crop[..., channel] / crop[..., channel].sum()
        found = np.array([(weight * x).sum(), (weight * y).sum()])
        np.testing.assert_allclose(found, 4 * ARCFACE_TEMPLATE[number], atol=0.5)


def test_the_largest_face_is_taken():
    small, large = ARCFACE_TEMPLATE / 4, ARCFACE_TEMPLATE + 150
    prepared = ReferencePreprocessor(analyzer=KnownFaces(small, large))(smooth_picture(300, 300))
    np.testing.assert_array_equal(prepared.face.keypoints, large)


@pytest.mark.parametrize(("foreground", "is_masked"), [(0.375, False), (0.40625, True)])
def test_background_is_blacked_only_where_enough_of_the_person_is_left(foreground, is_masked):
    parser = Bands(label1=foreground, label18=1 - foreground)
    image = np.full((64, 64, 3), 200, np.uint8)
    prepared = ReferencePreprocessor(analyzer=KnownFaces(ARCFACE_TEMPLATE / 2), parser=parser, size=32)
    reference = prepared(np.broadcast_to(image, image.shape))
    assert reference.foreground_share == foreground
    assert reference.is_masked == is_masked
    assert reference.unmasked.any(-1).mean() == pytest.approx(reference.crop.any(-1).mean()) or is_masked
    rows = round(foreground * 32)
    np.testing.assert_array_equal(reference.crop[:rows], reference.unmasked[:rows])
    assert reference.crop[rows:].any() != is_masked


def test_neck_is_kept_and_hat_jewellery_and_cloth_are_not():
    labels = {"label1": 0.25, "label17": 0.25, "label13": 0.125, "label14": 0.125, "label16": 0.125, "label18": 0.125}
    image = np.full((80, 80, 3), 200, np.uint8)
    reference = ReferencePreprocessor(analyzer=KnownFaces(), parser=Bands(**labels))(image)
    assert 17 not in BACKGROUND_LABELS
    assert reference.foreground_share == 0.625
    assert reference.crop[:50].all()
    assert not reference.crop[50:].any()


def test_without_a_face_the_whole_picture_is_used_with_a_warning(caplog):
    image = smooth_picture(30, 50)
    with caplog.at_level(logging.WARNING):
        reference = ReferencePreprocessor(analyzer=KnownFaces())(image, "me.png")
    np.testing.assert_array_equal(reference.crop, image)
    assert reference.record == {"face_found": False, "foreground_share": None, "is_masked": False}
    assert "no face was found in me.png" in caplog.text


def test_toy_option_frames_drawn_people_as_the_toy_world_does():
    option = OmegaConf.load(CONF_DIR / "preprocess" / "toy.yaml")
    np.testing.assert_allclose(option.template, TEMPLATE)
    clip = draw_clip(
        [make_person(np.random.default_rng([991_000, 4]))],
        np.random.default_rng(0),
        num_frames=1,
        height=96,
        width=96,
        fps=8,
    )
    analyzer = ToyFaceAnalyzer()
    preprocess = ReferencePreprocessor(analyzer=analyzer, size=option.size, template=option.template)
    reference = preprocess(clip.frames[0])
    (face,) = analyzer(reference.crop)
    # Where the analyzer finds the keypoints again: the detector is a pixel or two off, on 64.
    np.testing.assert_allclose(face.keypoints, TEMPLATE * 64, atol=4)
    matrix = similarity_transform(reference.face.keypoints, TEMPLATE * 64)
    placed = clip.keypoints[0, 0] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(placed, TEMPLATE * 64, atol=6)
    assert float(face.embedding @ reference.face.embedding) > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"analyzer": None}, "preprocess needs a face analyzer: analyzer=insightface"),
        ({"size": 0}, "size=0 must be at least 1"),
        ({"min_foreground": 1.5}, r"min_foreground=1.5 must lie in \[0, 1\]"),
        ({"template": [[0.5, 0.5]]}, "it must be 5 points"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ReferencePreprocessor(**{"analyzer": KnownFaces(), **settings})
