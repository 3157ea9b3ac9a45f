import numpy as np
import pytest
import torch

from likeness.metrics.reference_copy import ReferenceCopy, correlation

RNG = np.random.default_rng(0)


def picture(seed: int, height: int = 48, width: int = 48) -> np.ndarray:
    """A coarse random picture: neighbouring pixels belong together, as in a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return np.repeat(np.repeat(coarse, height // 6, 0), width // 6, 1)


def padded(image: np.ndarray, width: int = 72) -> np.ndarray:
    left = (width - image.shape[1]) // 2
    return np.pad(image, ((0, 0), (left, width - image.shape[1] - left), (0, 0)))


def clip(*parts: tuple[np.ndarray, int]) -> np.ndarray:
    frames = np.concatenate([np.repeat(image[None], count, 0) for image, count in parts])
    noise = RNG.integers(-4, 5, frames.shape)
    return (frames.astype(int) + noise).clip(0, 255).astype(np.uint8)


def is_copy(frames: np.ndarray, reference, **settings) -> bool:
    metric = ReferenceCopy(**settings)
    metric.update(frames, reference)
    return bool(metric.compute()["reference_copy"].item())


SCENE, FACE = np.concatenate([picture(1), picture(2)[:, :24]], axis=1), picture(3)


def test_clip_that_ends_in_its_padded_reference_is_a_copy():
    frames = clip((SCENE, 9), (padded(FACE), 4))
    assert is_copy(frames, FACE)  # as a user gives it
    assert is_copy(frames, padded(FACE))  # as the model saw it
    assert is_copy(frames, [picture(9), FACE])  # whichever of several it is


def test_last_frame_alone_is_enough_and_a_faded_one_too():
    assert is_copy(clip((SCENE, 12), (padded(FACE), 1)), FACE)
    assert is_copy(clip((SCENE, 9), ((0.8 * padded(FACE) + 0.2 * SCENE).astype(np.uint8), 4)), FACE)


def test_clip_without_the_reference_or_with_it_all_along_is_no_copy():
    assert not is_copy(clip((SCENE, 13)), FACE)
    assert not is_copy(clip((padded(FACE), 13)), FACE)
    assert not is_copy(clip((padded(FACE), 4), (SCENE, 9)), FACE)


def test_clips_of_drawn_people_are_no_copies_until_they_end_in_one(toy_world):
    from likeness.datamodules.video import get_reader
    from likeness.inputs import read_picture

    reader, honest, copying = get_reader("pyav"), ReferenceCopy(), ReferenceCopy()
    for video in sorted((toy_world / "clips").glob("*.mp4")):
        frames = reader.read(video.read_bytes(), range(12))
        reference = read_picture(toy_world / "references" / f"{video.stem}.0.png")
        honest.update(frames, reference)
        copying.update(np.concatenate([frames[:8], np.repeat(reference[None], 4, 0)]), reference)
    assert honest.compute()["reference_copy"] == 0
    assert honest.notes() == []
    assert copying.compute()["reference_copy"] == 1
    assert "6 of 6 clips end in a copy" in copying.notes()[0]


def test_what_cannot_be_compared_is_left_out_and_noted():
    metric = ReferenceCopy()
    metric.update(clip((SCENE, 1)), FACE)
    metric.update(clip((SCENE, 9)), [])
    metric.update(clip((SCENE, 9), (padded(FACE), 4)), FACE)
    assert metric.compute()["reference_copy"] == 1
    assert "2 clips have one frame or no reference" in metric.notes()[0]
    assert metric.per_clip()["copies_reference"].isnan().tolist() == [True, True, False]


def test_correlation_ignores_brightness_and_contrast():
    rows = torch.randn(2, 50)
    torch.testing.assert_close(correlation(rows, 3 * rows + 5).diagonal(), torch.ones(2))
    assert correlation(rows, torch.ones(1, 50)).abs().max() < 1e-5


def test_impossible_setting_is_refused():
    with pytest.raises(ValueError, match="num_last_frames=0"):
        ReferenceCopy(num_last_frames=0)
