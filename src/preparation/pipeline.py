"""The stages of a preparation, one after the other: as few passes over the data as they allow, and never the same work
twice.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..config import locate
from ..datamodules.samples import BadSample
from ..datamodules.shards import INDEX
from .digests import choose_keys, clip_digest, digest, quick_digest, stage_digest, stage_inputs, stored_digest
from .history import RECORDS, Chunk, read_records
from .layers import PREPARED
from .progress import Display
from .set_writer import UNFINISHED, Item, SetWriter, add_counts, public, reasons
from .sources import SourceClip
from .sources.shards import ShardFolder, StoredSample
from .stages import Entry, SetStage
from .work import Pass, Task, report
from .workers import map_in_workers

STAGES = ".stages"


@dataclass
class Prepared:
    """What a preparation made. `rows` describe the samples, see `work.ROW`; `counts` how many each stage took and gave.

    `is_new`: something was written.
    """

    rows: list[list[Any]]
    dropped: list[dict[str, Any]]
    counts: dict[str, list[int]]
    is_new: bool = True

    @property
    def num_kept(self) -> int:
        return len(self.rows)


@dataclass
class _State:
    """How far the passes have come: what the next one begins with."""

    items: list[Item]
    level: int = 0  # stages that the items went through
    set_number: int = 0
    set_stage: str | None = None  # the one that planned the items
    waiting: list[str] = field(default_factory=list)  # stages of samples or batches that are still to be run on them
    dropped: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)


class Pipeline:
    """Runs `stages` (names with their plain `_target_` settings, in this order) and writes shards into `output`.

    Stages that need one sample or a batch at a time run in one pass. One that needs the whole set reads shards: what
    comes before it is written to `output/.stages` first, and removed in the end unless `keep_stages`. What an earlier
    run into `output` made is used again, as far as it would come out the same. `source` is what the entries are listed
    by: shards that another source filled are refused. Raises ValueError where a stage cannot be built.
    """

    def __init__(
        self,
        stages: dict[str, Any],
        output: Path,
        *,
        reader: str,
        samples_per_shard: int,
        num_workers: int | None = None,
        source: Any = None,
        keep_stages: bool = False,
        display: Display | None = None,
    ):
        self.settings, self.output, self.source = stages, output, _plain(source)
        self.reader, self.samples_per_shard, self.num_workers = reader, samples_per_shard, num_workers
        self.keep_stages, self.display = keep_stages, display or Display()
        self.stages: dict[str, Any] = {}

    def run(self, entries: Sequence[SourceClip | Entry]) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of samples kept, and the dropped entries with reason and detail."""
        prepared = self.prepare(entries)
        return prepared.num_kept, prepared.dropped

    def prepare(self, entries: Sequence[SourceClip | Entry]) -> Prepared:
        self.gives_captions = any(
            locate(settings["_target_"], "stages").gives_captions for settings in self.settings.values()
        )
        items = self._items(entries)
        self.digests = {name: stage_digest(settings) for name, settings in self.settings.items()}
        self.inputs = {name: stage_inputs(settings) for name, settings in self.settings.items()}
        stages = [list(self.digests.values()), list(self.inputs.values())]
        name = digest([(item.key, item.quick) for item in items], stages, self.samples_per_shard)
        head, chunks = read_records(self.output / RECORDS)
        self._refuse_foreign(head)
        if head.get("run") == name and self._is_whole(chunks):
            return _result(head, chunks, is_new=False)
        with _only_one(self.output):
            # Here as well as in the workers: what is missing ends the command with one message.
            self.stages = dict(zip(self.settings, build_stages(self.settings), strict=True))
            return self._prepare(items, {"version": 1, "run": name, "source": self.source})

    def _prepare(self, items: list[Item], head: dict[str, Any]) -> Prepared:
        state = _State(items)
        for name, stage in self.stages.items():
            if not isinstance(stage, SetStage):
                state.waiting.append(name)
                continue
            stored = self._stored(state, self.output / STAGES / f"before_{name}")
            self._plan(state, name, stage, stored)
        writer = self._writer(state, self.output)
        chunks = writer.write(state.items)
        head |= {"dropped": state.dropped, "counts": state.counts}
        result = _result(head, chunks)
        _refuse_loss(self.output, result)
        writer.finish(chunks, head, result.dropped, {"stages": self.settings, "dropped": reasons(result.dropped)})
        if not self.keep_stages:
            shutil.rmtree(self.output / STAGES, ignore_errors=True)
        return result

    def _items(self, entries: Sequence[SourceClip | Entry]) -> list[Item]:
        items = []
        for entry, key in zip(entries, choose_keys(entries), strict=True):
            if isinstance(entry, SourceClip):
                lacks_caption = self.gives_captions and entry.caption is None
                name = clip_digest(entry, key, self.reader, lacks_caption)
                items.append(Item(entry, key, name, name))
            else:
                assert isinstance(entry, StoredSample)
                items.append(Item(entry, key, quick_digest(entry)))
        return items

    def _refuse_foreign(self, head: dict[str, Any]) -> None:
        """Raise ValueError where the output holds the shards of somebody else."""
        output, is_ours = self.output, bool(head) or (self.output / UNFINISHED).is_dir()
        if not is_ours and ((output / INDEX).exists() or any(output.glob("*.tar"))):
            raise ValueError(f"{output} holds shards already, and no {RECORDS}: give another output, or remove it")
        if head and head["source"] != self.source:
            raise ValueError(
                f"{output} holds shards already, made of {head['source']}, not of {self.source}: give another output, "
                "or remove it"
            )

    def _is_whole(self, chunks: Sequence[Chunk]) -> bool:
        has_index = (self.output / INDEX).is_file() or not any(chunk.shard for chunk in chunks)
        is_left = any((self.output / name).exists() for name in (UNFINISHED, STAGES) if not self.keep_stages)
        return has_index and not is_left and all(chunk.is_whole(self.output) for chunk in chunks)

    def _stored(self, state: _State, folder: Path) -> list[StoredSample]:
        """Return the samples that a set stage begins with, written to `folder` unless they are in shards already."""
        entries = [item.entry for item in state.items]
        if not state.waiting and all(isinstance(entry, StoredSample) for entry in entries):
            return entries  # type: ignore[return-value]
        writer = self._writer(state, folder)
        chunks = writer.write(state.items)
        result = _result({}, chunks)
        _refuse_loss(folder, result)
        writer.finish(chunks, {"run": None}, result.dropped, {})
        state.level += (state.set_stage is not None) + len(state.waiting)
        state.set_number, state.set_stage, state.waiting = state.set_number + 1, None, []
        state.dropped += [line for chunk in chunks for line in chunk.dropped]
        add_counts(state.counts, result.counts)
        return list(ShardFolder(folder=str(folder))) if result.rows else []

    def _plan(self, state: _State, name: str, stage: SetStage, stored: Sequence[StoredSample]) -> None:
        self.display.start([name], len(stored), 0)
        seen, digests = [], {}
        for entry, start, known, problem in map_in_workers(
            self._builder([name]),
            partial(_inspect, state.set_number > 0),
            stored,
            num_workers=self.num_workers,
            start_method="spawn",
            lost=lambda entry, cause: (entry, "", None, BadSample("worker died", cause)),
        ):
            self.display.advance(None)
            if problem is None:
                seen.append((entry, known))
                digests[entry.key] = start
            else:
                state.dropped.append(report(Task(entry, entry.key, start), problem, entry.key))
        add_counts(state.counts, {f"{name}: look": [len(stored), len(seen)]})
        planned = stage.plan([entry for entry, _ in seen], [known for _, known in seen])
        state.set_stage, state.items = name, []
        for entry in planned:
            key, start = entry.base.key, digests[entry.base.key]
            state.items.append(Item(entry, key, start, start, digest(start, stage.version, entry.fingerprint(digests))))

    def _writer(self, state: _State, folder: Path) -> SetWriter:
        names = state.waiting
        return SetWriter(
            folder,
            Pass(
                self.reader,
                tuple((name, self.digests[name]) for name in names),
                state.level,
                state.set_number,
                state.set_stage,
                self.gives_captions,
                digest([self.inputs[name] for name in names]),
            ),
            stages=[self.stages[name] for name in names],
            build=self._builder(names),
            samples_per_shard=self.samples_per_shard,
            num_workers=self.num_workers,
            sources=() if folder == self.output else (self.output,),
            display=self.display,
        )

    def _builder(self, names: list[str]) -> Callable[[], list[Any]]:
        return partial(build_stages, {name: self.settings[name] for name in names})


def build_stages(settings: dict[str, Any]) -> list[Any]:
    """Return the stages that `settings` describe, in their order. Raises ValueError where something is missing."""
    from hydra.utils import instantiate

    return [instantiate(stage, _convert_="all") for stage in settings.values()]


def _inspect(is_ours: bool, stages: list[SetStage], stored: StoredSample) -> tuple[Any, str, Any, BadSample | None]:
    """Return the sample, its digest, what the stage must know of it, and why it is dropped.

    `is_ours`: it lies in shards that an earlier pass of this run wrote.
    """
    start = quick_digest(stored)
    try:
        info = stored.read().info
        last = info[PREPARED]["layers"] if is_ours else []
        start = digest(last[-1]["digest"], stored.key) if last else stored_digest(stored, info)
        return stored, start, stages[0].inspect(stored), None
    except BadSample as problem:
        return stored, start, None, problem


def _result(head: dict[str, Any], chunks: Sequence[Chunk], is_new: bool = True) -> Prepared:
    counts: dict[str, list[int]] = {}
    for part in (head.get("counts", {}), *(chunk.counts for chunk in chunks)):
        add_counts(counts, part)
    dropped = [*head.get("dropped", []), *(line for chunk in chunks for line in chunk.dropped)]
    rows = [row for chunk in chunks for row in chunk.rows]
    return Prepared(rows, [public(line) for line in dropped], counts, is_new)


def _refuse_loss(folder: Path, result: Prepared) -> None:
    """Raise ValueError where the finished set in `folder` would go, since the files that it was made of are not there.

    Then a disk is more likely to be away than the files to be unwanted. The set stays as it is.
    """
    kept = [row[0] for chunk in read_records(folder / RECORDS)[1] for row in chunk.rows]
    if not kept:
        return
    advice = f"the set in {folder} stays as it is: give another output, or remove it"
    if not result.num_kept:
        causes = ", ".join(f"{count} {reason}" for reason, count in reasons(result.dropped).items())
        causes += f"; first: {result.dropped[0]['detail']}" if result.dropped else "the source is empty"
        raise ValueError(f"none of the clips could be used ({causes}): {advice}")
    missing = {line["key"]: line["detail"] for line in result.dropped if line["reason"] == "missing file"}
    # A stage that splits clips appends to their keys: KEY_s000.
    parts = [accumulate(key.split("_"), "{}_{}".format) for key in kept]
    lost = [missing[key] for some in parts for key in some if key in missing]
    if len(lost) > len(kept) / 2:
        raise ValueError(
            f"{len(lost)} of {len(kept)} samples were made of files that are missing now (first: {lost[0]}). Bring "
            f"them back, or take them out of the list; {advice}"
        )


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to `folder` at the same time. The system lifts this when the process ends."""
    (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
    with open(folder / UNFINISHED / "lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another prepare.py is writing to {folder}: wait for it, or give another output"
            ) from error
        yield


def _plain(value: Any) -> Any:
    """Return `value` as it comes back out of JSON."""
    return json.loads(json.dumps(value, default=str))
