"""What `metrics.json` holds: values with intervals, what they are taken from, what is undefined and why, every clip."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics import Metric

from ..metrics.frechet import SetDistance
from .measuring import Measured
from .statistics import bootstrap_mean

# Columns of single clips whose mean is a value of the set under another name.
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
    prefix = getattr(metric, "prefix", "")
    about = _notes_by_value([key.removeprefix(prefix) for key in values], notes)
    result["undefined"] |= {
        key: "; ".join(about[key.removeprefix(prefix)]) or "no clip has a value"
        for key, value in values.items()
        if value is None
    }
    columns = _by_name(metric.per_clip())
    weights = _by_name(metric.clip_weights()) if hasattr(metric, "clip_weights") else {}
    _collect_clips(name, metric, [result["clips"][row] for row in rows], columns, weights)
    result["intervals"] |= _intervals(metric, values, columns, weights, num_resamples, seed)


def _notes_by_value(names: Sequence[str], notes: Sequence[str]) -> dict[str, list[str]]:
    """Return which `notes` may say why a value is undefined: those that name it, else those that name no other."""
    named = {note: set(re.findall(r"\w+", note)).intersection(names) for note in notes}
    general = [note for note in notes if not named[note]]
    return {name: [note for note in notes if name in named[note]] or general or list(notes) for name in names}


def _by_name(columns: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values.double()) for name, values in columns.items()}


def _collect_clips(
    name: str,
    metric: Any,
    clips: Sequence[dict[str, Any]],
    columns: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
) -> None:
    """Write what each clip has of a metric; and how much it counts in a mean, where that is not 1."""
    for column, numbers in columns.items():
        for clip, number in zip(clips, numbers, strict=True):
            clip[column] = _finite(float(number))
    for column, numbers in weights.items():
        for clip, number in zip(clips, numbers, strict=True):
            if number != 1:
                clip.setdefault("weights", {})[column] = float(number)
    if hasattr(metric, "per_frame"):
        for clip, similarity in zip(clips, metric.per_frame(), strict=True):
            clip.setdefault("per_frame", {})[name] = [[_finite(float(one)) for one in line] for line in similarity]


def _intervals(
    metric: Any,
    values: dict[str, float | None],
    columns: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    num_resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return the interval of every value that is a mean over clips, and of those that bring their own."""
    prefix, found = getattr(metric, "prefix", ""), dict[str, dict[str, Any]]()
    for key, value in values.items():
        if value is None:
            continue
        if f"{key}_low" in values:
            bounds = {"low": values[f"{key}_low"], "high": values[f"{key}_high"]}
            found[key] = bounds | {"num_clips": int(values.get(f"{metric.name}_num_generated") or 0)}
            continue
        column = key if key in columns else prefix + COLUMN_OF.get(key.removeprefix(prefix), "")
        if column in columns:
            interval = bootstrap_mean(columns[column], weights.get(column), num_resamples=num_resamples, seed=seed)
            bounds = {"low": interval.low, "high": interval.high}
            found[key] = bounds | {"num_clips": interval.num_clips, "column": column}
    return found


def _number(value: Any) -> float | bool | None:
    """Return a JSON number; None where the value is not defined (`undefined` says why)."""
    number = value.item()
    return _finite(number) if isinstance(number, float) else number


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
