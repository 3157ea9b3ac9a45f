"""The samples of many shards by number: any of them can be read alone, whatever is wrong with the others."""

import io
import logging
import math
import os
import tarfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from .limits import MAX_SAMPLE_BYTES
from .remote import Fetcher, Unreachable, is_remote, read_small, served_version
from .samples import BadSample, Sample
from .shards import SampleColumns, Shard, list_shards, samples_path, scan_tar
from .tars import members_of, split_name, unsafe

log = logging.getLogger(__name__)

MAX_OPEN_FILES = 64
UNREACHABLE_S = 300  # for so long, a shard out of reach is not tried again


class ShardSet:
    """The samples of `source` (see `list_shards`), numbered in the order of the shards.

    `table`: what is known of them without reading them, an array a column of `SampleColumns` (`key` is a list). Of a
    shard that is shorter than its index says, what is missing is there, as samples that cannot be read. Each shard's
    list is taken from the file beside it, else made by reading the headers of the tar, which for a tar elsewhere means
    fetching it. Raises ValueError where a list cannot be had: ranks that go on without it would plan other batches.
    """

    def __init__(self, source: str | Sequence[str], fetcher: Fetcher | None = None):
        self.fetcher = fetcher or Fetcher()
        with ThreadPoolExecutor(16) as pool:
            self.shards = list(pool.map(self._identified, list_shards(source)))
            columns = list(pool.map(self._columns, self.shards))
        counts = [len(one) for one in columns]
        self.keys: list[str] = [key for one in columns for key in one.columns["key"]]
        self.table: dict[str, np.ndarray] = {
            name: np.array([value for one in columns for value in one.columns[name]], float if name == "fps" else int)
            for name in SampleColumns.COLUMNS
            if name != "key"
        }
        self.shard_of = np.repeat(np.arange(len(self.shards)), counts)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._unreachable: dict[int, tuple[float, str]] = {}  # when a shard was found to be, and why
        if not self.keys:
            hint = "; the address of a folder of shards ends in /" if is_remote(str(source)) else ""
            raise ValueError(f"{source} holds no sample{hint}")
        unknown = [shard.url for shard in self.shards if is_remote(shard.url) and not shard.version.name]
        if unknown:
            log.warning(
                "nothing says whether %s has changed: a copy that an earlier run has fetched is used (%d shards; an "
                "index.json would say it)",
                unknown[0],
                len(unknown),
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def place(self, number: int) -> tuple[str, str]:
        """Return key and shard of a sample, for reports."""
        return self.keys[number], self.shards[self.shard_of[number]].url

    def __getitem__(self, number: int) -> Sample:
        """Return a sample with all members. Raises BadSample where it is damaged, unsafe or out of reach."""
        shard = self.shards[self.shard_of[number]]
        start, end = int(self.table["start"][number]), int(self.table["end"][number])
        if end <= start:
            raise BadSample("damaged shard", f"{shard.url} cannot be read from sample {self.keys[number]} on")
        if end - start > MAX_SAMPLE_BYTES:
            raise BadSample("too large", f"{end - start} bytes; at most {MAX_SAMPLE_BYTES} are read")
        data = os.pread(self._descriptor(int(self.shard_of[number])), end - start, start)
        if len(data) < end - start:
            raise BadSample("damaged shard", f"{shard.url} ends within sample {self.keys[number]}")
        return Sample.parse({"__key__": self.keys[number], "__url__": shard.url, **_members(data, self.keys[number])})

    def _descriptor(self, index: int) -> int:
        if index not in self._open:
            shard = self.shards[index]
            since, problem = self._unreachable.get(index, (-math.inf, ""))
            if time.monotonic() < since + UNREACHABLE_S:
                raise BadSample("unreachable shard", problem)
            try:
                path = self.fetcher(shard.url, shard.version) if is_remote(shard.url) else shard.url
                self._open[index] = os.open(path, os.O_RDONLY)
            except Unreachable as error:
                self._unreachable[index] = (time.monotonic(), str(error))
                raise BadSample("unreachable shard", str(error)) from error
            except OSError as error:
                raise BadSample("missing shard", f"{shard.url}: {error.strerror}") from error
            if len(self._open) > MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(index)
        return self._open[index]

    def _identified(self, shard: Shard) -> Shard:
        """Return `shard` with what its server says of it, where no index says more."""
        if not is_remote(shard.url) or shard.sha256 is not None:
            return shard
        try:
            served = served_version(shard.url, self.fetcher.num_tries, self.fetcher.wait_s)
        except Unreachable as error:
            raise ValueError(str(error)) from error
        return replace(shard, num_bytes=shard.num_bytes or served.num_bytes, tag=served.tag)

    def _columns(self, shard: Shard) -> SampleColumns:
        columns = self._listed(shard)
        if columns is None:
            columns, problem = self._scanned(shard)
            if problem is not None:
                log.warning("%s", problem)
        for missing in range(len(columns), shard.num_samples):
            columns.append(f"{missing} of {shard.url}", 0, 0)
        return columns

    def _listed(self, shard: Shard) -> SampleColumns | None:
        """Return what the file beside the tar says; None where there is none, or it is of another tar."""
        if not is_remote(shard.url):
            size, path = os.path.getsize(shard.url), samples_path(shard.url)
            # A tar that was cut short is listed still: each sample that is whole can be read.
            expected = size if shard.num_bytes in (None, size) else None
            return SampleColumns.parse(path.read_bytes(), expected, shard.sha256) if path.is_file() else None
        if ".tar" not in shard.url:
            return None
        head, _, tail = shard.url.rpartition(".tar")
        try:
            data = read_small(f"{head}.samples.json{tail}", num_tries=2)
            return SampleColumns.parse(data, shard.num_bytes, shard.sha256)
        except ValueError:
            return None

    def _scanned(self, shard: Shard) -> tuple[SampleColumns, str | None]:
        if not is_remote(shard.url):
            return scan_tar(shard.url)
        log.info("no list of samples beside %s: fetching the shard to read its headers", shard.url)
        try:
            return scan_tar(self.fetcher(shard.url, shard.version))
        except Unreachable as error:
            raise ValueError(f"no list of samples is beside it, and {error}") from error


def _members(data: bytes, key: str) -> dict[str, bytes]:
    """Return the members in the bytes of one sample. Raises BadSample for anything that is no plain file in place."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in members_of(tar):
                danger, found = unsafe(member), split_name(member.name)
                if danger is not None:
                    raise BadSample("unsafe member", danger)
                if member.isdir() or found is None:
                    continue
                if member.offset_data + member.size > len(data):
                    raise BadSample("damaged shard", f"{member.name!r} declares {member.size} bytes, too many")
                if found[0] != key:
                    raise BadSample("damaged shard", f"{member.name!r} lies where members of {key} should")
                members[found[1]] = data[member.offset_data : member.offset_data + member.size]
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("damaged shard", f"sample {key}: {error}") from error
    return members
