"""What earlier runs left behind, finished or killed, and how much of it is still good."""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..datamodules.samples import PREPARED, BadSample
from ..datamodules.shards import write_atomically
from ..datamodules.tars import members_of, split_name
from .layers import Layer, can_go_back
from .sources.shards import StoredSample

log = logging.getLogger(__name__)

RECORDS = "prepared.jsonl"
JOURNAL = "dropped.jsonl"


@dataclass
class Chunk:
    """The result of some entries of the list, in one tar; `shard` is its line of `index.json`, None without a sample.

    `rows` describe the samples (see `work.ROW`), `counts` how many samples each stage took and gave.
    """

    digest: str
    num_entries: int
    shard: dict[str, Any] | None = None
    rows: list[list[Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)

    def is_whole(self, *folders: Path) -> bool:
        """True where the tar lies in one of `folders`, at its full size."""
        return self.shard is None or any(
            _size(folder / self.shard["name"]) == self.shard["num_bytes"] for folder in folders
        )

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read_records(path: Path) -> tuple[dict[str, Any], list[Chunk]]:
    """Return head and chunks of a file of records; nothing where there is none. A torn last line is left out."""
    head: dict[str, Any] = {}
    chunks: list[Chunk] = []
    for number, line in enumerate(_lines(path)):
        if number == 0:
            head = line
        else:
            chunks.append(Chunk(**line))
    return head, chunks


def write_records(path: Path, head: dict[str, Any], chunks: Sequence[Chunk]) -> None:
    write_atomically(path, (json.dumps(head) + "\n" + "".join(chunk.line() for chunk in chunks)).encode())


@dataclass
class Result:
    """What one run made of one entry: samples and dropped ones, of which there were `kept` and `lost`."""

    kept: int
    lost: int
    samples: dict[str, tuple[StoredSample, list[Layer], str]] = field(default_factory=dict)  # the text: their source
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.samples) == self.kept and len(self.dropped) == self.lost


@dataclass(frozen=True)
class Reusable:
    """What can be used again: samples that went through their first `level` layers, and the dropped ones."""

    level: int
    samples: tuple[StoredSample, ...] = ()
    dropped: tuple[dict[str, Any], ...] = ()


# (digest before a stage, its number, key and source of the sample) -> digest after it
Expect = Callable[[str, int, str, str], str]


class History:
    """Finds results by what their entry was made of. `number`: of the set that is written, counted from 0."""

    def __init__(self, number: int):
        self.number = number
        self._results: dict[str, dict[str, Result]] = defaultdict(dict)

    def add_folder(self, folder: Path, without: frozenset[str] = frozenset()) -> None:
        """Add what lies in `folder`: its records, and the samples of its tars, except those named in `without`."""
        head, chunks = read_records(folder / RECORDS)
        self._add_dropped(head.get("dropped", []))
        for chunk in chunks:
            self._add_dropped(chunk.dropped)
        self._add_dropped(list(_lines(folder / JOURNAL)))
        for path in sorted(folder.glob("*.tar")):
            if path.name not in without:
                for stored in scan(path):
                    self._add_sample(stored)

    def find(self, start: str, level: int, num_stages: int, expect: Expect) -> Reusable | None:
        """Return what is still good of an entry that begins with the digest `start` after `level` layers."""
        best: Reusable | None = None
        for result in self._results.get(start, {}).values():
            found = _usable(result, start, level, num_stages, expect)
            if found is not None and (best is None or found.level > best.level):
                best = found
        return best

    def _result(self, prepared: dict[str, Any]) -> Result | None:
        note = prepared["sets"][self.number] if len(prepared["sets"]) > self.number else None
        if note is None:
            return None
        start, name, kept, lost = note
        return self._results[start].setdefault(name, Result(kept, lost))

    def _add_sample(self, stored: StoredSample) -> None:
        try:
            info = stored.read().info
        except BadSample:
            return
        result = self._result(info[PREPARED]) if PREPARED in info else None
        if result is not None:
            result.samples[stored.key] = (stored, info[PREPARED]["layers"], str(info.get("source", "")))

    def _add_dropped(self, dropped: Sequence[dict[str, Any]]) -> None:
        for line in dropped:
            result = self._result(line[PREPARED]) if PREPARED in line else None
            if result is not None:
                result.dropped[line["key"]] = line


def _usable(result: Result, start: str, level: int, num_stages: int, expect: Expect) -> Reusable | None:
    if not result.is_complete:
        return None
    stages = range(level, level + num_stages)
    good = [_matching(layers, source, start, stages, expect) for _, layers, source in result.samples.values()]
    reached = min(good, default=level + num_stages)
    for line in result.dropped.values():
        layers = line[PREPARED]["layers"]
        # The sample itself is gone: it counts only where everything up to the stage that dropped it is as it was.
        if _matching(layers, line["video"], start, stages, expect) < len(layers) or len(layers) > reached:
            return None
    if num_stages and reached == level and result.samples:
        return None
    if not all(can_go_back(layers, reached) for _, layers, _ in result.samples.values()):
        return None
    return Reusable(reached, tuple(stored for stored, *_ in result.samples.values()), tuple(result.dropped.values()))


def _matching(layers: list[Layer], source: str, start: str, stages: range, expect: Expect) -> int:
    """Return how many of the layers, those of `stages` included, are as they would be made now."""
    before, number = start, stages.start
    while number < min(len(layers), stages.stop):
        before = expect(before, number, layers[number]["key"], source)
        if before != layers[number]["digest"]:
            break
        number += 1
    return number


def scan(path: Path) -> Iterator[StoredSample]:
    """Yield the samples of a tar that may end anywhere, but not the one that the end cuts."""
    held: StoredSample | None = None
    size = os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in members_of(tar):
                found = split_name(member.name)
                if found is None or member.offset_data + member.size > size:
                    continue
                if held is not None and held.key != found[0]:
                    yield held
                    held = None
                spans = {} if held is None else dict(held.spans)
                held = StoredSample(found[0], str(path), {**spans, found[1]: (member.offset_data, member.size)})
    except (tarfile.TarError, OSError, EOFError):
        return
    if held is not None and not re.match(r"salvaged", path.name):
        yield held


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path) as stream:
            for line in stream:
                try:
                    yield json.loads(line)
                except ValueError:
                    return
    except FileNotFoundError:
        return


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
