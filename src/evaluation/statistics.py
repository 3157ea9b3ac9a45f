"""How sure a mean over clips is: bootstrap over clips, alone and in pairs. NaN: a clip without a value."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean over `num_clips` clips with its interval of 95 %; `low` and `high` are None for fewer than two clips."""

    value: float | None
    low: float | None
    high: float | None
    num_clips: int


def bootstrap_mean(
    values: np.ndarray, weights: np.ndarray | None = None, *, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the mean of `values` (n,) that are not NaN and where it would lie had other clips been drawn.

    Percentiles of the means of `num_resamples` samples of n clips, drawn with replacement; with `weights` (n,), of
    weighted means, which are ratios of two sums over clips. Source: Efron 1979.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    known = ~np.isnan(values) & (weights > 0)
    values, weights = np.asarray(values, np.float64)[known], weights[known]
    return _bootstrap(
        lambda places: np.average(values[places], weights=weights[places]), len(values), num_resamples, seed
    )


def paired_difference(
    values: np.ndarray, weights: np.ndarray | None = None, *, num_resamples: int = 1000, seed: int = 0
) -> tuple[Interval, np.ndarray]:
    """Return the second column's mean less the first's, and the differences (n,) of single clips, for `values` (n 2).

    Over clips that have both; with `weights` (n 2), of weighted means. Both are taken of the same drawn clips.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights, np.float64)
    known = ~np.isnan(values).any(axis=1) & (weights > 0).all(axis=1)
    # From the first value on: equal ones then differ by exactly nothing, whatever their weights.
    centred, kept = values[known] - values[known][:1, :1], weights[known]

    def difference(places: np.ndarray) -> float:
        first, second = np.average(centred[places], axis=0, weights=kept[places])
        return second - first

    return _bootstrap(difference, len(kept), num_resamples, seed), values[:, 1] - values[:, 0]


def _bootstrap(statistic: Callable[[np.ndarray], float], num_clips: int, num_resamples: int, seed: int) -> Interval:
    """Return a `statistic` of the clips at given places, of all of them and with the interval of clips drawn again."""
    if not num_clips:
        return Interval(None, None, None, 0)
    value = float(statistic(np.arange(num_clips)))
    if num_clips < 2:
        return Interval(value, None, None, 1)
    rng = np.random.default_rng(seed)
    resampled = [statistic(rng.integers(num_clips, size=num_clips)) for _ in range(num_resamples)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value, float(low), float(high), num_clips)
