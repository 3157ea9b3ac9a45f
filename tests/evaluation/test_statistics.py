import numpy as np
import pytest

from likeness.evaluation.statistics import bootstrap_mean, paired_difference


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for seed in range(200):
        interval = bootstrap_mean(rng.normal(3, 1, 40), num_resamples=300, seed=seed)
        hits += interval.low <= 3 <= interval.high
    assert 178 <= hits <= 198  # 190 expected; percentile intervals of 40 are slightly short


def test_clips_without_a_value_do_not_count():
    interval = bootstrap_mean(np.array([1.0, np.nan, 1.0]))
    assert (interval.value, interval.low, interval.high, interval.num_clips) == (1, 1, 1, 2)


@pytest.mark.parametrize(("values", "mean", "count"), [([0.5], 0.5, 1), ([np.nan], None, 0), ([], None, 0)])
def test_one_clip_has_no_interval_and_none_no_mean(values, mean, count):
    interval = bootstrap_mean(np.array(values))
    assert (interval.value, interval.low, interval.high, interval.num_clips) == (mean, None, None, count)


def test_weights_count_a_clip_more():
    assert bootstrap_mean(np.array([0.0, 1.0]), np.array([1.0, 3.0])).value == 0.75


def test_pairs_find_a_small_difference_that_clips_alone_would_hide():
    rng = np.random.default_rng(1)
    first = rng.normal(0, 10, 50)
    second = first + 0.5 + rng.normal(0, 0.2, 50)
    interval, differences = paired_difference(np.stack([first, second], axis=1))
    assert 0 < interval.low < 0.5 < interval.high + 0.1
    assert len(differences) == 50
    alone = bootstrap_mean(first)
    assert alone.high - alone.low > 10 * (interval.high - interval.low)


def test_the_interval_of_a_rate_over_frames_stays_among_rates():
    interval = bootstrap_mean(np.array([1.0, 0.0]), np.array([16.0, 1.0]))
    assert (interval.low, interval.value, interval.high) == (0, 16 / 17, 1)


def test_pairs_of_clips_of_other_lengths_differ_as_their_weighted_means_do():
    values, weights = np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[16.0, 16.0], [1.0, 1.0]])
    interval, _ = paired_difference(values, weights)
    assert interval.value == pytest.approx(9 / 17 - 16 / 17)
    assert (interval.low, interval.high) == (-0.5, 1)


def test_a_value_that_all_clips_have_does_not_differ_whatever_their_lengths_are():
    weights = np.random.default_rng(0).uniform(1, 9, (20, 2))
    interval, _ = paired_difference(np.full((20, 2), 0.3), weights)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
