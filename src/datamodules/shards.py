"""Webdataset shards on disk: finding them, reading them, writing them with their index."""

import glob
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .samples import BadSample

INDEX = "index.json"


@dataclass(frozen=True)
class Shard:
    """One tar file of samples. `url`: a path, or anything that webdataset opens."""

    url: str
    num_samples: int


class ShardSource(Protocol):
    """Shards that are made on first use. `train`, `val`: folders that exist after `prepare`."""

    train: str
    val: str

    def prepare(self) -> None:
        """Make the shards, unless they are there."""
        ...


def list_shards(source: str | Path | Sequence[str | Path]) -> list[Shard]:
    """Return the shards of `source`: a folder, an `index.json`, tars (globs, {000..999} braces), or a list of these.

    Counts come from `index.json`, else from a scan of the tar headers. Raises ValueError where there is no shard.
    """
    if not isinstance(source, (str, Path)):
        return [shard for part in source for shard in list_shards(part)]
    path = Path(source)
    if path.is_dir():
        return (
            _read_index(path / INDEX)
            if (path / INDEX).is_file()
            else _count_shards(sorted(map(str, path.glob("*.tar"))), source)
        )
    if path.name == INDEX and path.is_file():
        return _read_index(path)
    import braceexpand

    urls = [match for pattern in braceexpand.braceexpand(str(source)) for match in sorted(glob.glob(pattern))]
    return _count_shards(urls, source)


def read_shard(
    shard: Shard, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, dict[str, Any] | BadSample]]:
    """Yield (position, raw sample) of the samples `start` to `stop` of `shard`, in order.

    Where the tar is damaged, the sample that the damage cuts and all later positions are yielded as BadSample.
    """
    from webdataset.tariterators import tarfile_samples

    stop = shard.num_samples if stop is None else stop
    errors: list[Exception] = []

    def stop_reading(error: Exception) -> bool:
        errors.append(error)
        return False

    # Each sample is held back until the next has begun: the last one before a damage may lack members.
    position, held = 0, None
    for raw in tarfile_samples([{"url": shard.url}], handler=stop_reading):
        if held is not None and position > start:
            yield position - 1, held
        if position >= stop:
            return
        position, held = position + 1, raw
    is_whole = not errors and position == shard.num_samples
    if held is not None and is_whole and position > start:
        yield position - 1, held
    cause = str(errors[0]) if errors else f"it ends after {position} of {shard.num_samples} samples"
    for missing in range(max(position - (held is not None and not is_whole), start), stop):
        yield missing, BadSample("damaged shard", f"{shard.url} cannot be read from sample {missing} on: {cause}")


class ShardWriter:
    """Writes samples into `folder` as 000000.tar, 000001.tar..., and their `index.json` on `close`.

    A shard is closed after `max_samples` samples or `max_bytes` bytes. Every file appears under its name when it is
    complete.
    """

    def __init__(self, folder: str | Path, *, max_samples: int = 1000, max_bytes: int = 2**30):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_samples, self.max_bytes = max_samples, max_bytes
        self.entries: list[dict[str, Any]] = []
        self._writer: Any = None
        self._num_samples = 0

    def write(self, key: str, members: dict[str, bytes]) -> None:
        """Append the sample `key`, whose `members` are raw bytes by suffix."""
        import webdataset

        if self._writer is None:
            self._temporary = self.folder / f".{len(self.entries):06d}.tar.tmp"
            self._stream = open(self._temporary, "wb")  # noqa: SIM115 - open from one call of `write` to another
            self._writer = webdataset.TarWriter(self._stream, encoder=False, mtime=0)
            self._num_samples = 0
        self._writer.write({"__key__": key, **members})
        self._num_samples += 1
        if self._num_samples >= self.max_samples or self._stream.tell() >= self.max_bytes:
            self._close_shard()

    def close(self, **info: Any) -> None:
        """Close the last shard and write `index.json`, with `info` beside the list of shards."""
        self._close_shard()
        write_atomically(
            self.folder / INDEX, json.dumps({"version": 1, **info, "shards": self.entries}, indent=1).encode()
        )

    def _close_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._stream.close()
        self._writer = None
        name = f"{len(self.entries):06d}.tar"
        data_hash = hashlib.sha256()
        with open(self._temporary, "rb") as stream:
            while block := stream.read(2**20):
                data_hash.update(block)
        os.replace(self._temporary, self.folder / name)
        size = (self.folder / name).stat().st_size
        self.entries.append(
            {"name": name, "num_samples": self._num_samples, "num_bytes": size, "sha256": data_hash.hexdigest()}
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either the old file or the whole new one, also after a kill."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _read_index(path: Path) -> list[Shard]:
    try:
        entries = json.loads(path.read_text())["shards"]
        shards = [Shard(str(path.parent / entry["name"]), int(entry["num_samples"])) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an index of shards ({error!r}): write it again with prepare.py") from error
    missing = [shard.url for shard in shards if not os.path.exists(shard.url)]
    if missing:
        raise ValueError(f"{path} lists {len(missing)} shards that do not exist, the first is {missing[0]}")
    if not shards:
        raise ValueError(f"{path} lists no shard: the data set is empty")
    return shards


def _count_shards(urls: list[str], source: str | Path) -> list[Shard]:
    shards = [Shard(url, _count_samples(url)) for url in urls]
    shards = [shard for shard in shards if shard.num_samples]
    if not shards:
        raise ValueError(
            f"no shards at {source}: expected a folder with {INDEX} or *.tar files (prepare.py writes one), or tar "
            "files"
        )
    return shards


def _count_samples(path: str) -> int:
    """Return the number of distinct keys in a tar, up to where it is damaged."""
    keys: dict[str, None] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                keys[f"{folder}/{name.partition('.')[0]}"] = None
    except (tarfile.TarError, OSError, EOFError):
        pass
    return len(keys)
