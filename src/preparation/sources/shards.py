"""Shards that were written before. Samples are found by their place in the tar: any of them can be read alone."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...datamodules.remote import is_remote
from ...datamodules.samples import BadSample, Sample
from ...datamodules.shards import Shard, list_shards
from ...datamodules.tars import members_of, split_name, unsafe


@dataclass(frozen=True)
class StoredSample:
    """A sample in a tar: `spans` gives offset and length of each member. `problem`: why it cannot be used, as
    reason and detail.
    """

    key: str
    shard: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    problem: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        return f"{self.shard}, sample {self.key}"

    @property
    def video(self) -> str:
        return self.key

    def load(self) -> Sample:
        """Return the sample with all members. Raises BadSample where it is damaged."""
        return self.read(*self.spans)

    def read(self, *suffixes: str) -> Sample:
        """Return the sample with `json` and, of the members `suffixes`, those that it has."""
        if self.problem is not None:
            raise BadSample(*self.problem)
        raw: dict[str, Any] = {"__key__": self.key, "__url__": self.shard}
        with open(self.shard, "rb") as stream:
            for suffix in {"json", *suffixes} & self.spans.keys():
                offset, length = self.spans[suffix]
                stream.seek(offset)
                raw[suffix] = stream.read(length)
        return Sample.parse(raw)


class ShardFolder:
    """The samples of `folder`: a folder of shards, its `index.json`, or tars. Of a damaged shard, those before the
    damage; the others are listed with what is wrong. Raises ValueError where a key occurs in two shards, and for shards
    that are not on this machine.
    """

    def __init__(self, *, folder: str):
        if is_remote(folder):
            raise ValueError(
                f"source.folder={folder} is not on this machine: fetch the shards and their index.json first"
            )
        self.folder = folder
        self.shards = list_shards(folder)

    def __iter__(self) -> Iterator[StoredSample]:
        seen: dict[str, str] = {}
        for shard in self.shards:
            for stored in _scan(shard):
                if stored.key in seen:
                    raise ValueError(
                        f"the key {stored.key} is in {seen[stored.key]} and in {shard.url}: samples of source.folder="
                        f"{self.folder} must have different keys"
                    )
                seen[stored.key] = shard.url
                yield stored


def _scan(shard: Shard) -> Iterator[StoredSample]:
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    unsafe_members: dict[str, str] = {}
    problem, size = None, os.path.getsize(shard.url)
    try:
        with tarfile.open(shard.url, "r:") as tar:
            for member in members_of(tar):
                found, danger = split_name(member.name), unsafe(member)
                if found is None or member.isdir():
                    continue
                key, suffix = found
                spans.setdefault(key, {})[suffix] = (member.offset_data, member.size)
                if danger is not None:
                    unsafe_members.setdefault(key, danger)
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError, EOFError) as error:
        problem = f"{shard.url} cannot be read to its end: {error}"
    if problem is None and len(spans) != shard.num_samples:
        problem = f"{shard.url} ends after {len(spans)} of {shard.num_samples} samples"
    whole = list(spans)[:-1] if problem else list(spans)  # the last one before a damage may lack members
    for key in whole:
        danger = unsafe_members.get(key)
        yield StoredSample(key, shard.url, spans[key], None if danger is None else ("unsafe member", danger))
    for position in range(len(whole), max(shard.num_samples, len(whole) + 1) if problem else 0):
        yield StoredSample(f"{position} of {shard.url}", shard.url, problem=("damaged shard", problem or ""))
