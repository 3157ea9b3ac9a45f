"""Benchmarks whose result is a table of columns: which columns, how they become shares, and what is summed of them.

Sources: OpenS2V-Eval, arXiv 2505.20292, v1.1, and its merge_result.py; VBench-I2V, its scripts/constant.py; I2V-Bench,
arXiv 2402.04324.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """One measure of a benchmark. `low` and `high` of its raw values become the shares 0 and 1.

    `possible`: raw values are never outside. Before videos are averaged, `is_absolute`: the value of each loses its
    sign; `is_cut`: it stays within `low` and `high`; `drops_zeros`: videos with 0 do not count. `measured_as`: the
    value of evaluate.py that it is, which is divided by `divisor`.
    """

    low: float = 0.0
    high: float = 1.0
    possible: tuple[float, float] = (0.0, 1.0)
    is_absolute: bool = False
    is_cut: bool = False
    drops_zeros: bool = False
    measured_as: str | None = None
    divisor: float = 1.0

    def mean(self, values: Sequence[float]) -> float:
        """Return the mean of the raw `values` of videos, at least one, as the benchmark takes it."""
        kept = [value for value in values if value or not self.drops_zeros]
        return sum(map(self.cut, kept)) / len(kept) if kept else 0.0

    def cut(self, value: float) -> float:
        value = abs(value) if self.is_absolute else value
        return min(max(value, self.low), self.high) if self.is_cut else value

    def share(self, value: float) -> float:
        return (self.cut(value) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Benchmark:
    """`totals`: by name, the weights of the columns, or of totals before it, whose mean it is."""

    title: str
    columns: Mapping[str, Column]
    totals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    caution: str = ""

    def mean(self, name: str, values: Sequence[float]) -> float:
        """Return the mean of a column's raw `values` of videos. Raises ValueError for what cannot be one."""
        for value in values:
            self._check(name, value)
        return self.columns[name].mean(values)

    def shares(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return raw `means` of columns as shares. Raises ValueError for what is no column, or cannot be a value."""
        for name, value in means.items():
            if name not in self.columns:
                raise ValueError(f"{name} is not a column of {self.title}: {', '.join(self.columns)}")
            self._check(name, value)
        return {name: column.share(means[name]) for name, column in self.columns.items() if name in means}

    def _check(self, name: str, value: float) -> None:
        least, most = self.columns[name].possible
        if not least <= value <= most:
            raise ValueError(
                f"{self.title}: {value:g} of {name} is not within {least:g} and {most:g}; give columns as they are "
                "measured, not in percent"
            )

    def sums(self, shares: Mapping[str, float]) -> dict[str, float | None]:
        """Return every total of `shares`, in the unit that they are in; None where a column is missing."""
        known: dict[str, float | None] = dict(shares)
        for name, weights in self.totals.items():
            parts = [(weight, known.get(part)) for part, weight in weights.items()]
            known[name] = (
                None
                if any(part is None for _, part in parts)
                else sum(weight * part for weight, part in parts if part is not None) / sum(weights.values())
            )
        return {name: known[name] for name in self.totals}

    def missing(self, shares: Mapping[str, Any], total: str) -> list[str]:
        """Return the columns that `total` lacks."""
        found: list[str] = []
        for part in self.totals[total]:
            found += self.missing(shares, part) if part in self.totals else [part] * (part not in shares)
        return found


def _opens2v(domain: str, weights: dict[str, float]) -> Benchmark:
    # Natural asks a closed model that changes; Nexus is a mean divided by its number of terms once too often; and
    # FaceSim skips frames without a face, so that a clip with one good face in 32 frames has a perfect one.
    judges = ("natural", "nexus")
    reproducible = {
        "face_similarity_all_frames" if name == "face_similarity" else name: weight
        for name, weight in weights.items()
        if name not in judges
    }
    cosine = (-1.0, 1.0)
    columns = {
        "aesthetics": Column(4.0, 7.0, (-10.0, 20.0), is_cut=True, measured_as="aesthetic_score"),
        "motion_smoothness": Column(is_cut=True),
        "motion_amplitude": Column(
            possible=(-1e4, 1e4), is_absolute=True, is_cut=True, measured_as="motion_amplitude_opens2v"
        ),
        "face_similarity": Column(possible=cosine, is_cut=True, measured_as="opens2v_cur_face_similarity"),
        "face_similarity_all_frames": Column(
            possible=cosine, is_cut=True, measured_as="opens2v_cur_face_similarity_all_frames"
        ),
        "gme": Column(possible=cosine, is_cut=True),
        # The released code divides a mean by the number of its terms, and a video without a subject in sight has 0.
        "nexus": Column(0.0, 0.05, is_cut=True, drops_zeros=True),
        "natural": Column(1.0, 5.0, (1.0, 5.0), is_cut=True),
    }
    known = {name: column for name, column in columns.items() if name in weights or name in reproducible}
    totals = {"total": weights, "reproducible_total": reproducible}
    caution = (
        "reproducible_total is ours: without the columns of closed or faulty judges, and with FaceSim over all frames"
    )
    return Benchmark(f"OpenS2V-Eval, {domain} domain", known, totals, caution)


VBENCH_I2V = {"camera_motion": 0.1, "i2v_subject": 1.0, "i2v_background": 1.0}
VBENCH_QUALITY = {
    "subject_consistency": 1.0,
    "background_consistency": 1.0,
    "motion_smoothness": 1.0,
    "dynamic_degree": 0.5,
    "aesthetic_quality": 1.0,
    "imaging_quality": 1.0,
}

BENCHMARKS = {
    "opens2v_human": _opens2v(
        "human",
        {
            "aesthetics": 0.18,
            "motion_smoothness": 0.09,
            "motion_amplitude": 0.03,
            "face_similarity": 0.25,
            "gme": 0.15,
            "natural": 0.30,
        },
    ),
    "opens2v_open": _opens2v(
        "open",
        {
            "aesthetics": 0.16,
            "motion_smoothness": 0.06,
            "motion_amplitude": 0.02,
            "face_similarity": 0.20,
            "gme": 0.12,
            "nexus": 0.20,
            "natural": 0.24,
        },
    ),
    "vbench_i2v": Benchmark(
        "VBench-I2V",
        {
            "camera_motion": Column(),
            "i2v_subject": Column(0.1462, measured_as="i2v_subject"),
            "i2v_background": Column(0.2615),
            "subject_consistency": Column(0.1462, measured_as="subject_consistency"),
            "background_consistency": Column(0.2615, measured_as="background_consistency"),
            "motion_smoothness": Column(0.706, 0.9975, measured_as="motion_smoothness"),
            "dynamic_degree": Column(measured_as="dynamic_degree"),
            "aesthetic_quality": Column(measured_as="aesthetic_score", divisor=10.0),
            "imaging_quality": Column(),
        },
        {
            "i2v_score": VBENCH_I2V,
            "quality_score": VBENCH_QUALITY,
            "total_score": {"i2v_score": 1.0, "quality_score": 1.0},
        },
        "VBench measures every dimension on its own part of its clips, and dynamic_degree with RAFT",
    ),
    "i2v_bench": Benchmark(
        "I2V-Bench",
        {
            "temporal_flickering": Column(measured_as="temporal_flickering"),
            "motion_smoothness": Column(measured_as="motion_smoothness"),
            "dynamic_degree": Column(measured_as="dynamic_degree"),
            "background_consistency": Column(measured_as="background_consistency"),
            "subject_consistency": Column(measured_as="subject_consistency"),
            "object_consistency": Column(),
            "scene_consistency": Column(),
            "overall_consistency": Column(possible=(-1.0, 1.0)),
        },
        caution="I2V-Bench resizes and crops every clip to 256 x 256, 16 frames at 8 fps; its motion is RAFT's",
    ),
}
