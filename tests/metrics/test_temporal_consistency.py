import numpy as np
import pytest
import torch

from likeness.metrics.image_features import CLIPFeatures, DINOFeatures, SmallImageFeatures
from likeness.metrics.temporal_consistency import (
    FirstFrameConsistency,
    ImageConsistency,
    TemporalConsistency,
    first_frame_consistency,
    image_consistency,
)

from ..conftest import drawn_video
from .tiny_models import write_clip, write_dino

torch.set_num_threads(1)


class Corners:
    """Features that a picture's first pixel names: known angles."""

    name, dim = "corners", 2

    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        angles = torch.from_numpy(frames[:, 0, 0, 0].astype(np.float32)) * torch.pi / 180
        return 7 * torch.stack([angles.cos(), angles.sin()], dim=1)


def turned(*degrees: int) -> np.ndarray:
    return np.array(degrees, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)


def value(metric, *inputs) -> float:
    metric.update(*inputs)
    return next(iter(metric.compute().values())).item()


def test_known_angles_have_the_known_values():
    frames, cos = turned(0, 60, 60), lambda degrees: np.cos(np.radians(degrees))
    metric = TemporalConsistency(features=Corners())
    metric.update(frames)
    values = metric.compute()
    assert values["temporal_consistency"].item() == pytest.approx((cos(60) + 1) / 2)
    assert values["temporal_consistency_lowest"].item() == pytest.approx(cos(60))
    first = value(FirstFrameConsistency(features=Corners(), name="subject_consistency"), frames)
    assert first == pytest.approx(((cos(60) + cos(60)) / 2 + (1 + cos(60)) / 2) / 2)
    given = value(ImageConsistency(features=Corners()), frames, [turned(30)[0]])
    assert given == pytest.approx(0.4 * cos(30) + 0.3 * (cos(60) + 1) / 2 + 0.3 * cos(60))


def test_opposite_features_count_as_nothing_where_vbench_says_so():
    features = Corners()(turned(0, 180))
    assert first_frame_consistency(features) == 0
    assert image_consistency(features[0], features) == pytest.approx(0.4)


def test_frames_of_all_clips_count_alike_for_first_frame_consistency():
    metric = FirstFrameConsistency(features=Corners(), name="s")
    metric.update(turned(0, 90))
    metric.update(turned(0, 0, 0, 0))
    assert metric.compute()["s"].item() == pytest.approx(3 / 4)
    assert metric.per_clip()["s"].tolist() == pytest.approx([0, 1])


def test_own_features_prefer_frozen_to_moving_to_shuffled():
    frames, shuffled = drawn_video(), np.random.default_rng(0).permutation(12)
    values = [
        value(TemporalConsistency(features=SmallImageFeatures()), clip)
        for clip in (np.repeat(frames[:1], 12, 0), frames, frames[shuffled])
    ]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2]


def test_one_frame_or_no_reference_has_no_value_and_a_note():
    for metric in (TemporalConsistency(features=Corners()), FirstFrameConsistency(features=Corners(), name="s")):
        metric.update(turned(0))
        assert all(torch.isnan(value) for value in metric.compute().values())
        assert "1 of 1 clips are left out, which have one frame only" in metric.notes()[0]
    metric = ImageConsistency(features=Corners())
    metric.update(turned(0, 1), [])
    assert "no reference" in metric.notes()[0]
    with pytest.raises(ValueError, match="TemporalConsistency has seen no clip"):
        TemporalConsistency(features=Corners()).compute()


def test_clip_and_dino_folders_give_features_of_pictures_of_any_shape(tmp_path):
    write_clip(tmp_path)
    write_dino(tmp_path)
    clip, dino = CLIPFeatures(weights_dir=str(tmp_path)), DINOFeatures(weights_dir=str(tmp_path))
    slip = DINOFeatures(weights_dir=str(tmp_path), unit_pixels=False)
    frames = drawn_video()
    assert clip(frames).shape == (12, 12) and dino(frames).shape == (12, 16)
    assert not torch.allclose(slip(frames), dino(frames), atol=1e-2)
    assert len({clip.name, dino.name, slip.name}) == 3
    assert clip.network is CLIPFeatures(weights_dir=str(tmp_path)).network  # held once
    for features in (clip, dino):
        assert value(TemporalConsistency(features=features), np.repeat(frames[:1], 3, 0)) == pytest.approx(1)


def test_own_picture_features_are_the_same_everywhere():
    values = SmallImageFeatures()(drawn_video())[0, :3]
    torch.testing.assert_close(values, torch.tensor(EXPECTED), rtol=1e-4, atol=1e-4)


EXPECTED = [-0.720564, -0.100150, 0.146909]
