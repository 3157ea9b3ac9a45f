"""How sure a mean over clips is: bootstrap over clips, alone and in pairs. NaN: a clip without a value."""

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
    weighted means. Source: Efron 1979.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    known = ~np.isnan(values) & (weights > 0)
    values, weights = np.asarray(values, np.float64)[known], weights[known]
    if not len(values):
        return Interval(None, None, None, 0)
    mean = float((values * weights).sum() / weights.sum())
    if len(values) < 2:
        return Interval(mean, None, None, 1)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(num_resamples):
        drawn = rng.integers(len(values), size=len(values))
        means.append((values[drawn] * weights[drawn]).sum() / weights[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high), len(values))


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, num_resamples: int = 1000, seed: int = 0
) -> tuple[Interval, np.ndarray]:
    """Return the mean of `second` - `first` (n,) over clips that have both values, and the differences (n,)."""
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    return bootstrap_mean(differences, num_resamples=num_resamples, seed=seed), differences
