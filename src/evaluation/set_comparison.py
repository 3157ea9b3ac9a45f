"""Differences of distances to real clips, in pairs of clips, from the features that evaluations have stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..metrics.distances import Rows, frechet_from_rows, paired_frechet, paired_mmd
from .pairs import Run
from .store import read_increments

NUM_RESAMPLES = 100  # a distance of large features takes a second
MIN_PAIRS = 8  # as for the intervals of one distance


@dataclass(frozen=True)
class StoredSet:
    """Feature rows of one metric: of generated clips by name, and of all `real` ones, sorted by theirs."""

    generated: Mapping[str, Tensor]
    real: Rows


class StoredSets:
    """What the runs' files `measured.jsonl` hold for distances, read when it is asked for."""

    def __init__(self) -> None:
        self._found: dict[Path, dict[str, StoredSet | str]] = {}

    def get(self, run: Run, metric: str) -> StoredSet | str:
        """Return the rows of a distance, or why they cannot be had."""
        if run.path not in self._found:
            self._found[run.path] = _read(run)
        return self._found[run.path][metric]


def set_difference(
    name: str, runs: Sequence[Run], clips: Sequence[Mapping[str, Any]], stored: StoredSets, seed: int
) -> tuple[dict[str, Any] | None, str | None]:
    """Return by how much the distance `name` of the second of two runs exceeds the first's, over their common clips.

    `clips`: of each run, by the name that pairs have. None, and why, where there is no such interval.
    """
    metrics = [run.result["of_metric"][name] for run in runs]
    known = [run.result.get("distances", {}).get(metric) for run, metric in zip(runs, metrics, strict=True)]
    if None in known:
        return None, "it is a value of the whole set"
    if name not in (known[0]["value"], f"{known[0]['value']}_mmd"):
        return None, "it is extrapolated from parts of the set"
    first, second = (stored.get(run, metric) for run, metric in zip(runs, metrics, strict=True))
    if isinstance(first, str):
        return None, first
    if isinstance(second, str):
        return None, second
    if not _equal(first.real, second.real):
        return None, "the runs compare with other real clips"
    named = [[run[common]["name"] for run in clips] for common in sorted(clips[0].keys() & clips[1].keys())]
    pairs = [pair for pair in named if pair[0] in first.generated and pair[1] in second.generated]
    if len(pairs) < MIN_PAIRS or first.real.num_clips < MIN_PAIRS:
        return None, f"there are {len(pairs)} pairs and {first.real.num_clips} real clips, and {MIN_PAIRS} are needed"
    one = _rows([first.generated[clip] for clip, _ in pairs])
    other = _rows([second.generated[clip] for _, clip in pairs])
    if name == known[0]["value"]:
        found = paired_frechet(first.real, one, other, known[0]["ddof"], NUM_RESAMPLES, seed)
    else:
        real, middles, others = (rows.one_of_each() for rows in (first.real, one, other))
        found = paired_mmd(real, middles, others, NUM_RESAMPLES, seed)
    differs = found.low > 0 or found.high < 0
    bounds = {"value": found.value, "low": found.low, "high": found.high}
    return bounds | {"num_clips": len(pairs), "differs": differs}, None


def _read(run: Run) -> dict[str, StoredSet | str]:
    distances = run.result.get("distances", {})
    path = run.path.with_name("measured.jsonl")
    if not path.is_file():
        return dict.fromkeys(
            distances, f"{run.name} has kept no features: there is no {path.name} beside {run.path.name}"
        )
    increments = read_increments(path, distances)
    return {metric: _stored_set(run, metric, increments[metric]) for metric in distances}


def _stored_set(run: Run, metric: str, increments: Mapping[str, Mapping[str, Tensor]]) -> StoredSet | str:
    known, names = run.result["distances"][metric], [clip["name"] for clip in run.result["clips"]]
    generated = {
        name: _shaped(increments[name], "generated") for name in names if "generated_rows" in increments.get(name, {})
    }
    # The file may hold real clips of an evaluation before this one.
    compared = [*names, *(f"real:{name}" for name in run.result.get("real_clips", ()))]
    real = [_shaped(increments[name], "real") for name in sorted(compared) if "real_rows" in increments.get(name, {})]
    if not real and known["real"] and Path(known["real"]).is_file():
        kept = load_file(known["real"])
        real = list(kept["rows"].double().split(kept["counts"].tolist()))
    if not generated or not real:
        return f"{run.name} has kept no features of real and of generated clips"
    stored = StoredSet(generated, _rows(real))
    distance = float(frechet_from_rows(stored.real.rows, _rows(list(generated.values())).rows, known["ddof"]))
    value = run.result["metrics"][known["value"]]
    if value is None or abs(distance - value) > 1e-6 + 1e-3 * abs(value):
        return f"the features that {run.name} has kept are not those of its metrics.json: evaluate it again"
    return stored


def _shaped(increment: Mapping[str, Tensor], kind: str) -> Tensor:
    return increment[f"{kind}_rows"].double().view(int(increment[f"{kind}_counts"].sum()), -1)


def _rows(parts: Sequence[Tensor]) -> Rows:
    return Rows(torch.cat(list(parts)), torch.tensor([len(part) for part in parts]))


def _equal(first: Rows, second: Rows) -> bool:
    return first.rows.shape == second.rows.shape and torch.allclose(first.rows, second.rows, atol=1e-4)
