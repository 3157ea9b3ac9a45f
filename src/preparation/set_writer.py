"""Writing a set of samples so that a killed run can be continued, and a finished one brought up to date.

The entries of the list fall into chunks of `samples_per_shard`; each becomes one tar. Tars are written to
`FOLDER/.unfinished` and moved when all are there, so that readers of the folder see the old set or the new one.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..datamodules.samples import BadSample
from ..datamodules.shards import INDEX, UNFINISHED, ShardFile, write_atomically, write_index
from .digests import digest, stored_digest
from .history import JOURNAL, RECORDS, Chunk, History, read_records, write_records
from .layers import PREPARED
from .progress import Display
from .sources import SourceClip
from .sources.shards import StoredSample
from .stages import BatchStage, Entry, SampleStage
from .work import Outcome, Pass, Task, Tools, after, lost, run_bunch
from .workers import map_in_workers

TAR_NAME = re.compile(r"\d{6,}(-[0-9a-f]{8})?(-\d+)?\.tar")


@dataclass(frozen=True)
class Item:
    """An entry of the list with its key. `quick` stands for what it is made of, as far as a glance tells.

    `start` is the exact digest, None where the sample must be looked at for it; `planned`: see `work.Task`.
    """

    entry: SourceClip | Entry
    key: str
    quick: str
    start: str | None = None
    planned: str | None = None


@dataclass
class SetWriter:
    """Writes one set. `stages` are the steps of `run`, built; `build` builds them in a worker process.

    `sources`: folders of other sets in which results may be found.
    """

    folder: Path
    run: Pass
    stages: Sequence[SampleStage | BatchStage]
    build: Callable[[], Sequence[SampleStage | BatchStage]]
    samples_per_shard: int
    num_workers: int | None = None
    sources: Sequence[Path] = ()
    display: Display = field(default_factory=Display)

    def write(self, items: Sequence[Item]) -> list[Chunk]:
        """Make what is not there, into `FOLDER/.unfinished`. `finish` then puts it in place."""
        self.unfinished.mkdir(parents=True, exist_ok=True)
        parts = [
            items[start : start + self.samples_per_shard] for start in range(0, len(items), self.samples_per_shard)
        ]
        digests = [self._chunk_digest(part) for part in parts]
        known = self._known()
        chunks = {number: known[name] for number, name in enumerate(digests) if name in known}
        self.display.start(
            [name for name, _ in self.run.steps], len(items), sum(c.num_entries for c in chunks.values())
        )
        missing = [number for number in range(len(parts)) if number not in chunks]
        if missing:
            history = self._history(frozenset(chunk.shard["name"] for chunk in chunks.values() if chunk.shard))
            done = self._work(
                (number, task) for number in missing for task in map(partial(self._task, history), parts[number])
            )
            for number, outcomes in itertools.groupby(done, key=lambda pair: pair[0]):
                chunk = Chunk(digests[number], len(parts[number]))
                self._write_chunk(number, chunk, (outcome for _, outcome in outcomes))
                chunks[number] = chunk
        return [chunks[number] for number in range(len(parts))]

    def finish(
        self, chunks: Sequence[Chunk], head: dict[str, Any], dropped: Sequence[dict[str, Any]], info: Mapping[str, Any]
    ) -> None:
        """Put the set in place: tars, `dropped.jsonl`, `index.json`, records; then remove what is stale.

        `dropped`: all of them, for `dropped.jsonl`; `info` goes into `index.json`. Without a sample there is no index.
        """
        for chunk in chunks:
            if chunk.shard is not None:
                stem = chunk.shard["name"].removesuffix(".tar")
                for path in sorted(self.unfinished.glob(f"{stem}.*")):  # the tar comes last
                    os.replace(path, self.folder / path.name)
        lines = "".join(json.dumps(public(line)) + "\n" for line in dropped)
        write_atomically(self.folder / "dropped.jsonl", lines.encode())
        shards = [chunk.shard for chunk in chunks if chunk.shard is not None]
        if shards:
            write_index(self.folder, shards, **info)
        else:
            (self.folder / INDEX).unlink(missing_ok=True)
        write_records(self.folder / RECORDS, head, chunks)
        self._remove_stale({shard["name"] for shard in shards})
        shutil.rmtree(self.unfinished, ignore_errors=True)

    @property
    def unfinished(self) -> Path:
        return self.folder / UNFINISHED

    def _chunk_digest(self, part: Sequence[Item]) -> str:
        return digest([(item.key, item.quick, item.planned) for item in part], self.run.steps, self.run.inputs)

    def _known(self) -> dict[str, Chunk]:
        """Return the chunks that are there, by digest."""
        found = [chunk for folder in (self.folder, self.unfinished) for chunk in read_records(folder / RECORDS)[1]]
        return {chunk.digest: chunk for chunk in found if chunk.is_whole(self.folder, self.unfinished)}

    def _history(self, without: frozenset[str]) -> History:
        for path in sorted(self.unfinished.glob(".*.tmp")):
            number = next(n for n in itertools.count() if not (self.unfinished / f"salvaged-{n}.tar").exists())
            os.replace(path, self.unfinished / f"salvaged-{number}.tar")
        history = History(self.run.set_number)
        for folder in (*self.sources, self.folder, self.unfinished):
            history.add_folder(folder, without if folder in (self.folder, self.unfinished) else frozenset())
        return history

    def _task(self, history: History, item: Item) -> Task:
        start = item.start or _exact_digest(item)
        first = self.run.level + (item.planned is not None)

        def expect(before: str, number: int, key: str, source: str) -> str:
            if number < first:
                return item.planned or ""
            stage = self.stages[number - first]
            return after(before, self.run.steps[number - first][1], stage.depends_on(key, source))

        found = history.find(start, self.run.level, first - self.run.level + len(self.run.steps), expect)
        task = Task(item.entry, item.key, start, item.planned)
        if found is None:
            return task
        return Task(item.entry, item.key, start, item.planned, found.samples, found.level, found.dropped)

    def _work(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Outcome]]:
        sizes = [stage.batch_size for stage in self.stages if isinstance(stage, BatchStage)]
        num_workers = self.num_workers
        if sizes and num_workers is None and torch.cuda.is_available():
            num_workers = torch.cuda.device_count()
        done = map_in_workers(
            partial(Tools, self.build),
            partial(_run, self.run),
            _bunches(tasks, max(sizes, default=1)),
            num_workers=num_workers,
            start_method="spawn" if self.stages else None,
            split=lambda bunch: [[pair] for pair in bunch],
            lost=lambda bunch, cause: _with_numbers(bunch, lost(self.run, [task for _, task in bunch], cause)),
        )
        for outcomes in done:
            yield from outcomes

    def _write_chunk(self, number: int, chunk: Chunk, outcomes: Iterator[Outcome]) -> None:
        # Not closed where something goes wrong: what is written so far is used by the next run.
        shard = ShardFile(self.unfinished / self._free_name(number, chunk.digest)).__enter__()
        with open(self.unfinished / JOURNAL, "a") as journal:
            for outcome in outcomes:
                for line in outcome.dropped:
                    journal.write(json.dumps(line) + "\n")
                journal.flush()
                chunk.dropped += outcome.dropped
                for key, members, row in outcome.samples:
                    shard.write(key, members)
                    chunk.rows.append(row)
                add_counts(chunk.counts, outcome.counts)
                self.display.advance(outcome)
        shard.__exit__(None, None, None)
        if chunk.rows:
            chunk.shard = shard.entry
        else:
            for path in self.unfinished.glob(f"{shard.path.stem}.*"):
                path.unlink()
        records = self.unfinished / RECORDS
        with open(records, "a") as stream:
            stream.write(chunk.line() if stream.tell() else "{}\n" + chunk.line())

    def _free_name(self, number: int, name: str) -> str:
        candidates = itertools.chain(
            (f"{number:06d}.tar", f"{number:06d}-{name[:8]}.tar"),
            (f"{number:06d}-{name[:8]}-{n}.tar" for n in itertools.count(2)),
        )
        return next(n for n in candidates if not any((f / n).exists() for f in (self.folder, self.unfinished)))

    def _remove_stale(self, names: set[str]) -> None:
        for path in list(self.folder.glob("*.tar")):
            if TAR_NAME.fullmatch(path.name) and path.name not in names:
                for stale in self.folder.glob(f"{path.stem}.*"):
                    stale.unlink()


def _run(run: Pass, tools: Tools, bunch: Sequence[tuple[int, Task]]) -> list[tuple[int, Outcome]]:
    return _with_numbers(bunch, run_bunch(run, tools, [task for _, task in bunch]))


def _with_numbers(bunch: Sequence[tuple[int, Task]], outcomes: Sequence[Outcome]) -> list[tuple[int, Outcome]]:
    return [(number, outcome) for (number, _), outcome in zip(bunch, outcomes, strict=True)]


def _bunches(tasks: Iterator[tuple[int, Task]], size: int) -> Iterator[list[tuple[int, Task]]]:
    while bunch := list(itertools.islice(tasks, size)):
        yield bunch


def _exact_digest(item: Item) -> str:
    assert isinstance(item.entry, StoredSample)
    try:
        return stored_digest(item.entry, item.entry.read().info)
    except (BadSample, OSError):
        return item.quick


def add_counts(total: dict[str, list[int]], counts: dict[str, list[int]]) -> None:
    for name, (taken, given) in counts.items():
        before = total.setdefault(name, [0, 0])
        before[0] += taken
        before[1] += given


def public(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != PREPARED}


def reasons(dropped: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many were dropped for each reason."""
    return dict(Counter(line["reason"] for line in dropped))
