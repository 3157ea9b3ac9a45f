"""`prepare.py check=DIR`: what is wrong with a set of shards, whoever made it, by tar and sample."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..datamodules.shards import INDEX, SHARD_NAME, write_atomically
from ..datamodules.tars import members_of, split_name, unsafe
from ..datamodules.video import VideoReader, get_reader
from .check_sample import check_sample
from .progress import Display
from .sources.shards import StoredSample
from .workers import map_in_workers

BUNCH = 8  # samples that a worker gets at once


@dataclass(frozen=True)
class Problem:
    """Something wrong: in which tar, with which sample (if it is about one), of which kind, and what exactly."""

    shard: str
    key: str | None
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.shard}{f', sample {self.key}' if self.key else ''}: {self.detail}"


@dataclass
class CheckResult:
    num_shards: int = 0
    num_samples: int = 0
    problems: list[Problem] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write one problem a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(json.dumps(asdict(problem)) + "\n" for problem in self.problems).encode())


def check_shards(
    source: str,
    *,
    reader: str = "pyav",
    full: bool = False,
    num_workers: int | None = None,
    display: Display | None = None,
) -> CheckResult:
    """Return every problem of the shards in `source`: a folder, or one tar.

    Without `full`, of each video only the header and the first frame are looked at, and checksums are not compared.
    Raises ValueError where there is nothing to check.
    """
    result, display = CheckResult(), display or Display()
    entries, problems = _listed(Path(source))
    result.problems += problems
    stored: list[StoredSample] = []
    seen: dict[str, str] = {}
    for path, entry in entries:
        result.num_shards += 1
        samples, problems = _scan(path, entry, seen)
        stored += samples
        result.problems += problems
    result.num_samples = len(stored)
    hashes = [(path, str(entry["sha256"])) for path, entry in entries if full and entry and entry.get("sha256")]
    tasks: Iterator[list[tuple]] = itertools.chain(
        ([("hash", path, expected)] for path, expected in hashes if path.exists()),
        ([("sample", one) for one in stored[start : start + BUNCH]] for start in range(0, len(stored), BUNCH)),
    )
    display.start(["check"], len(hashes) + len(stored), 0)
    recipes: dict[str, list[StoredSample]] = defaultdict(list)
    done = map_in_workers(
        partial(get_reader, reader),
        partial(_check_bunch, full),
        tasks,
        num_workers=num_workers,
        split=lambda bunch: [[task] for task in bunch],
        lost=_lost,
    )
    for found in done:
        for sample, recipe, problems in found:
            display.advance(None)
            result.problems += problems
            if sample is not None and recipe is not None:
                recipes[recipe].append(sample)
    result.problems += _recipe_problems(recipes)
    result.problems.sort(key=lambda problem: (problem.shard, problem.key or ""))
    return result


def table(result: CheckResult) -> Iterator[str]:
    """Yield a line for each kind of problem, with its number and the first one."""
    counts = Counter(problem.kind for problem in result.problems)
    for kind, count in counts.most_common():
        first = next(problem for problem in result.problems if problem.kind == kind)
        yield f"{count:6d}  {kind:28s}  first: {first}"


def _listed(source: Path) -> tuple[list[tuple[Path, dict[str, Any] | None]], list[Problem]]:
    """Return the tars of `source`, each with its entry in the index, and what is wrong with the index."""
    if source.is_file() and source.name != INDEX:
        return [(source, None)], []
    folder = source.parent if source.name == INDEX else source
    tars, index = sorted(folder.glob("*.tar")), folder / INDEX
    if not tars and not index.is_file():
        raise ValueError(f"check={source}: expected a folder with {INDEX} or *.tar files, or a tar file")
    if not index.is_file():
        return [(path, None) for path in tars], []
    try:
        entries = [{**entry, "name": str(entry["name"])} for entry in json.loads(index.read_text())["shards"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return [(path, None) for path in tars], [Problem(INDEX, None, "broken index", f"not readable: {error!r}")]
    names = Counter(entry["name"] for entry in entries)
    unsafe_names = {name for name in names if not SHARD_NAME.fullmatch(name)}
    problems = [
        Problem(
            INDEX, None, "unsafe name", f"it names a shard {name!r}: only plain names of files beside it are allowed"
        )
        for name in sorted(unsafe_names)
    ]
    problems += [
        Problem(path.name, None, "not in the index", f"{INDEX} does not list it")
        for path in tars
        if path.name not in names
    ]
    problems += [
        Problem(name, None, "listed twice", f"{INDEX} lists it {count} times")
        for name, count in names.items()
        if count > 1
    ]
    listed: dict[str, dict[str, Any]] = {e["name"]: e for e in entries if e["name"] not in unsafe_names}
    unlisted = [(path, None) for path in tars if path.name not in names]
    return [*((folder / name, entry) for name, entry in listed.items()), *unlisted], problems


def _scan(path: Path, entry: dict[str, Any] | None, seen: dict[str, str]) -> tuple[list[StoredSample], list[Problem]]:
    """Return the samples of a tar and what is wrong with the tar itself. `seen`: keys with the tar that has them."""
    if not path.is_file():
        return [], [Problem(path.name, None, "missing shard", f"{INDEX} lists it, it is not there")]
    size, last = path.stat().st_size, None
    problems: list[Problem] = []
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    if entry is not None and entry.get("num_bytes") not in (None, size):
        problems.append(Problem(path.name, None, "wrong size", f"{size} bytes, {INDEX} says {entry['num_bytes']}"))
    try:
        with tarfile.open(path, "r:") as tar:
            for member in members_of(tar):
                danger, found = unsafe(member), split_name(member.name)
                problem = None if danger is None else ("unsafe member", danger)
                if problem is None and found is not None and member.offset_data + member.size > size:
                    problem = ("truncated shard", f"{member.name} goes beyond its end")
                if problem is None and found is not None:
                    problem = _key_problem(*found, spans, last, path.name, seen)
                if problem is not None:
                    problems.append(Problem(path.name, found[0] if found else None, *problem))
                elif found is not None:
                    last, suffix = found
                    spans.setdefault(last, {})[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        problems.append(Problem(path.name, last, "damaged shard", f"not readable after {len(spans)} samples: {error}"))
    if entry is not None and entry.get("num_samples") not in (None, len(spans)):
        problems.append(
            Problem(path.name, None, "wrong count", f"{len(spans)} samples, {INDEX} says {entry['num_samples']}")
        )
    return [StoredSample(key, str(path), members) for key, members in spans.items()], problems


def _key_problem(
    key: str, suffix: str, spans: dict[str, Any], last: str | None, name: str, seen: dict[str, str]
) -> tuple[str, str] | None:
    if key in seen and seen[key] != name:
        return "duplicate key", f"also in {seen[key]}"
    seen[key] = name
    if key in spans and key != last:
        return "scattered sample", f"{key}.{suffix} does not lie beside the other members: loaders see two samples"
    if suffix in spans.get(key, {}):
        return "duplicate member", f"{key}.{suffix} is there twice"
    return None


Found = tuple[StoredSample | None, str | None, list[Problem]]


def _check_bunch(full: bool, reader: VideoReader, bunch: Sequence[tuple]) -> list[Found]:
    return [_check_hash(*task[1:]) if task[0] == "hash" else _check_stored(task[1], reader, full) for task in bunch]


def _check_hash(path: Path, expected: str) -> Found:
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    wrong = Problem(path.name, None, "wrong checksum", f"sha256 {found}, {INDEX} says {expected}")
    return None, None, [] if found == expected else [wrong]


def _check_stored(stored: StoredSample, reader: VideoReader, full: bool) -> Found:
    name = os.path.basename(stored.shard)
    try:
        problems, recipe = check_sample(stored, reader, full=full)
    except Exception as error:  # whatever it is, the others are to be looked at
        detail = f"looking at it fails: {type(error).__name__}: {error}"
        return stored, None, [Problem(name, stored.key, "cannot be checked", detail)]
    return stored, recipe, [Problem(name, stored.key, kind, detail) for kind, detail in problems]


def _lost(bunch: Sequence[tuple], cause: str) -> list[Found]:
    stored = bunch[0][1]
    if not isinstance(stored, StoredSample):
        raise RuntimeError(f"a worker process died of the checksum of {stored} ({cause})")
    detail = f"reading it kills the process ({cause})"
    return [(stored, None, [Problem(os.path.basename(stored.shard), stored.key, "worker died", detail)])]


def _recipe_problems(recipes: dict[str, list[StoredSample]]) -> Iterator[Problem]:
    """Yield a problem for each sample whose cached tensors were made in another way than most of the set's."""
    if len(recipes) < 2:
        return
    usual = max(recipes, key=lambda recipe: len(recipes[recipe]))
    for recipe, samples in recipes.items():
        for stored in samples if recipe != usual else ():
            detail = f"made with {recipe[:200]}, most others with {usual[:200]}"
            yield Problem(os.path.basename(stored.shard), stored.key, "other recipe", detail)
