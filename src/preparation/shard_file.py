"""Stand-in for `datamodules.shards.ShardFile`, to be replaced by it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..datamodules.shards import INDEX, write_atomically


class ShardFile:
    entry: dict[str, Any]

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.tmp")
        self.count = 0

    def __enter__(self):
        import webdataset

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self._temporary, "wb")
        self._writer = webdataset.TarWriter(self._stream, encoder=False, mtime=0)
        return self

    def write(self, key, members):
        self._writer.write({"__key__": key, **members})
        self.count += 1

    def __exit__(self, kind, error, trace) -> None:
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if kind is not None:
            self._temporary.unlink()
            return
        self.entry = {
            "name": self.path.name,
            "num_samples": self.count,
            "num_bytes": self._temporary.stat().st_size,
            "sha256": hashlib.sha256(self._temporary.read_bytes()).hexdigest(),
        }
        os.replace(self._temporary, self.path)


def write_index(folder: Path, entries, **info: Any) -> None:
    write_atomically(folder / INDEX, json.dumps({"version": 1, **info, "shards": entries}, indent=1).encode())
