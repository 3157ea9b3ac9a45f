"""Templates, landmarks and crops of faces, beyond what the golden cases hold."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from likeness.config import CONF_DIR
from likeness.models.identity.alignment import TEMPLATES, alignment, cut_ffhq, ffhq_crop, source_quad, template_points
from likeness.models.identity.crops import crop_and_resize, expanded_box, pad_pictures, square_box
from likeness.models.identity.masks import latent_mask
from likeness.models.identity.references import ReferencePreprocessor
from likeness.toy.analyzer import ToyFaceAnalyzer


@pytest.mark.parametrize("name", TEMPLATES)
def test_alignment_brings_points_to_the_template(name):
    points = template_points(name, 200) * 1.5 + (30, -12)
    matrix = alignment(points, name, 200)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], template_points(name, 200), atol=1e-9)
    np.testing.assert_allclose(source_quad(matrix, 200), [[30, -12], [30, 288], [330, 288], [330, -12]], atol=1e-9)


def test_an_unknown_template_is_refused():
    with pytest.raises(ValueError, match="template='lfw' is not one of ffhq, arcface, set1, mtcnn"):
        template_points("lfw", 112)


@pytest.mark.parametrize(("name", "size"), [("ffhq", 512), ("celeb_basis", 256)])
def test_preprocessing_by_name_aligns_to_ffhq(name, size):
    config = OmegaConf.load(CONF_DIR / "preprocess" / f"{name}.yaml")
    assert (config.template, config.size) == ("ffhq", size)
    preprocess = ReferencePreprocessor(analyzer=ToyFaceAnalyzer(), size=config.size, template=config.template)
    np.testing.assert_allclose(preprocess.template * 512, template_points("ffhq", 512), atol=1e-3)


def landmarks_of(centre, scale) -> np.ndarray:
    """68 points of a face that looks straight ahead: eyes, nose and mouth where they belong, the rest in the middle."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-1, -1), (1, -1)
    points[48], points[54] = (-0.8, 1), (0.8, 1)
    return points * scale + centre


def smooth(height, width) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def test_the_ffhq_crop_inside_the_picture_shows_the_square_around_the_face():
    crop = ffhq_crop(landmarks_of((150, 150), 30))
    assert crop.size == pytest.approx(2 * max(2 * 60, 1.8 * 60))
    low, high = crop.quad.min(0), crop.quad.max(0)
    np.testing.assert_allclose(high - low, crop.size)
    picture = cut_ffhq(smooth(400, 400), crop, 64)
    assert picture.shape == (64, 64, 3)
    np.testing.assert_allclose(picture[0, 0, :2], 255 * low / 400, atol=4)
    np.testing.assert_allclose(picture[-1, -1, :2], 255 * high / 400, atol=4)


def test_the_ffhq_crop_beyond_the_picture_has_no_black_edge():
    crop = ffhq_crop(landmarks_of((40, 40), 20))
    assert crop.quad.min() < 0
    picture = cut_ffhq(smooth(200, 200), crop, 64)
    assert (picture[..., 2] > 80).all()


def test_crops_of_heads_are_square_unless_the_picture_is_too_small():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(60, 200, 2).tolist()
        x, y = rng.uniform(-10, width - 5), rng.uniform(-10, height - 5)
        box = [x, y, x + rng.uniform(3, 50), y + rng.uniform(3, 50)]
        left, top, right, bottom = square_box(box, height, width)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert right - left == bottom - top == max(int(box[2]) - int(box[0]), int(box[3]) - int(box[1]))
        grown = expanded_box(box, height, width)
        assert grown[2] - grown[0] == grown[3] - grown[1]
        assert grown[0] <= left
        assert grown[1] <= top
    crop = crop_and_resize(smooth(100, 100), (10, 20, 60, 70), 480)
    assert crop.shape == (480, 480, 3)
    np.testing.assert_allclose(crop[240, 240, :2], [255 * 0.35, 255 * 0.45], atol=3)


def test_pictures_are_padded_with_black_or_cut():
    pictures = np.ones((2, 3, 4, 4))
    assert pad_pictures(pictures, 5).sum(axis=(1, 2, 3)).tolist() == [48, 48, 0, 0, 0]
    assert len(pad_pictures(pictures, 1)) == 1


def test_latent_masks_read_the_centre_of_each_cell():
    mask = torch.zeros(1, 1, 9, 16, 16, dtype=torch.uint8)
    mask[..., 3:5, 3:5] = 1  # the centre of the first cell of 8 x 8
    small = latent_mask(mask, (3, 2, 2))
    assert small.shape == (1, 1, 3, 2, 2)
    assert small[0, 0, :, 0, 0].tolist() == [1, 1, 1]
    assert small.sum() == 3
    half = latent_mask(torch.ones(1, 1, 9, 16, 16) * (torch.arange(16) < 4), (3, 2, 2))
    assert half[0, 0, 0, 0].tolist() == [0.5, 0.0]  # not made 0 and 1 again
