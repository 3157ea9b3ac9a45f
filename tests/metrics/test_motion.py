import sys

import numpy as np
import pytest
import torch

from likeness.metrics.flow import FarnebackFlow, amplitude, is_dynamic, shrink, signed_amplitude, warping_error
from likeness.metrics.model_files import MissingModel
from likeness.metrics.motion import Flicker, Motion, MotionSmoothness


def panning(speed: int = 2, num_frames: int = 12, size: int = 64, seed: int = 0) -> np.ndarray:
    """A camera that moves over a soft random picture, `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 40)).astype(np.float32))
    wide = torch.nn.functional.interpolate(coarse, (size, size * 4), mode="bicubic").clamp(0, 255)
    picture = wide[0].permute(1, 2, 0).byte().numpy()
    return np.stack([picture[:, index * speed : index * speed + size] for index in range(num_frames)])


def measure(frames: np.ndarray, fps: float = 8.0) -> dict[str, float]:
    metric = Motion(flow=FarnebackFlow())
    metric.update(frames, fps)
    return {name: value.item() for name, value in metric.compute().items()}


def constant_flow(x: float, y: float, num_pairs: int = 15, size: int = 64) -> np.ndarray:
    return np.tile(np.array([x, y], np.float32), (num_pairs, size, size, 1))


def test_known_flow_has_the_known_amplitudes():
    assert signed_amplitude(constant_flow(-3, 1)) == pytest.approx(1)
    assert amplitude(constant_flow(3, 4), fps=8) == pytest.approx(5 / 64 * 8)


def test_opposite_motions_cancel_in_the_published_form_only():
    both = np.concatenate([constant_flow(3, 0), constant_flow(-3, 0)])
    assert signed_amplitude(both) == pytest.approx(0)
    assert amplitude(both, fps=8) == pytest.approx(3 / 64 * 8)


def test_published_form_equals_averaging_the_shrunk_flow():
    import cv2

    flow = np.random.default_rng(0).normal(1, 3, (4, 48, 72, 2)).astype(np.float32)
    shrunk = [cv2.resize(one, (16, int(48 * (16 / 72))), interpolation=cv2.INTER_AREA) for one in flow]
    assert signed_amplitude(flow) == pytest.approx(abs(np.mean(np.mean(shrunk, axis=0))), rel=1e-4)


def test_a_clip_is_dynamic_when_a_quarter_of_its_frames_move_by_vbenchs_threshold():
    threshold = 6 * 64 / 256
    still = constant_flow(0, 0)
    for moving_pairs, expected in ((3, False), (4, True)):
        flow = still.copy()
        flow[:moving_pairs] = [1.01 * threshold, 0]
        assert is_dynamic(flow) is expected
    assert not is_dynamic(constant_flow(0.99 * threshold, 0))
    assert not is_dynamic(constant_flow(1.01 * threshold, 0), fps=4)  # fewer frames a second: further apart
    assert not is_dynamic(still[:0])
    small = still.copy()
    small[:, :2, :52] = [9, 0]  # 2.5 % of the pixels: half of the longest 5 %
    assert is_dynamic(small)


def test_panning_has_its_speed_and_a_frozen_clip_has_none():
    moving, frozen = measure(panning(speed=2)), measure(np.repeat(panning()[:1], 12, 0))
    assert moving["motion_amplitude"] == pytest.approx(2 / 64 * 8, rel=0.15)
    assert moving["motion_amplitude_opens2v"] == pytest.approx(1, rel=0.15)  # the mean of -2 and 0
    assert moving["dynamic_degree"] == 1
    assert frozen == pytest.approx(dict.fromkeys(frozen, 0.0), abs=1e-3)


def test_speed_is_per_second_and_at_any_size():
    slow, fast = measure(panning(1), fps=8), measure(panning(1), fps=16)
    assert fast["motion_amplitude"] == pytest.approx(2 * slow["motion_amplitude"])


def test_a_cap_on_the_width_keeps_units_and_the_published_form():
    frames = panning(speed=4, size=128)
    whole, capped = Motion(flow=FarnebackFlow()), Motion(flow=FarnebackFlow(), max_width=64)
    for metric in (whole, capped):
        metric.update(frames, 8.0)
    expected, found = whole.compute(), capped.compute()
    assert found["motion_amplitude"].item() == pytest.approx(4 / 128 * 8, rel=0.15)
    assert found["motion_amplitude"] != expected["motion_amplitude"]
    assert torch.equal(found["motion_amplitude_opens2v"], expected["motion_amplitude_opens2v"])
    assert found["dynamic_degree"] == expected["dynamic_degree"] == 1
    assert capped.features == "Farneback flow, frames at most 64 wide" != whole.features
    small = Motion(flow=FarnebackFlow(), max_width=128, opens2v=False)
    small.update(frames, 8.0)
    assert small.compute() == {name: value for name, value in expected.items() if name != "motion_amplitude_opens2v"}
    with pytest.raises(ValueError, match="max_width=0 must be at least 32"):
        Motion(flow=FarnebackFlow(), max_width=0)


def test_shrunk_frames_are_means_of_areas():
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)
    means = frames.reshape(2, 20, 2, 30, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrink(frames, 30).astype(float) - means).max() <= 0.5
    assert shrink(frames, 60) is frames


def test_reversed_motion_is_as_large_and_shuffled_frames_move_and_jump_more():
    frames = panning(speed=1)
    forward, backward = measure(frames), measure(frames[::-1])
    assert backward["motion_amplitude"] == pytest.approx(forward["motion_amplitude"], rel=0.1)
    shuffled = measure(frames[np.random.default_rng(0).permutation(12)])
    assert shuffled["motion_amplitude"] > 2 * forward["motion_amplitude"]
    assert shuffled["warping_error"] > 2 * forward["warping_error"]


def test_warping_error_of_exact_flow_is_zero_and_of_noise_its_variance():
    frames = panning(speed=2)
    exact = constant_flow(-2, 0, 11)
    assert warping_error(frames, exact, -exact) == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).normal(0, 12.75, frames.shape)
    grey = np.full(frames.shape, 128) + noise
    error = warping_error(grey.round().astype(np.uint8), 0 * exact, 0 * exact)
    assert error == pytest.approx(2 * 0.05**2, rel=0.03)


def test_pixels_that_hide_do_not_count_for_warping():
    frames = panning(speed=2)
    exact, wrong = constant_flow(-2, 0, 11), -constant_flow(-2, 0, 11)
    wrong[:, :, :32] = [20, 0]  # forward and backward disagree on the left
    frames[1:, :, :20] = 0
    assert warping_error(frames, exact, wrong) < 0.01 < warping_error(frames, exact, -exact)


def test_flicker_and_smoothness_of_known_clips():
    steady = np.full((9, 8, 8, 3), 100, np.uint8)
    flickering = steady + (np.arange(9) % 2 * 51).astype(np.uint8)[:, None, None, None]
    ramp = steady + (np.arange(9) * 10).astype(np.uint8)[:, None, None, None]
    for frames, flicker, smoothness in ((steady, 1, 1), (flickering, 0.8, 0.8), (ramp, 1 - 10 / 255, 1)):
        first, second = Flicker(), MotionSmoothness()
        first.update(frames)
        second.update(frames)
        assert first.compute()["temporal_flickering"].item() == pytest.approx(flicker)
        assert second.compute()["motion_smoothness_linear"].item() == pytest.approx(smoothness)


def test_smoothness_takes_another_interpolation():
    def black(before, after):
        return np.zeros(before.shape, np.float32)

    metric = MotionSmoothness(interpolate=black, name="motion_smoothness")
    metric.update(np.full((4, 8, 8, 3), 51, np.uint8))
    assert metric.compute()["motion_smoothness"].item() == pytest.approx(0.8)
    assert metric.features == "pixels, black"


def test_clips_too_short_have_no_value_and_a_note():
    for metric in (Motion(flow=FarnebackFlow()), Flicker(), MotionSmoothness()):
        metric.update(panning(num_frames=1))
        metric.update(panning())
        assert all(value.isfinite() for value in metric.compute().values())
        assert "1 of 2 clips are left out" in metric.notes()[0]
    with pytest.raises(ValueError, match="fps=0"):
        Motion(flow=FarnebackFlow()).update(panning(), 0)


def test_without_opencv_flow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingModel, match=r"pip install 'likeness\[faces\]'"):
        FarnebackFlow()
