"""What can be said of who is seen when: assignment, verification, drift over time, rank among people."""

import hashlib

import numpy as np
import torch
from torch import Tensor

# Least cosine at which two pictures show one person, by the name of the embedding space. They say "probably", not
# "certainly": lighting, age and size of a face move cosines by more than what lies between two of these numbers.
VERIFICATION_THRESHOLDS = {
    # One pair of 1,000 different drawn people passes, and every pair of 600 of one person (150 people that the analyzer
    # was not trained on, frames against reference pictures of another clip).
    "toy": 0.62,
    # deepface, `config/threshold.py`: cosine distance 0.55 of buffalo_l and 0.68 of ArcFace, chosen on labelled pairs.
    # The pack antelopev2 is not there; it has ArcFace's.
    "insightface/buffalo_l": 0.45,
    "insightface/antelopev2": 0.32,
}


def best_assignment(similarity: np.ndarray) -> list[int]:
    """Return the column of each row of `similarity` (n m, n <= m), no column twice, so that the sum is greatest.

    Source: Kuhn 1955, as shortest augmenting paths with potentials, O(n^2 m).
    """
    cost = -np.asarray(similarity, np.float64)
    num_rows, num_columns = cost.shape
    assert num_rows <= num_columns
    row_potential, column_potential = np.zeros(num_rows + 1), np.zeros(num_columns + 1)
    row_of = np.zeros(num_columns + 1, int)  # counted from 1, as are the rows; 0 is "none"
    for row in range(1, num_rows + 1):
        row_of[0], column = row, 0
        shortest, before, seen = np.full(num_columns + 1, np.inf), np.zeros(num_columns + 1, int), {0}
        while row_of[column]:
            here, free = row_of[column], [other for other in range(1, num_columns + 1) if other not in seen]
            for other in free:
                reduced = cost[here - 1, other - 1] - row_potential[here] - column_potential[other]
                if reduced < shortest[other]:
                    shortest[other], before[other] = reduced, column
            nearest = min(free, key=lambda other: shortest[other])
            step = shortest[nearest]
            for other in seen:
                row_potential[row_of[other]] += step
                column_potential[other] -= step
            shortest[free] -= step
            seen.add(nearest)
            column = nearest
        while column:
            row_of[column] = row_of[before[column]]
            column = before[column]
    columns = {int(row_of[column]) - 1: column - 1 for column in range(1, num_columns + 1) if row_of[column]}
    return [columns[row] for row in range(num_rows)]


def matching_share(similarity: Tensor, counts: Tensor, threshold: float | None) -> Tensor:
    """Return the share (n,) of the `counts` frames of each row of `similarity` (n f) that reach `threshold`.

    Frames without a face (NaN) do not. NaN without a threshold.
    """
    if threshold is None:
        return torch.full((len(similarity),), torch.nan, dtype=torch.float64, device=similarity.device)
    return (similarity >= threshold).sum(dim=1) / counts.double()


def drift_slope(similarity: Tensor, counts: Tensor) -> Tensor:
    """Return the change (n,) of rows of `similarity` (n f) from the first to the last frame, along the fitted line.

    Rows are NaN where no face was found and behind their `counts` frames. NaN where fewer than two frames have a face.
    """
    values = similarity.double()
    times = torch.arange(values.shape[1], device=values.device) / (counts[:, None] - 1).clamp_min(1).double()
    times = torch.where(values.isnan(), torch.nan, times)
    centred = times - times.nanmean(dim=1, keepdim=True)
    slope = (centred * (values - values.nanmean(dim=1, keepdim=True))).nansum(dim=1) / (centred**2).nansum(dim=1)
    return torch.where((~values.isnan()).sum(dim=1) < 2, torch.nan, slope)


def drift_of_thirds(similarity: Tensor, counts: Tensor) -> Tensor:
    """Return the mean of the last third of the `counts` frames of each row of `similarity` (n f), less the first's.

    NaN where one of the two has no face, or where there are fewer than two frames.
    """
    values, place = similarity.double(), torch.arange(similarity.shape[1], device=similarity.device)
    third = (counts[:, None] // 3).clamp_min(1)
    first = torch.where(place < third, values, torch.nan).nanmean(dim=1)
    last = torch.where(place >= counts[:, None] - third, values, torch.nan).nanmean(dim=1)
    return torch.where(counts < 2, torch.nan, last - first)


def rank_among_people(
    clips: Tensor, references: Tensor, owners: Tensor, gallery: Tensor, people: Tensor, tolerance: float = 1e-6
) -> Tensor:
    """Return the rank (n,) of each own reference (n d) among people, by the similarity with `clips` (n d); 1 is best.

    `owners` (n,) names the person of each row, `people` (g,) that of each picture of the `gallery` (g d): of other
    people, the most similar picture counts; the own person's other pictures do not compete. NaN for NaN rows.
    """
    own = (clips * references).sum(dim=1)
    better = (clips @ gallery.T > own[:, None] + tolerance) & (people != owners[:, None])
    of_person = (people[:, None] == people.unique()).to(clips.dtype)
    rank = 1 + ((better.to(clips.dtype) @ of_person) > 0).sum(dim=1).double()
    return torch.where(own.isnan(), torch.nan, rank)


def person_number(name: str | bytes) -> int:
    """Return a number (63 bits) for the name of a person, the same in every process."""
    data = name.encode() if isinstance(name, str) else name
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1
