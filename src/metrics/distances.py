"""Distances of two sets of feature rows: Frechet, its value for infinitely many clips, MMD; and the inception score.

All in float64. The root of a matrix is never formed: `scipy.linalg.sqrtm` is slow and changes its signature.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NUM_SHARES = (2, 3, 4)  # the extrapolation compares sets of a half, a third and a fourth of the clips
T_95 = 2.093  # of Student's t with 19 degrees of freedom: `NUM_HALVES` repetitions
NUM_HALVES = 20
NUM_SPLITS = 3  # of the clips at random, for one value: one alone adds the luck of the draw
MAX_ROWS = 384  # in one set, where a distance is computed hundreds of times: it costs their cube


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rows:
    """Feature rows (n d) of clips that each contributed `counts` (c) of them, one after another."""

    rows: Tensor
    counts: Tensor

    @property
    def num_clips(self) -> int:
        return len(self.counts)

    def of(self, clips: Tensor) -> Tensor:
        """Return the rows of those clips, a clip as often as it is named."""
        counts = self.counts[clips]
        starts = (self.counts.cumsum(0) - self.counts)[clips]
        within = torch.arange(int(counts.sum())) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        return self.rows[torch.repeat_interleave(starts, counts) + within]

    def one_of_each(self) -> Tensor:
        """Return the middle row of each clip: rows that are independent of each other."""
        return self.rows[self.counts.cumsum(0) - self.counts + self.counts // 2]

    def sorted(self) -> "Rows":
        """Return the clips in an order that does not depend on who measured them."""
        parts = self.rows.split(self.counts.tolist())
        # All rows tell clips apart: those that begin with the same picture have the first one in common.
        keys = [(float(part[0, 0]), hashlib.blake2b(part.flatten().numpy()).digest()) for part in parts]
        order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.long)
        return Rows(self.of(order), self.counts[order])


def moments(rows: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """Return mean (d) and covariance (d d) of `rows` (n d), divided by n - `ddof`; no covariance of a single row."""
    centred = rows - rows.mean(dim=0)
    return rows.mean(dim=0), centred.T @ centred / max(len(rows) - ddof, 1)


def moments_from_sums(count: Tensor, total: Tensor, outer: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """Return mean and covariance from the number of rows, their sum (d) and the sum of their outer products (d d)."""
    mean = total / count
    covariance = outer / count - torch.outer(mean, mean)
    return mean, covariance * count / max(float(count) - ddof, 1)


def frechet_from_moments(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return |m - n|^2 + tr(C + D - 2 (C D)^(1/2)) of Gaussians (m, C) and (n, D).

    The last trace is the sum of the roots of the eigenvalues of R' D R, where C = R R'. Source: arXiv 1706.08500,
    equation 6.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt()
    shared = torch.linalg.eigvalsh(root.T @ other_covariance @ root).clamp(min=0).sqrt().sum()
    return (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * shared


def frechet_from_rows(rows: Tensor, others: Tensor, ddof: int = 1) -> Tensor:
    """Return the Frechet distance of Gaussians with the moments of `rows` (n d) and `others` (m d), in float64.

    With fewer rows than features, the trace of the root is the sum of the singular values of the product (n m) of the
    centred sets: the same number from a smaller matrix.
    """
    rows, others = rows.double(), others.double()
    if min(len(rows), len(others)) > rows.shape[1]:
        return frechet_from_moments(*moments(rows, ddof), *moments(others, ddof))
    centred, others_centred = ((part - part.mean(dim=0)) / max(len(part) - ddof, 1) ** 0.5 for part in (rows, others))
    shared = torch.linalg.svdvals(centred @ others_centred.T).sum()
    distance = (rows.mean(dim=0) - others.mean(dim=0)).square().sum()
    return distance + centred.square().sum() + others_centred.square().sum() - 2 * shared


def bootstrapped_frechet(real: Rows, generated: Rows, ddof: int, num_resamples: int, seed: int) -> Estimate:
    """Return the Frechet distance and how much it moves when clips are drawn again with replacement.

    Resampling raises the distance, so the interval is that of the resamples moved back by their mean excess. It says
    nothing of the bias: see `extrapolated_frechet`. Where a whole resample would take long (more than `MAX_ROWS` rows
    and features), smaller ones are drawn, and their spread is lessened by the root of the ratio.
    """
    generator = torch.Generator().manual_seed(seed)
    value = float(frechet_from_rows(real.rows, generated.rows, ddof))
    rows = min(len(real.rows), len(generated.rows), real.rows.shape[1])
    share = 1.0 if rows <= MAX_ROWS else MAX_ROWS / min(len(real.rows), len(generated.rows))
    resampled = torch.tensor(
        [
            float(frechet_from_rows(_resample(real, share, generator), _resample(generated, share, generator), ddof))
            for _ in range(num_resamples)
        ],
        dtype=torch.float64,
    )
    return _around(value, share**0.5 * resampled)


def extrapolated_frechet(real: Rows, generated: Rows, seed: int) -> Estimate:
    """Return the Frechet distance of infinitely many clips: the intercept of a straight line in 1 / n.

    For sets of n clips, n a half, a third and a fourth of what there is, the distance between the two sets is lessened
    by the mean distance of each from other clips of its own. Both are biased upwards by about c / n (arXiv 1911.07023),
    so the line has little left to remove, and equal distributions give 0 on average at every n. The raw distances alone
    do not lie on a line while there are fewer clips than features: with 400 features and 64 clips of equal
    distributions, their intercept is 190. The interval is that of repetitions within random halves of the clips
    (delete-half jackknife), which is cautious. Needs 8 clips of each.
    """
    generator = torch.Generator().manual_seed(seed)
    value = _mean_intercept(real, generated, generator)
    halves = []
    for _ in range(NUM_HALVES):
        halves.append(_mean_intercept(_half(real, generator), _half(generated, generator), generator))
    margin = T_95 * float(np.std(halves, ddof=1))
    return Estimate(value, value - margin, value + margin)


def unbiased_mmd(rows: Tensor, others: Tensor, num_resamples: int, seed: int) -> Estimate:
    """Return the squared maximum mean discrepancy of `rows` (n d) and `others` (m d), with its bootstrap interval.

    With the kernel (x y / d + 1)^3, without the terms of a row with itself: 0 on average for equal distributions, at
    every n; single values may be negative. Source: arXiv 1801.01401, section 4.
    """
    rows, others = rows.double(), others.double()
    generator = torch.Generator().manual_seed(seed)
    kernels = _kernels(rows, others)
    once = [torch.ones(1, len(part), dtype=torch.float64) for part in (rows, others)]
    drawn = [_multiplicities(len(part), num_resamples, generator) for part in (rows, others)]
    low, high = _mmd(kernels, *drawn).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(_mmd(kernels, *once)), low, high)


def paired_frechet(real: Rows, first: Rows, second: Rows, ddof: int, num_resamples: int, seed: int) -> Estimate:
    """Return by how much the Frechet distance of `second` to `real` exceeds that of `first`, clip i of both a pair.

    Both sets are drawn again with the same clips, against the same real ones: what a clip adds to both distances
    leaves the interval. That is moved as in `bootstrapped_frechet`, with smaller resamples where whole ones take long.
    """
    generator = torch.Generator().manual_seed(seed)
    value = float(frechet_from_rows(real.rows, second.rows, ddof) - frechet_from_rows(real.rows, first.rows, ddof))
    least = min(len(real.rows), len(first.rows), len(second.rows))
    share = 1.0 if min(least, real.rows.shape[1]) <= MAX_ROWS else MAX_ROWS / least
    resampled = []
    for _ in range(num_resamples):
        compared = _resample(real, share, generator)
        clips = torch.randint(first.num_clips, (max(int(share * first.num_clips), 2),), generator=generator)
        distances = [frechet_from_rows(compared, sample.of(clips), ddof) for sample in (first, second)]
        resampled.append(float(distances[1] - distances[0]))
    return _around(value, share**0.5 * torch.tensor(resampled, dtype=torch.float64))


def paired_mmd(real: Tensor, first: Tensor, second: Tensor, num_resamples: int, seed: int) -> Estimate:
    """Return by how much the `unbiased_mmd` of `second` (n d) to `real` exceeds that of `first` (n d), in pairs."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [_multiplicities(len(part), num_resamples, generator) for part in (real, first)]
    weights = [torch.cat([torch.ones(1, len(part.T), dtype=torch.float64), part]) for part in drawn]
    values = [_mmd(_kernels(real.double(), rows.double()), *weights) for rows in (first, second)]
    differences = values[1] - values[0]
    return _around(float(differences[0]), differences[1:])


def inception_score(probabilities: Tensor, num_splits: int = 10) -> tuple[float, float]:
    """Return mean and population standard deviation over splits of exp(mean KL(p(y | x) || p(y))).

    `probabilities` (n k): rows are shuffled by numpy's RandomState(42) and cut into contiguous parts, as StyleGAN's and
    ConsistI2V's evaluations do. Source: arXiv 1606.03498, section 4.
    """
    table = probabilities.double().numpy()
    table = table[np.random.RandomState(42).permutation(len(table))]
    scores = []
    for split in range(num_splits):
        part = table[split * len(table) // num_splits : (split + 1) * len(table) // num_splits]
        logs = np.log(np.maximum(part, 1e-300)) - np.log(np.maximum(part.mean(axis=0), 1e-300))
        scores.append(np.exp((part * logs).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def _mean_intercept(real: Rows, generated: Rows, generator: torch.Generator) -> float:
    return float(np.mean([_intercept(real, generated, generator) for _ in range(NUM_SPLITS)]))


def _intercept(real: Rows, generated: Rows, generator: torch.Generator) -> float:
    per_clip = float(torch.cat([real.counts, generated.counts]).double().mean())
    num_clips = int(min(real.num_clips, generated.num_clips, NUM_SHARES[0] * MAX_ROWS / per_clip))
    sizes = sorted({max(num_clips // share, 2) for share in NUM_SHARES})
    distances = np.array([_excess(real, generated, size, generator) for size in sizes])
    if len(sizes) == 1:
        return float(distances[0])
    # Variances of the distances fall with n, hence the weights.
    slope_and_intercept = np.polyfit(1 / np.array(sizes), distances, 1, w=np.sqrt(sizes))
    return float(slope_and_intercept[1])


def _excess(real: Rows, generated: Rows, size: int, generator: torch.Generator) -> float:
    """Return how much further sets of `size` clips lie from the other kind than from their own."""
    first, second = _two_sets(real, size, generator)
    third, fourth = _two_sets(generated, size, generator)
    across = frechet_from_rows(first, third) + frechet_from_rows(second, fourth)
    return float(across - frechet_from_rows(first, second) - frechet_from_rows(third, fourth)) / 2


def _two_sets(sample: Rows, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(sample.num_clips, generator=generator)
    return sample.of(order[:size]), sample.of(order[size : 2 * size])


def _half(sample: Rows, generator: torch.Generator) -> Rows:
    clips = torch.randperm(sample.num_clips, generator=generator)[: sample.num_clips // 2]
    return Rows(sample.of(clips), sample.counts[clips])


def _resample(sample: Rows, share: float, generator: torch.Generator) -> Tensor:
    size = max(int(share * sample.num_clips), 2)
    return sample.of(torch.randint(sample.num_clips, (size,), generator=generator))


def _around(value: float, resampled: Tensor) -> Estimate:
    """Return `value` with the spread of `resampled` values around their mean."""
    bounds = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = (resampled - resampled.mean()).quantile(bounds).tolist()
    return Estimate(value, value + low, value + high)


def _kernels(rows: Tensor, others: Tensor) -> list[Tensor]:
    return [_kernel(rows, rows).fill_diagonal_(0), _kernel(others, others).fill_diagonal_(0), _kernel(rows, others)]


def _kernel(rows: Tensor, others: Tensor) -> Tensor:
    return (rows @ others.T / rows.shape[1] + 1) ** 3


def _multiplicities(count: int, num_resamples: int, generator: torch.Generator) -> Tensor:
    """Return how often each of `count` rows is drawn in each resample (r n)."""
    drawn = torch.randint(count, (num_resamples, count), generator=generator)
    return torch.zeros(num_resamples, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape, dtype=torch.float64)
    )


def _mmd(kernels: list[Tensor], weights: Tensor, other_weights: Tensor) -> Tensor:
    """Return the discrepancy for each row of weights (r n), (r m). A row never meets itself, drawn twice or not."""
    within = [
        ((w @ kernel) * w).sum(dim=1) / (w.sum(dim=1) ** 2 - w.square().sum(dim=1))
        for kernel, w in zip(kernels, (weights, other_weights), strict=False)
    ]
    across = ((weights @ kernels[2]) * other_weights).sum(dim=1) / (weights.sum(dim=1) * other_weights.sum(dim=1))
    return within[0] + within[1] - 2 * across
