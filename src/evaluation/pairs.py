"""Evaluated runs, and which clips of two of them make a pair."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any


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


def pair_name(name: str) -> str:
    """Return what a clip's name must have in common with that of another run."""
    return str(PurePath(name).with_suffix("")) if PurePath(name).suffix else name
