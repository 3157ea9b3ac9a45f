"""OpenS2V-Eval: from its columns to the totals of the human domain and of the others. Source: arXiv 2505.20292, v1.1.

Columns are shares in [0, 1] once `normalise` has seen them; the leaderboard prints them in percent. The columns, as
OpenS2V-Nexus computes them: `aesthetics` (LAION, 1 to 10), `motion_amplitude` and `motion_smoothness`,
`face_similarity` (CurricularFace), `gme` (text), `nexus` (things of the reference, not people) and
`natural` (GPT-4o, 1 to 5).
"""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

RANGES = {
    "aesthetics": (4.0, 7.0),
    "motion_smoothness": (0.0, 1.0),
    "motion_amplitude": (0.0, 1.0),
    "face_similarity": (0.0, 1.0),
    "gme": (0.0, 1.0),
    "nexus": (0.0, 0.05),  # the released code divides a mean by the number of its terms once more
    "natural": (1.0, 5.0),
}
WEIGHTS = {
    "human": {
        "aesthetics": 0.18,
        "motion_smoothness": 0.09,
        "motion_amplitude": 0.03,
        "face_similarity": 0.25,
        "gme": 0.15,
        "natural": 0.30,
    },
    "open": {
        "aesthetics": 0.16,
        "motion_smoothness": 0.06,
        "motion_amplitude": 0.02,
        "face_similarity": 0.20,
        "gme": 0.12,
        "nexus": 0.20,
        "natural": 0.24,
    },
}
NOT_REPRODUCIBLE = ("natural", "nexus")


def normalise(columns: Mapping[str, float]) -> dict[str, float]:
    """Return raw `columns` as shares in [0, 1]. Raises ValueError for a column that the benchmark does not have."""
    for name in columns:
        if name not in RANGES:
            raise ValueError(f"{name} is not a column of OpenS2V-Eval: {', '.join(RANGES)}")
    return {name: _share(value, *RANGES[name]) for name, value in columns.items()}


def total(shares: Mapping[str, float], domain: str = "human") -> float:
    """Return the benchmark's total of normalised columns, in the unit that they are in (shares, or percent).

    `domain`: human, or open for all others. Raises ValueError where a column is missing: without the two that need a
    closed or a large model, see `reproducible_total`.
    """
    return _weighted(shares, _weights(domain))


def reproducible_total(shares: Mapping[str, float], detection_rate: float, domain: str = "human") -> float:
    """Return our corrected total, for comparison with itself only.

    - `natural` and `nexus` are left out and the other weights scaled up: the first asks a closed model that changes,
      the second is a mean divided by its number of terms once too often,
    - `face_similarity` counts times `detection_rate`: the benchmark skips frames without a face, so that a clip with
      one good face in 32 frames has a perfect one,
    - `motion_amplitude` should be `metrics.motion.Motion`'s of that name: the benchmark's lets opposite motions cancel.
    """
    weights = {name: weight for name, weight in _weights(domain).items() if name not in NOT_REPRODUCIBLE}
    corrected = dict(shares) | {"face_similarity": shares["face_similarity"] * detection_rate}
    return _weighted(corrected, weights) / sum(weights.values())


def totals(rows: Iterable[Mapping[str, str | float]], domain: str = "human") -> dict[str, float]:
    """Return the mean of each raw column over `rows` (one a video), normalised, and the `total` of these.

    A cell that is empty does not count. Raises ValueError for a column without any number.
    """
    table = list(rows)
    means = {}
    for name in _weights(domain):
        values = [float(row[name]) for row in table if row.get(name) not in (None, "")]
        if not values:
            raise ValueError(f"the table has no value in the column {name}: OpenS2V-Eval's {domain} domain needs it")
        means[name] = sum(values) / len(values)
    shares = normalise(means)
    return shares | {"total": total(shares, domain)}


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header that names columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _share(value: float, low: float, high: float) -> float:
    return (min(max(value, low), high) - low) / (high - low)


def _weights(domain: str) -> dict[str, float]:
    if domain not in WEIGHTS:
        raise ValueError(f"domain={domain} is not one of {', '.join(WEIGHTS)}")
    return WEIGHTS[domain]


def _weighted(shares: Mapping[str, float], weights: Mapping[str, float]) -> float:
    missing = [name for name in weights if name not in shares]
    if missing:
        raise ValueError(f"the total needs the columns {', '.join(missing)}")
    return sum(weight * shares[name] for name, weight in weights.items())
