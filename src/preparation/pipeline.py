"""The stages of a preparation, one after the other: as few passes over the data as they allow."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..datamodules.samples import BadSample
from .shards import report, write_shards
from .sources import SourceClip
from .sources.shards import ShardFolder, StoredSample
from .stages import Entry, SampleStage, SetStage
from .workers import map_in_workers

StartTask = Callable[[str, int], Callable[[], None]]
Dropped = list[dict[str, str]]


class Pipeline:
    """Runs `stages` (names with their plain `_target_` settings, in this order) and writes shards into `output`.

    Stages that need one sample at a time run in one pass. One that needs the whole set reads shards: what comes before
    it is written to `output/.stages` first, and removed in the end. Raises ValueError where a stage cannot be built.
    """

    def __init__(
        self,
        stages: dict[str, Any],
        output: Path,
        *,
        reader: str,
        samples_per_shard: int,
        num_workers: int | None = None,
        start_task: StartTask = lambda description, total: lambda: None,
    ):
        self.settings, self.output = stages, output
        self.reader, self.samples_per_shard, self.num_workers = reader, samples_per_shard, num_workers
        self.start_task = start_task
        # Here as well as in the workers: what is missing ends the command with one message, before anything is read.
        self.stages = dict(zip(stages, build_stages(stages), strict=True))

    def run(self, entries: Sequence[SourceClip | Entry]) -> tuple[int, Dropped]:
        """Return the number of samples kept, and the dropped entries with reason and detail."""
        unfinished = self.output / ".stages"
        dropped: Dropped = []
        waiting: list[str] = []  # stages of one sample at a time that are still to be run on `entries`
        try:
            for name, stage in self.stages.items():
                if isinstance(stage, SampleStage):
                    waiting.append(name)
                    continue
                if waiting or not all(isinstance(entry, StoredSample) for entry in entries):
                    kept, dropped = self._write(entries, waiting, unfinished / f"before_{name}", dropped)
                    entries, waiting = list(ShardFolder(folder=str(unfinished / f"before_{name}"))) if kept else [], []
                entries, dropped = self._plan(name, stage, entries, dropped)
            return self._write(entries, waiting, self.output, dropped)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write(
        self, entries: Sequence[SourceClip | Entry], names: list[str], folder: Path, dropped: Dropped
    ) -> tuple[int, Dropped]:
        return write_shards(
            entries,
            folder,
            reader=self.reader,
            samples_per_shard=self.samples_per_shard,
            stages=self._builder(names),
            start_method="spawn" if names else None,
            num_workers=self.num_workers,
            on_clip=self.start_task(", ".join(names) or "writing", len(entries)),
            dropped_before=dropped,
            info={"stages": self.settings},
        )

    def _plan(self, name: str, stage: SetStage, stored: Sequence[Any], dropped: Dropped) -> tuple[list[Entry], Dropped]:
        advance, seen = self.start_task(name, len(stored)), []
        build = self._builder([name])
        for entry, known, problem in map_in_workers(
            build, _inspect, stored, num_workers=self.num_workers, start_method="spawn"
        ):
            advance()
            if problem is None:
                seen.append((entry, known))
            else:
                dropped = [*dropped, report(entry, problem)]
        return stage.plan([entry for entry, _ in seen], [known for _, known in seen]), dropped

    def _builder(self, names: list[str]) -> Callable[[], list[Any]]:
        return partial(build_stages, {name: self.settings[name] for name in names})


def build_stages(settings: dict[str, Any]) -> list[Any]:
    """Return the stages that `settings` describe, in their order. Raises ValueError where something is missing."""
    from hydra.utils import instantiate

    return [instantiate(stage, _convert_="all") for stage in settings.values()]


def _inspect(stages: list[SetStage], stored: StoredSample) -> tuple[StoredSample, Any, BadSample | None]:
    try:
        return stored, stages[0].inspect(stored), None
    except BadSample as problem:
        return stored, None, problem
