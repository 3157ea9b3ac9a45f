"""Runs side by side: differences in pairs of the same clips, and which clips changed most."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .statistics import paired_difference
from .table import shown_values

NUM_CHANGED = 8  # clips that are listed for each value
# What must be equal for numbers to be compared.
IDENTITY = ("features", "protocols", "models", "settings")


@dataclass(frozen=True)
class Run:
    """The `metrics.json` of one evaluation."""

    name: str
    path: Path
    result: dict[str, Any]


def read_run(place: Path) -> Run:
    """Return the run whose `metrics.json` is `place`, lies in it, or in its folder `evaluation`."""
    options = [place, place / "metrics.json", place / "evaluation" / "metrics.json"]
    path = next((option for option in options if option.is_file()), None)
    if path is None:
        raise ValueError(f"compare: there is no metrics.json in {place}: evaluate it first, evaluate.py videos={place}")
    try:
        result = json.loads(path.read_text())
        _ = [clip["name"] for clip in result["clips"]], result["intervals"], result["of_metric"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a metrics.json of evaluate.py, or of an earlier version of it") from error
    return Run(str(place), path, result)


def compare(runs: Sequence[Run], *, num_resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return the values of all `runs`, and of each but the first its differences to the first, for JSON.

    Differences are means over the clips that both runs have (by name, without the extension) and whose value is defined
    in both, with intervals of a paired bootstrap. Values that are taken from other features, models or under another
    protocol or setting are not compared. Raises ValueError for fewer than two runs, and where no clip is common.
    """
    if len(runs) < 2:
        raise ValueError(f"compare={[run.name for run in runs]} needs at least two runs: compare=[RUN,RUN]")
    clips = [{pair_name(entry["name"]): entry for entry in run.result["clips"]} for run in runs]
    notes, rows = [], {}
    for run, other in zip(runs[1:], clips[1:], strict=True):
        common = clips[0].keys() & other.keys()
        if not common:
            raise ValueError(
                f"{runs[0].name} and {run.name} have no clip of the same name: pairs are found by it "
                f"({_example(clips[0])}, {_example(other)})"
            )
        if len(common) < max(len(clips[0]), len(other)):
            counts = f"{len(clips[0])} and {len(other)}"
            notes.append(f"{runs[0].name} and {run.name} have {len(common)} of {counts} clips in common")
    for name in dict.fromkeys(name for run in runs for name in shown_values(run.result)):
        rows[name] = _row(name, runs, clips, notes, num_resamples, seed)
    return {"runs": [run.name for run in runs], "metrics": rows, "notes": list(dict.fromkeys(notes))}


def _row(
    name: str,
    runs: Sequence[Run],
    clips: Sequence[Mapping[str, Any]],
    notes: list[str],
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    values = [
        {"value": run.result["metrics"][name], **run.result["intervals"].get(name, {})}
        if name in run.result["metrics"]
        else None
        for run in runs
    ]
    row: dict[str, Any] = {"values": values, "differences": [], "changed": []}
    for run, entries in zip(runs[1:], clips[1:], strict=True):
        reason = _why_not_comparable(name, runs[0].result, run.result)
        difference: dict[str, Any] | None = None
        changed: list[dict[str, Any]] = []
        if reason is not None:
            notes.append(f"{name} of {runs[0].name} and {run.name} is not compared: {reason}")
        else:
            difference, changed = _difference(name, runs[0].result, clips[0], entries, num_resamples, seed)
        row["differences"].append(difference)
        row["changed"].append(changed)
    return row


def _difference(
    name: str,
    first: Mapping[str, Any],
    clips: Mapping[str, Any],
    others: Mapping[str, Any],
    num_resamples: int,
    seed: int,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the mean difference of the second run to the first, and the clips that changed most."""
    column = first["intervals"].get(name, {}).get("column")
    if column is None:  # a distance between sets has no pairs
        return None, []
    names = sorted(clips.keys() & others.keys())
    pairs = np.array([[_value(run[clip], column) for run in (clips, others)] for clip in names], np.float64)
    interval, differences = paired_difference(pairs[:, 0], pairs[:, 1], num_resamples=num_resamples, seed=seed)
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
        left_out = ("weights_dir", "weights", "root", "real", "num_threads", "device")
        return {name: _without_places(value) for name, value in node.items() if name not in left_out}
    return node


def _value(entry: Mapping[str, Any], column: str) -> float:
    value = entry.get(column)
    return float("nan") if value is None else float(value)


def pair_name(name: str) -> str:
    """Return what a clip's name must have in common with that of another run."""
    return str(PurePath(name).with_suffix("")) if PurePath(name).suffix else name


def _example(clips: Mapping[str, Any]) -> str:
    return next(iter(clips), "none")


def _cut(value: Any) -> str:
    return str(value)[:80]
