import math

import numpy as np
import pytest
import torch

from likeness.metrics.distances import (
    Rows,
    bootstrapped_frechet,
    extrapolated_frechet,
    frechet_from_moments,
    frechet_from_rows,
    inception_score,
    moments,
    paired_frechet,
    paired_mmd,
    unbiased_mmd,
)

NUM_FEATURES = 400
# Spectrum 1/k with trace 400: few clips have a large bias.
SPECTRUM = 1 / torch.arange(1, NUM_FEATURES + 1, dtype=torch.float64)
SPECTRUM *= NUM_FEATURES / SPECTRUM.sum()


def gaussian(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, NUM_FEATURES, generator=generator, dtype=torch.float64) * SPECTRUM.sqrt()


def clips(rows: torch.Tensor, per_clip: int = 1) -> Rows:
    return Rows(rows, torch.full((len(rows) // per_clip,), per_clip))


def with_moments(mean: torch.Tensor, std: torch.Tensor, count: int) -> torch.Tensor:
    """Rows whose sample mean and covariance (divisor n - 1) are exactly `mean` and diag(std^2)."""
    rows = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows - rows.mean(dim=0)
    orthogonal = torch.linalg.qr(rows)[0] * math.sqrt(count - 1)
    return orthogonal * std + mean


def test_gaussians_with_known_moments_have_the_known_distance():
    mean, std = torch.tensor([1.0, 2, 3], dtype=torch.float64), torch.tensor([1.0, 2, 0.5], dtype=torch.float64)
    first = with_moments(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), 50)
    second = with_moments(mean, std, 60)
    expected = float((mean**2).sum() + ((std - 1) ** 2).sum())
    assert float(frechet_from_rows(first, second)) == pytest.approx(expected, rel=1e-10)


def test_both_forms_give_the_same_number_also_where_covariances_do_not_commute():
    first, second = gaussian(30, 0)[:, :50], gaussian(40, 1)[:, :50] @ torch.linalg.qr(gaussian(50, 2)[:, :50])[0]
    for ddof in (0, 1):
        from_rows = frechet_from_rows(first, second, ddof)
        from_moments = frechet_from_moments(*moments(first, ddof), *moments(second, ddof))
        torch.testing.assert_close(from_rows, from_moments, rtol=1e-6, atol=1e-6)


def test_few_clips_of_one_distribution_read_as_far_apart_as_measured():
    """A table of measurements that others made: 292 at 64 clips, 167 at 180, 67 at 512."""
    for count, expected in ((64, 292), (180, 167), (512, 67)):
        plain = float(frechet_from_rows(gaussian(count, 1), gaussian(count, 2)))
        assert plain == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("count", [64, 180, 512])
def test_extrapolated_interval_of_equal_distributions_covers_zero(count):
    estimate = extrapolated_frechet(clips(gaussian(count, 1)), clips(gaussian(count, 2)), seed=0)
    plain = float(frechet_from_rows(gaussian(count, 1), gaussian(count, 2)))
    assert estimate.low <= 0 <= estimate.high
    assert estimate.high < 0.3 * plain  # it says so far more exactly than the plain value errs


@pytest.mark.parametrize("count", [64, 180, 512])
def test_extrapolated_interval_covers_the_distance_of_a_shifted_distribution(count):
    shifted = gaussian(count, 4) + 0.5 * SPECTRUM.sqrt()
    estimate = extrapolated_frechet(clips(gaussian(count, 3)), clips(shifted), seed=0)
    assert estimate.low <= 100 <= estimate.high
    assert estimate.low > 0


def test_extrapolation_needs_no_equal_numbers_of_clips():
    estimate = extrapolated_frechet(clips(gaussian(300, 1)), clips(gaussian(64, 2)), seed=0)
    assert estimate.low <= 0 <= estimate.high


def test_bootstrap_interval_holds_the_value_and_narrows_with_more_clips():
    few, many = (
        bootstrapped_frechet(clips(gaussian(count, 1)[:, :20]), clips(gaussian(count, 2)[:, :20]), 1, 40, 0)
        for count in (40, 640)
    )
    for estimate in (few, many):
        assert estimate.low < estimate.value < estimate.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_mmd_of_equal_distributions_is_zero_on_average_and_grows_with_a_shift():
    values = [
        unbiased_mmd(gaussian(40, seed)[:, :20], gaussian(40, seed + 100)[:, :20], 10, 0).value for seed in range(30)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))
    shifted = unbiased_mmd(gaussian(40, 0)[:, :20], gaussian(40, 1)[:, :20] + 3, 50, 0)
    assert shifted.low > max(values)


def test_mmd_equals_its_definition():
    first, second = gaussian(5, 0)[:, :3], gaussian(4, 1)[:, :3]

    def kernel(x, y):
        return float((x @ y / 3 + 1) ** 3)

    def mean(rows, others, apart):
        values = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(others) if not (apart and i == j)]
        return sum(values) / len(values)

    expected = mean(first, first, True) + mean(second, second, True) - 2 * mean(first, second, False)
    assert unbiased_mmd(first, second, 5, 0).value == pytest.approx(expected, rel=1e-10)


def test_rows_of_a_clip_stay_together():
    rows = Rows(torch.arange(6.0)[:, None], torch.tensor([1, 3, 2]))
    assert rows.of(torch.tensor([2, 0, 2])).flatten().tolist() == [4, 5, 0, 4, 5]
    assert rows.one_of_each().flatten().tolist() == [0, 2, 5]
    turned = Rows(-rows.rows, rows.counts).sorted()
    assert turned.rows.flatten().tolist() == [-4, -5, -1, -2, -3, 0]
    assert turned.counts.tolist() == [2, 3, 1]


def test_the_order_of_clips_leaves_no_trace_though_they_begin_with_the_same_picture():
    rows = torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = rows[0, 0]
    given, reversed_ = (
        Rows(part.flatten(0, 1), torch.full((12,), 3)).sorted().rows for part in (rows, rows.flip(dims=(0,)))
    )
    assert torch.equal(given, reversed_)


def test_inception_score_is_the_number_of_classes_for_sure_and_varied_pictures_and_one_for_unsure_ones():
    sure = torch.eye(4, dtype=torch.float64).repeat(100, 1)
    assert inception_score(sure, num_splits=1)[0] == pytest.approx(4)
    assert inception_score(torch.full((40, 4), 0.25), num_splits=10) == pytest.approx((1, 0))


def pairs(seed: int, shift: float, count: int = 40, dim: int = 12) -> list[torch.Tensor]:
    """Real rows, those of one model, and those of another whose clips are the first's, changed a little and shifted."""
    generator = torch.Generator().manual_seed(seed)
    real, first, noise = (torch.randn(count, dim, generator=generator, dtype=torch.float64) for _ in range(3))
    first = first + 1
    return [real, first, first + 0.15 * noise + shift]


def test_pairs_find_a_difference_of_distances_that_intervals_of_each_would_hide():
    real, first, second = pairs(0, 0.1)
    found = paired_frechet(clips(real), clips(first), clips(second), 1, 60, seed=0)
    values = [frechet_from_rows(real, rows).item() for rows in (first, second)]
    assert found.value == pytest.approx(values[1] - values[0])
    assert 0 < found.low < found.value < found.high
    alone = bootstrapped_frechet(clips(real), clips(second), 1, 60, seed=0)
    assert alone.high - alone.low > 2 * (found.high - found.low)
    mmd = paired_mmd(real, first, second, 60, seed=0)
    single = [unbiased_mmd(real, rows, 2, seed=0).value for rows in (first, second)]
    assert mmd.value == pytest.approx(single[1] - single[0])
    assert 0 < mmd.low < mmd.high


def test_paired_intervals_of_equal_models_cover_no_difference():
    hits = {"frechet": 0, "mmd": 0}
    for seed in range(30):
        real, first, second = pairs(seed, 0.0)
        if seed % 2:
            first, second = second, first
        noisy = first + (second - first) * torch.randint(
            2, (len(first), 1), generator=torch.Generator().manual_seed(seed)
        )
        other = first + second - noisy  # which clip is whose, was drawn: neither model is better
        frechet = paired_frechet(clips(real), clips(noisy), clips(other), 1, 40, seed)
        mmd = paired_mmd(real, noisy, other, 40, seed)
        for name, found in (("frechet", frechet), ("mmd", mmd)):
            hits[name] += found.low <= 0 <= found.high
    assert min(hits.values()) >= 25, hits


def test_the_same_clips_differ_by_nothing():
    real, first, _ = pairs(1, 0.0)
    found = paired_frechet(clips(real), clips(first), clips(first), 1, 5, seed=0)
    assert (found.value, found.low, found.high) == (0, 0, 0)
