"""Evaluated runs, and which clips of two of them make a pair."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from ..datamodules.samples import VIDEO_EXTENSIONS

# Behind it may be the number that `find_clips` gives to clips of one name.
EXTENSION = re.compile(rf"\.({'|'.join(VIDEO_EXTENSIONS)})(?=(#\d+)?$)", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """The `metrics.json` of one evaluation."""

    name: str
    path: Path
    result: dict[str, Any]


def read_runs(places: Sequence[Path]) -> list[Run]:
    """Return the runs of `places` (see `read_run`), each under the part of its path that no other has."""
    runs = [read_run(place) for place in places]
    names = distinct_parts([run.path.parent for run in runs])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def distinct_parts(paths: Sequence[Path]) -> list[str]:
    """Return `paths` without the folders that all of them begin and end with; whole where that leaves nothing."""
    parts = [path.absolute().parts for path in paths]
    first = _num_equal(parts)
    last = _num_equal([one[first:][::-1] for one in parts])
    names = [str(PurePath(*one[first : len(one) - last])) for one in parts]
    return [str(path) if name == "." else name for path, name in zip(paths, names, strict=True)]


def _num_equal(parts: Sequence[Sequence[str]]) -> int:
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False)))


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


def clips_by_name(runs: Sequence[Run]) -> list[dict[str, dict[str, Any]]]:
    """Return the clips of each run by what the clip of another run must have in common with it.

    That is the name without the extension of a video; whole where clips of one run differ in the extension alone.
    """
    shared = shared_stems(runs)
    return [
        {clip["name"] if stem in shared else stem: clip for clip, stem in zip(clips, map(_stem, clips), strict=True)}
        for clips in (run.result["clips"] for run in runs)
    ]


def shared_stems(runs: Sequence[Run]) -> set[str]:
    """Return what names of several clips of one run are without the extension."""
    counts = (Counter(map(_stem, run.result["clips"])) for run in runs)
    return {stem for count in counts for stem, number in count.items() if number > 1}


def _stem(clip: Mapping[str, Any]) -> str:
    return EXTENSION.sub("", clip["name"])
