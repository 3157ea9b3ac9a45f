"""Webdataset shards: finding them, listing their samples without reading them, writing them with their index."""

import glob
import hashlib
import json
import logging
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from .remote import Version, is_remote, join, read_small
from .samples import PICTURE_EXTENSIONS, clip_suffix, has_picture
from .tars import members_of, split_name

log = logging.getLogger(__name__)

INDEX = "index.json"
UNFINISHED = ".unfinished"  # where prepare.py writes before it moves everything in place
# What `index.json` may name: files beside it. An index is other people's data too.
SHARD_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")


@dataclass(frozen=True)
class Shard:
    """One tar file of samples. `url`: a path, or anything that webdataset opens; the others: if the index knows, `tag`
    (see `Version`) if the server does.
    """

    url: str
    num_samples: int
    num_bytes: int | None = None
    sha256: str | None = None
    tag: str | None = None

    @property
    def version(self) -> Version:
        return Version(self.num_bytes, self.sha256, self.tag)


class ShardSource(Protocol):
    """Shards that are made on first use. `train`, `val`: folders that exist after `prepare`."""

    train: str
    val: str

    def prepare(self) -> None:
        """Make the shards, unless they are there."""
        ...


def list_shards(source: str | Path | Sequence[str | Path]) -> list[Shard]:
    """Return the shards of `source`: a folder, an `index.json`, tars (globs, {000..999} braces), or a list of these.

    URLs and `pipe:` commands are what webdataset opens; a folder at a URL ends in `/`. Counts come from `index.json`,
    else from a scan of the tar headers (0 for a remote tar, which nobody has read yet). Raises ValueError where there
    is no shard.
    """
    if not isinstance(source, (str, Path)):
        return [shard for part in source for shard in list_shards(part)]
    place = str(source)
    if is_remote(place):
        return _list_remote(place)
    path = Path(source)
    if (path / INDEX).is_file():
        return _read_index(path / INDEX)
    if (path / UNFINISHED).is_dir():
        raise ValueError(f"{path} is not finished: give the command of prepare.py that began it again, it goes on")
    if path.is_dir():
        return _count_shards(sorted(map(str, path.glob("*.tar"))), source)
    if path.name == INDEX and path.is_file():
        return _read_index(path)
    urls = [match for pattern in _expand(place) for match in sorted(glob.glob(pattern))]
    return _count_shards(urls, source)


class ShardFile:
    """Writes one tar of samples, and beside it `NAME.samples.json`, which lists them: see `SampleColumns`.

    A context manager: the files appear when it is left, complete, and not at all after an exception. `entry` is then
    the tar's line of `index.json`.
    """

    entry: dict[str, Any]

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.tmp")
        self.samples = SampleColumns()

    def __enter__(self) -> Self:
        import webdataset

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self._temporary, "wb")
        self._writer = webdataset.TarWriter(self._stream, encoder=False, mtime=0)
        return self

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append the sample `key`, whose `members` are raw bytes by suffix."""
        start = self.num_bytes
        self._writer.write({"__key__": key, **members})
        self.samples.append(key, start, self.num_bytes, members.get("json"), members)

    @property
    def num_bytes(self) -> int:
        """The bytes written so far."""
        return self._writer.tarstream.offset  # the stream itself is written in blocks

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if kind is not None:
            self._temporary.unlink()
            return
        self.entry = {
            "name": self.path.name,
            "num_samples": len(self.samples),
            "num_bytes": self._temporary.stat().st_size,
            "sha256": file_hash(self._temporary),
        }
        # Between the two lines the list is not that of the tar beside it: the hash in it says so.
        write_atomically(samples_path(self.path), self.samples.dump(self.entry["num_bytes"], self.entry["sha256"]))
        os.replace(self._temporary, self.path)


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
        self._shard: ShardFile | None = None

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append the sample `key`, whose `members` are raw bytes by suffix."""
        if self._shard is None:
            self._shard = ShardFile(self.folder / f"{len(self.entries):06d}.tar").__enter__()
        self._shard.write(key, members)
        if len(self._shard.samples) >= self.max_samples or self._shard.num_bytes >= self.max_bytes:
            self._close_shard()

    def close(self, **info: Any) -> None:
        """Close the last shard and write `index.json`, with `info` beside the list of shards."""
        self._close_shard()
        write_index(self.folder, self.entries, **info)

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.__exit__(None, None, None)
            self.entries.append(self._shard.entry)
            self._shard = None


class SampleColumns:
    """What is known of the samples of a tar without reading them: a list a column, an entry a sample.

    `start`, `end`: the bytes of the tar that hold the sample's members with their headers. `num_frames`, `fps`,
    `height`, `width`: of the clip, 0 where the `json` member does not say. `references`: identities with a picture.
    """

    COLUMNS = ("key", "start", "end", "num_frames", "fps", "height", "width", "references")

    def __init__(self, columns: Mapping[str, list[Any]] | None = None):
        self.columns: dict[str, list[Any]] = {name: list((columns or {}).get(name, [])) for name in self.COLUMNS}

    def __len__(self) -> int:
        return len(self.columns["key"])

    def append(
        self, key: str, start: int, end: int, description: bytes | None = None, suffixes: Collection[str] = ()
    ) -> None:
        """Add a sample. `description`: its `json` member; what is wrong with that shows when the sample is read.

        `suffixes`: of its members, of which a picture in the place of the video has one frame.
        """
        try:
            info = json.loads(description or b"{}")
            info = info if isinstance(info, dict) else {}
        except (ValueError, RecursionError):
            info = {}
        numbers = {name: _number(info.get(name)) for name in ("num_frames", "fps", "height", "width")}
        if clip_suffix(suffixes) in PICTURE_EXTENSIONS:
            numbers["num_frames"] = 1
        values = {"key": key, "start": start, "end": end, **numbers, "references": _num_references(info)}
        for name, value in values.items():
            self.columns[name].append(value)

    def dump(self, num_bytes: int, sha256: str) -> bytes:
        """Return the file that lies beside a tar of `num_bytes` with the hash `sha256`."""
        return json.dumps({"version": 1, "num_bytes": num_bytes, "sha256": sha256, **self.columns}).encode()

    @classmethod
    def parse(cls, data: bytes, num_bytes: int | None, sha256: str | None) -> "SampleColumns | None":
        """Return the list in `data`, or None where it is damaged or belongs to another tar than the one described."""
        try:
            stored = json.loads(data)
            columns = {name: stored[name] for name in cls.COLUMNS}
            is_whole = len({len(column) for column in columns.values()}) == 1
            is_same = num_bytes in (None, stored["num_bytes"]) and sha256 in (None, stored["sha256"])
            if stored["version"] != 1 or not is_whole or not is_same:
                return None
            ends = [*columns["end"], stored["num_bytes"]]
            spans = zip(columns["start"], columns["end"], strict=True)
            in_file = all(0 <= start < end <= ends[-1] for start, end in spans)
            is_typed = all(_is_column(name, column) for name, column in columns.items())
            return cls(columns) if in_file and is_typed else None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


def scan_tar(path: str | Path) -> tuple[SampleColumns, str | None]:
    """Return the samples of a tar by its headers, and what is wrong with it, if anything.

    Consecutive members of one key are one sample. Where the tar is damaged, the samples before the damage.
    """
    samples, problem = SampleColumns(), None
    size = os.path.getsize(path)
    key, start, end, description = None, 0, 0, None
    suffixes: list[str] = []

    try:
        with tarfile.open(path, "r:") as tar:
            for member in members_of(tar):
                found = split_name(member.name)
                if member.isdir() or found is None:
                    continue
                member_key, suffix = found
                if member_key != key:
                    if key is not None:
                        samples.append(key, start, end, description, suffixes)
                    key, start, description, suffixes = member_key, member.offset, None, []
                suffixes.append(suffix)
                end = member.offset_data + -(-member.size // 512) * 512
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is longer than what is left of the file")
                if member.isreg() and suffix == "json" and member.size < 2**26:
                    stream = tar.extractfile(member)
                    description = stream.read() if stream is not None else None
            if key is not None:
                samples.append(key, start, end, description, suffixes)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problem = f"{path} cannot be read to its end: {error}"
    return samples, problem


def samples_path(tar: str | Path) -> Path:
    """Return where the list of the samples of `tar` lies."""
    return Path(tar).with_suffix(".samples.json")


def write_index(folder: str | Path, entries: Sequence[Mapping[str, Any]], **info: Any) -> None:
    """Write `index.json` of the shards `entries` (see `ShardFile.entry`), with `info` beside their list."""
    text = json.dumps({"version": 1, **info, "shards": list(entries)}, indent=1)
    write_atomically(Path(folder) / INDEX, text.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either the old file or the whole new one, also after a kill."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def file_hash(path: str | Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _number(value: Any) -> float | int:
    """Return `value` if it is a plausible size or rate, else 0: unknown."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and 0 < value < 1e9 else 0


def _is_column(name: str, column: Any) -> bool:
    """True for a list of keys, or of numbers as `ShardSet.table` holds them."""
    kinds = {str} if name == "key" else {int, float} if name == "fps" else {int}
    return (
        isinstance(column, list)
        and set(map(type, column)) <= kinds
        and (name == "key" or all(0 <= value < 2**53 for value in column))
    )


def _num_references(info: Mapping[str, Any]) -> int:
    identities = info.get("identities")
    return sum(map(has_picture, identities)) if isinstance(identities, list) else 0


def _read_index(path: Path) -> list[Shard]:
    shards = _parse_index(path.read_bytes(), str(path))
    missing = [shard.url for shard in shards if not os.path.exists(shard.url)]
    if missing:
        raise ValueError(f"{path} lists {len(missing)} shards that do not exist, the first is {missing[0]}")
    return shards


def _parse_index(data: bytes, url: str) -> list[Shard]:
    try:
        entries = json.loads(data)["shards"]
        names, counts = [entry["name"] for entry in entries], [int(entry["num_samples"]) for entry in entries]
        known = [(entry.get("num_bytes"), entry.get("sha256")) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{url} is not an index of shards ({error!r}): write it again with prepare.py") from error
    for name in names:
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise ValueError(f"{url} names a shard {name!r}: only plain names of files beside it are allowed")
    if not names:
        raise ValueError(f"{url} lists no shard: the data set is empty")
    return [Shard(join(url, name), count, *one) for name, count, one in zip(names, counts, known, strict=True)]


def _list_remote(url: str) -> list[Shard]:
    if url.endswith("/"):
        return _list_remote(url + INDEX)
    if INDEX in url:
        return _parse_index(read_small(url), url)
    return [Shard(one, 0) for one in _expand(url)]


def _expand(pattern: str) -> Iterator[str]:
    import braceexpand

    return braceexpand.braceexpand(pattern)


def _count_shards(urls: list[str], source: str | Path) -> list[Shard]:
    shards = []
    for url in urls:
        samples, problem = scan_tar(url)
        if len(samples):
            shards.append(Shard(url, len(samples), os.path.getsize(url)))
        elif problem is not None:
            log.warning("%s: no sample of it can be used", problem)
    if not shards:
        raise ValueError(
            f"no shards at {source}: expected a folder with {INDEX} or *.tar files (prepare.py writes one), or tar "
            "files"
        )
    return shards
