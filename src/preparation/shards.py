"""From listed clips to samples in shards: probe the video, read the pictures, run the stages, drop what cannot be used
and say why.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..datamodules.samples import BadSample, Sample
from ..datamodules.shards import ShardWriter, write_atomically
from .clips import clip_sample
from .sources import SourceClip
from .stages import Entry, SampleStage
from .workers import map_in_workers


def write_shards(
    entries: Iterable[SourceClip | Entry],
    folder: Path,
    *,
    reader: str,
    samples_per_shard: int,
    stages: Callable[[], Sequence[SampleStage]] = tuple,
    start_method: str | None = None,
    num_workers: int | None = None,
    on_clip: Callable[[], None] = lambda: None,
    dropped_before: Sequence[dict[str, str]] = (),
    info: Mapping[str, Any] | None = None,
) -> tuple[int, list[dict[str, str]]]:
    """Write the samples of `entries` into `folder`, each after the stages that `stages` builds in a worker process.

    Returns how many samples were kept, and the dropped entries with reason and detail, after those of `dropped_before`.
    `info` goes into `index.json`; where nothing is kept, there is none. `num_workers` and `start_method`: see
    `map_in_workers`.
    """
    writer, kept, dropped = ShardWriter(folder, max_samples=samples_per_shard), 0, list(dropped_before)
    made = map_in_workers(
        stages, partial(_try_samples, reader), enumerate(entries), num_workers=num_workers, start_method=start_method
    )
    for entry, samples, problem in made:
        on_clip()
        for sample in samples:
            writer.write(sample.key, {**sample.members, "json": json.dumps(sample.info).encode()})
            kept += 1
        if problem is not None:
            dropped.append(report(entry, problem))
    if kept:
        writer.close(**(info or {}), dropped=dict(Counter(entry["reason"] for entry in dropped)))
    write_atomically(folder / "dropped.jsonl", "".join(json.dumps(entry) + "\n" for entry in dropped).encode())
    return kept, dropped


def report(entry: SourceClip | Entry, problem: BadSample) -> dict[str, str]:
    """Return the line of `dropped.jsonl` on an entry."""
    return {
        "place": entry.place,
        "video": str(entry.video),
        "reason": problem.reason,
        "detail": problem.detail,
    }


def _try_samples(
    reader: str, stages: Sequence[SampleStage], numbered: tuple[int, SourceClip | Entry]
) -> tuple[SourceClip | Entry, list[Sample], BadSample | None]:
    number, entry = numbered
    try:
        samples = [_clip_sample(entry, number, reader) if isinstance(entry, SourceClip) else entry.load()]
        for stage in stages:
            samples = [made for sample in samples for made in stage(sample)]
    except BadSample as problem:
        return entry, [], problem
    return entry, samples, None


def _clip_sample(clip: SourceClip, number: int, reader: str) -> Sample:
    key = f"{number:07d}_{re.sub(r'[^A-Za-z0-9_-]', '_', clip.video.stem)[:80]}"
    return clip_sample(clip, key, reader)


def summarise(kept: int, dropped: list[dict[str, str]]) -> Iterator[str]:
    """Yield the lines of the closing report."""
    yield f"kept {kept} of {kept + len(dropped)} clips"
    for reason, count in Counter(entry["reason"] for entry in dropped).most_common():
        example = next(entry for entry in dropped if entry["reason"] == reason)
        yield f"dropped {count}: {reason} (first: {example['detail']})"
