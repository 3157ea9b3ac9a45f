"""What `metrics.json` holds: values with intervals, what they are taken from, what is undefined and why, every clip."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from ..metrics.frechet import SetDistance
from .measuring import Measured
from .statistics import Interval, bootstrap_mean

# Columns of single clips whose mean, or what `_derived` makes of them, is a value of the set under another name.
COLUMN_OF = {
    "face_similarity": "similarity",
    "face_similarity_all_frames": "similarity_all_frames",
    "retrieval_mean_rank": "rank",
    "reference_copy": "copies_reference",
    "celeb_basis_identity": "celeb_basis_cosine",
}


def collect(
    metrics: Mapping[str, Metric],
    measured: Measured,
    descriptions: Mapping[str, Mapping[str, Any]],
    disabled: Mapping[str, str],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return everything that was measured, ready for JSON: no NaN, None where a value is not defined."""
    clips: list[dict[str, Any]] = [
        {"name": clip.name, "video": clip.video, "references": list(clip.references), "prompt": clip.prompt}
        for clip in measured.clips
    ]
    result: dict[str, Any] = {
        "num_clips": len(clips),
        "metrics": {},
        "intervals": {},
        "undefined": {},
        "notes": [],
        "disabled": dict(disabled),
        "failed": measured.failed,
        "descriptions": {},
        "of_metric": {},
        "features": {name: str(getattr(metric, "features", "")) for name, metric in metrics.items()},
        "protocols": {name: d["protocol"] for name, d in descriptions.items() if d["protocol"]},
        "models": {name: d["models"] for name, d in descriptions.items() if d["models"]},
        "settings": {name: d["settings"] for name, d in descriptions.items()},
        "distances": {
            name: {"value": metric.name, "ddof": metric.ddof, "real": metric.real}
            for name, metric in metrics.items()
            if isinstance(metric, SetDistance)
        },
        "thresholds": {name: m.threshold for name, m in metrics.items() if getattr(m, "threshold", None)},
        "timing": {
            name: {"seconds": timing.seconds, "num_clips": timing.num_clips, "clips_per_s": _finite(timing.clips_per_s)}
            for name, timing in measured.timings.items()
            if timing.num_clips
        },
        "clips": clips,
    }
    for name, metric in metrics.items():
        _collect_metric(name, metric, measured, result, num_resamples, seed)
    if measured.failed:
        result["notes"].append(f"{len(measured.failed)} clips could not be read and are left out")
    return result


def columns_of(metric: Any) -> dict[str, np.ndarray]:
    """Return the values of single clips of a metric, by name, in the order of its rows; NaN for what is not defined."""
    prefix = getattr(metric, "prefix", "")
    columns = {name: np.asarray(values.double()) for name, values in metric.per_clip().items()}
    return columns | {prefix + name: values for name, values in _derived(columns, prefix).items()}


def _derived(columns: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return values of single clips that a set's value is the mean of, where the metric gives their parts."""
    derived = {}
    if prefix + "num_found" in columns and prefix + "num_analysed" in columns:
        derived["detection_rate"] = columns[prefix + "num_found"] / columns[prefix + "num_analysed"]
    if prefix + "rank" in columns and prefix + "reference_found" in columns:
        hits = (columns[prefix + "rank"] == 1).astype(float)
        derived["retrieval_top1"] = np.where(columns[prefix + "reference_found"] > 0, hits, np.nan)
    return derived


def _collect_metric(
    name: str, metric: Any, measured: Measured, result: dict[str, Any], num_resamples: int, seed: int
) -> None:
    refused = measured.refused.get(name, [])
    if refused:
        result["notes"].append(f"{name}: {len(refused)} clips are left out, the first: {refused[0]}")
    rows = measured.of_metric[name]
    if not rows:
        result["disabled"][name] = f"no clip could be measured: {refused[0] if refused else 'there is none'}"
        return
    values = {key: _number(value) for key, value in metric.compute().items()}
    notes = metric.notes()
    if taken := values.keys() & result["metrics"].keys():
        raise ValueError(f"metrics.{name} gives {sorted(taken)[0]}, as another metric does: give it a prefix or a name")
    result["metrics"] |= values
    result["notes"] += notes
    result["of_metric"] |= dict.fromkeys(values, name)
    result["descriptions"] |= {key: text for key, text in metric.descriptions.items() if key in values}
    reason = "; ".join(notes) or "no clip has a value"
    result["undefined"] |= {key: reason for key, value in values.items() if value is None}
    columns = columns_of(metric)
    for column, numbers in columns.items():
        for row, number in zip(rows, numbers, strict=True):
            result["clips"][row][column] = _finite(float(number))
    if hasattr(metric, "per_frame"):
        for row, similarity in zip(rows, metric.per_frame(), strict=True):
            frames = result["clips"][row].setdefault("per_frame", {})
            frames[name] = [[_finite(float(one)) for one in line] for line in similarity]
    result["intervals"] |= _intervals(metric, values, columns, num_resamples, seed)


def _intervals(
    metric: Any, values: dict[str, float | None], columns: dict[str, np.ndarray], num_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the interval of every value that is a mean over clips, and of those that bring their own."""
    prefix, found = getattr(metric, "prefix", ""), {}
    weights = torch.cat(list(metric.weights)).numpy() if isinstance(getattr(metric, "weights", None), list) else None
    for key, value in values.items():
        if value is None:
            continue
        if f"{key}_low" in values:
            bounds = {"low": values[f"{key}_low"], "high": values[f"{key}_high"]}
            found[key] = bounds | {"num_clips": int(values.get(f"{metric.name}_num_generated") or 0)}
            continue
        column = key if key in columns else prefix + COLUMN_OF.get(key.removeprefix(prefix), "")
        if column in columns:
            interval = bootstrap_mean(columns[column], weights, num_resamples=num_resamples, seed=seed)
            found[key] = _moved(interval, value) | {"column": column}
    return found


def _moved(interval: Interval, value: float) -> dict[str, Any]:
    """Return an interval of the mean over clips as one of `value`, which counts each reference of a clip, or frame."""
    if interval.low is None or interval.high is None or interval.value is None:
        return {"low": None, "high": None, "num_clips": interval.num_clips}
    shift = value - interval.value
    return {"low": interval.low + shift, "high": interval.high + shift, "num_clips": interval.num_clips}


def _number(value: Any) -> float | bool | None:
    """Return a JSON number; None where the value is not defined (`undefined` says why)."""
    number = value.item()
    return _finite(number) if isinstance(number, float) else number


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
