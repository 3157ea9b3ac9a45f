"""Runs side by side: differences in pairs of the same clips, and which clips changed most."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .pairs import Run, clips_by_name, shared_stems
from .set_comparison import StoredSets, set_difference
from .statistics import paired_difference
from .table import shown_values

NUM_CHANGED = 8  # clips that are listed for each value
# What must be equal for numbers to be compared.
IDENTITY = ("features", "protocols", "models", "settings")


def compare(runs: Sequence[Run], *, num_resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return the values of all `runs`, and of each but the first its differences to the first, for JSON.

    Differences are means over the clips that both runs have (by name, without the extension) and whose value is defined
    in both, with intervals of a paired bootstrap; for distances to real clips, see `set_comparison`. Values that are
    taken from other features, models or under another protocol or setting are not compared. Raises ValueError for
    fewer than two runs, and where no clip is common.
    """
    if len(runs) < 2:
        raise ValueError(f"compare={[run.name for run in runs]} needs at least two runs: compare=[RUN,RUN]")
    return _Comparison(runs, num_resamples, seed).result()


class _Comparison:
    def __init__(self, runs: Sequence[Run], num_resamples: int, seed: int):
        self.runs, self.num_resamples, self.seed = runs, num_resamples, seed
        self.clips = clips_by_name(runs)
        self.stored = StoredSets()
        self.notes: list[str] = []
        if stems := sorted(shared_stems(runs)):
            self.notes.append(
                f"{len(stems)} names, the first is {stems[0]}, are of several clips of a run but for the extension: "
                "these clips are paired by their whole names"
            )
        self.unpaired: dict[str, list[str]] = {}

    def result(self) -> dict[str, Any]:
        for run, clips in zip(self.runs[1:], self.clips[1:], strict=True):
            self._count_pairs(run, clips)
        names = dict.fromkeys(name for run in self.runs for name in shown_values(run.result))
        rows = {name: self._row(name) for name in names}
        for reason, values in self.unpaired.items():
            self.notes.append(f"no paired interval for {', '.join(dict.fromkeys(values))}: {reason}")
        return {
            "runs": [run.name for run in self.runs],
            "paths": [str(run.path) for run in self.runs],
            "metrics": rows,
            "notes": list(dict.fromkeys(self.notes)),
        }

    def _count_pairs(self, run: Run, clips: Mapping[str, Any]) -> None:
        first, num_common = self.runs[0].name, len(self.clips[0].keys() & clips.keys())
        if not num_common:
            raise ValueError(
                f"{first} and {run.name} have no clip of the same name: pairs are found by it "
                f"({_example(self.clips[0])}, {_example(clips)})"
            )
        if num_common < max(len(self.clips[0]), len(clips)):
            counts = f"{len(self.clips[0])} and {len(clips)}"
            self.notes.append(f"{first} and {run.name} have {num_common} of {counts} clips in common")

    def _row(self, name: str) -> dict[str, Any]:
        values = [
            {"value": run.result["metrics"][name], **run.result["intervals"].get(name, {})}
            if name in run.result["metrics"]
            else None
            for run in self.runs
        ]
        pairs = [self._pair(name, place) for place in range(1, len(self.runs))]
        return {
            "values": values,
            "differences": [difference for difference, _ in pairs],
            "changed": [changed for _, changed in pairs],
        }

    def _pair(self, name: str, place: int) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return the difference of a run's value to the first's, None where there is none, and what changed most."""
        first, run = self.runs[0], self.runs[place]
        reason = _why_not_comparable(name, first.result, run.result)
        if reason is not None:
            self.notes.append(f"{name} of {first.name} and {run.name} is not compared: {reason}")
            return None, []
        column = first.result["intervals"].get(name, {}).get("column")
        if column is not None:
            return _difference(column, self.clips[0], self.clips[place], self.num_resamples, self.seed)
        difference, reason = set_difference(
            name, [first, run], [self.clips[0], self.clips[place]], self.stored, self.seed
        )
        if reason is not None:
            self.unpaired.setdefault(reason, []).append(name)
        return difference, []


def _difference(
    column: str, clips: Mapping[str, Any], others: Mapping[str, Any], num_resamples: int, seed: int
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the mean difference of the second run to the first, and the clips that changed most."""
    names = sorted(clips.keys() & others.keys())
    pairs = np.array([[_value(run[clip], column) for run in (clips, others)] for clip in names], np.float64)
    weights = np.array([[_weight(run[clip], column) for run in (clips, others)] for clip in names], np.float64)
    interval, differences = paired_difference(pairs, weights, num_resamples=num_resamples, seed=seed)
    differs = interval.low is not None and interval.high is not None and (interval.low > 0 or interval.high < 0)
    order = [index for index in np.argsort(-np.abs(differences)) if differences[index] != 0]
    changed = [
        {"name": names[index], "first": pairs[index, 0], "second": pairs[index, 1], "change": differences[index]}
        for index in order[:NUM_CHANGED]
        if not np.isnan(differences[index])
    ]
    bounds = {"value": interval.value, "low": interval.low, "high": interval.high}
    return bounds | {"num_clips": interval.num_clips, "differs": differs}, changed


def _why_not_comparable(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Return in what the two runs measured something else under the same name."""
    if name not in first["metrics"] or name not in second["metrics"]:
        return "one of them has not measured it"
    metrics = [result["of_metric"][name] for result in (first, second)]
    for part in IDENTITY:
        one, other = first[part].get(metrics[0]), second[part].get(metrics[1])
        if part == "models":  # other machines keep the same files in other places
            one, other = sorted((one or {}).values()), sorted((other or {}).values())
        if part == "settings":
            one, other = _without_places(one), _without_places(other)
        if one != other:
            return f"{part} differ ({_cut(one)} and {_cut(other)})"
    return None


def _without_places(node: Any) -> Any:
    if isinstance(node, dict):
        left_out = ("weights_dir", "root", "real", "num_threads", "device")
        return {
            name: _without_places(value)
            for name, value in node.items()
            if name not in left_out and not (name == "weights" and isinstance(value, str))
        }
    return node


def _value(entry: Mapping[str, Any], column: str) -> float:
    value = entry.get(column)
    return float("nan") if value is None else float(value)


def _weight(entry: Mapping[str, Any], column: str) -> float:
    """Return how much a clip counts in the mean: 1 where `metrics.json` does not say."""
    return entry.get("weights", {}).get(column, 1.0)


def _example(clips: Mapping[str, Any]) -> str:
    return next(iter(clips), "none")


def _cut(value: Any) -> str:
    return str(value)[:80]
