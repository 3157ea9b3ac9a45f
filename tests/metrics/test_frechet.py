import numpy as np
import pytest
import torch

from likeness.metrics.distances import frechet_from_rows
from likeness.metrics.frechet import FeatureDistance, FrechetInceptionDistance, FrechetVideoDistance, check_comparable
from likeness.metrics.image_features import SmallImageFeatures
from likeness.metrics.protocols import Protocol

torch.set_num_threads(1)


def set_distance(**settings) -> FeatureDistance:
    return FeatureDistance(name="d", features="given", comparison="test", **{"dim": 6, "ddof": 1, **settings})


def rows(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def moving(seed: int, num_frames: int = 12, size: int = 40) -> np.ndarray:
    """A bright square before noise that moves to the right; every seed another place, colour and background."""
    rng = np.random.default_rng(seed)
    background = rng.integers(60, 120, (size // 4, size // 4, 3)).repeat(4, 0).repeat(4, 1)
    frames = np.repeat(background[None], num_frames, 0).astype(np.uint8)
    top, left, colour = rng.integers(0, size - 12), rng.integers(0, 10), rng.integers(150, 255, 3)
    for index, frame in enumerate(frames):
        frame[top : top + 12, left + index : left + index + 12] = colour
    return frames


def blurred(frames: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(pixels, 5, 1, 2).byte().permute(0, 2, 3, 1).numpy()


def fvd_of(damage, num_clips: int = 24) -> dict[str, float]:
    metric = FrechetVideoDistance(protocol=Protocol(name="own"), num_resamples=5)
    for seed in range(num_clips):
        metric.update(moving(seed), real=True)
        metric.update(damage(moving(seed + 1000)))
    return {name: value.item() for name, value in metric.compute().items()}


def test_fvd_grows_with_blur_stillness_disorder_and_reversed_motion():
    untouched = fvd_of(lambda frames: frames)
    rng = np.random.default_rng(0)
    for damage in (
        blurred,
        lambda frames: np.repeat(frames[:1], len(frames), 0),
        lambda frames: frames[rng.permutation(len(frames))],
        lambda frames: frames[::-1],
    ):
        damaged = fvd_of(damage)
        assert damaged["fvd_own"] > 2 * untouched["fvd_own"]
        assert damaged["fvd_own_mmd"] > 2 * abs(untouched["fvd_own_mmd"])
        assert damaged["fvd_own_extrapolated"] > 2 * abs(untouched["fvd_own_extrapolated"])


def test_fid_grows_with_blur_and_does_not_see_order():
    values = {}
    for name, damage in {"none": lambda f: f, "blur": blurred, "reversed": lambda f: f[::-1]}.items():
        metric = FrechetInceptionDistance(features=SmallImageFeatures(), num_frames=12, num_resamples=3)
        for seed in range(16):
            metric.update(moving(seed), real=True)
            metric.update(damage(moving(seed + 1000)))
        values[name] = metric.compute()["fid"].item()
    assert values["blur"] > 2 * values["none"]
    assert values["reversed"] == pytest.approx(values["none"], rel=1e-6)


def test_values_do_not_depend_on_the_order_of_clips_or_on_how_rows_are_split():
    first, second = set_distance(), set_distance()
    real, generated = rows(30, 0), rows(40, 1, 0.3)
    for row in real:
        first.update(row[None], real=True)
    for row in generated:
        first.update(row[None])
    for row in reversed(generated):
        second.update(row[None])
    for row in reversed(real):
        second.update(row[None], real=True)
    expected = first.compute()
    assert expected["d"].item() == pytest.approx(float(frechet_from_rows(real, generated)), rel=1e-12)
    for name, value in second.compute().items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-9), name


def test_sums_give_the_same_distance_once_rows_are_no_longer_kept_and_memory_stands_still():
    kept, dropped = set_distance(num_resamples=2), set_distance(max_kept=8, num_resamples=2)
    for metric in (kept, dropped):
        for row in rows(50, 0):
            metric.update(row[None], real=True)
        for row in rows(60, 1, 0.5):
            metric.update(row[None])
    assert len(dropped.real_rows) == len(dropped.generated_rows) == 8
    assert dropped.compute()["d"].item() == pytest.approx(kept.compute()["d"].item(), rel=1e-9)
    assert "of a random 8 clips" in dropped.notes()[-1]
    assert kept.notes() == []


def test_nothing_is_compared_across_protocols_or_features(tmp_path):
    metric = set_distance(num_resamples=2)
    for row in rows(20, 0):
        metric.update(row[None], real=True)
    metric.save_real(tmp_path / "real.safetensors")
    for names in ({"comparison": "another", "features": "given"}, {"comparison": "test", "features": "another"}):
        with pytest.raises(ValueError, match="'another'.*under one name only"):
            FeatureDistance(name="d", dim=6, ddof=1, real=str(tmp_path / "real.safetensors"), **names)
    with pytest.raises(ValueError, match="under one name only"):
        check_comparable({"comparison": "a", "features": "x"}, {"comparison": "b", "features": "x"}, "this", "that")
    with pytest.raises(ValueError, match="there is no such file"):
        set_distance(real=str(tmp_path / "nothing.safetensors"))


def test_saved_real_clips_stand_for_the_clips(tmp_path):
    direct, generated = set_distance(), rows(20, 1, 0.4)
    for row in rows(20, 0):
        direct.update(row[None], real=True)
    direct.save_real(tmp_path / "real.safetensors")
    loaded = set_distance(real=str(tmp_path / "real.safetensors"))
    for metric in (direct, loaded):
        for row in generated:
            metric.update(row[None])
    values = {name: value.item() for name, value in loaded.compute().items()}
    assert values == pytest.approx({name: value.item() for name, value in direct.compute().items()}, rel=1e-6)


def test_too_few_clips_leave_values_undefined_and_say_so():
    metric = set_distance()
    metric.update(rows(1, 0))
    values = metric.compute()
    assert torch.isnan(values["d"]) and values["d_num_generated"] == 1
    assert "no real clips" in metric.notes()[0]
    metric.update(rows(1, 1), real=True)
    values = metric.compute()
    assert values["d"].isfinite()
    assert torch.isnan(values["d_mmd"]) and torch.isnan(values["d_extrapolated"])
    assert "need 8 of each" in metric.notes()[0]
    with pytest.raises(ValueError, match="has seen no generated clip"):
        set_distance().compute()


def test_every_value_is_described():
    metric = set_distance(num_resamples=2)
    for row in rows(8, 0):
        metric.update(row[None], real=True)
        metric.update(row[None] + 1)
    assert set(metric.compute()) == set(metric.descriptions)
    assert metric.per_clip() == {}


def test_clips_too_short_for_the_protocol_are_left_out_and_counted():
    metric = FrechetVideoDistance(protocol=Protocol(name="own", num_frames=8), num_resamples=2)
    metric.update(moving(0)[:4])
    assert torch.isnan(metric.compute()["fvd_own_8f"])
    assert any("left out 1 clips: too short for own_8f" in note for note in metric.notes())


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        set_distance().update(torch.full((1, 6), torch.nan))
