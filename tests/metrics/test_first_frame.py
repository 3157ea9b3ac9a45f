import math

import numpy as np
import pytest

from likeness.metrics.first_frame import FirstFramePSNR


def value(frames, references) -> float:
    metric = FirstFramePSNR()
    metric.update(frames, references)
    return float(metric.compute()["first_frame_psnr"])


def clip(height: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (3, height, width, 3), np.uint8)


def test_an_error_of_one_level_everywhere_is_48_decibels():
    frames = clip()
    assert value(frames, [frames[0] + 1]) == pytest.approx(20 * math.log10(255), abs=1e-3)


def test_only_the_first_frame_counts():
    frames = clip()
    assert value(frames, [frames[0]]) == FirstFramePSNR.MAX
    assert value(frames[1:], [frames[0]]) < 15


def test_the_picture_is_stretched_to_the_clip():
    frames = np.full((2, 8, 12, 3), 90, np.uint8)
    assert value(frames, [np.full((40, 20, 3), 90, np.uint8)]) == FirstFramePSNR.MAX


def test_a_clip_without_a_picture_is_left_out_and_told():
    metric = FirstFramePSNR()
    frames = clip()
    metric.update(frames, [frames[0] + 1])
    metric.update(frames, [])
    metric.update(frames, [frames[0], frames[1]])
    assert float(metric.compute()["first_frame_psnr"]) == pytest.approx(48.13, abs=0.01)
    assert metric.notes() == ["first_frame_psnr: 2 of 3 clips are left out, which have no picture, or several"]
