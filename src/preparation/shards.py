"""Preparing without stages, and the closing lines of a preparation."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .pipeline import Pipeline


def write_shards(
    entries: Iterable[Any], folder: Path, *, reader: str, samples_per_shard: int
) -> tuple[int, list[dict[str, Any]]]:
    """Write the samples of `entries` into `folder`. Returns how many were kept, and the dropped entries."""
    return Pipeline({}, folder, reader=reader, samples_per_shard=samples_per_shard).run(list(entries))


def summarise(kept: int, dropped: list[dict[str, Any]], num_listed: int) -> Iterator[str]:
    """Yield the lines of the closing report. A stage may have made several clips of one of the `num_listed`."""
    is_one_each = kept + len(dropped) == num_listed
    yield f"kept {kept} of {num_listed} clips" if is_one_each else f"kept {kept} clips, made of {num_listed}"
    for reason, count in Counter(entry["reason"] for entry in dropped).most_common():
        example = next(entry for entry in dropped if entry["reason"] == reason)
        yield f"dropped {count}: {reason} (first: {example['detail']})"
