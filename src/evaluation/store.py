"""What was measured, clip by clip and metric by metric, on disk as soon as it is known: a killed run goes on.

A line of `measured.jsonl` holds what one clip adds to one metric. It is used again while its key is the same: the key
stands for the clip's files (size and time of change), its prompt, and everything that the metric depends on.
"""

import base64
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from ..metrics.increments import Increment


class Store:
    """The file `path`. Only places of lines are kept in memory."""

    def __init__(self, path: Path):
        self.path = path
        self._places: dict[tuple[str, str], tuple[str, int]] = {}
        self._num_lines = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(path, "a+b")  # noqa: SIM115, closed by `close`
        self._read_places()

    def close(self) -> None:
        """Close the file, without the lines that later ones have replaced."""
        places = sorted(place for _, place in self._places.values())
        if len(places) < self._num_lines:
            partial = self.path.with_suffix(".partial")
            with open(partial, "wb") as copy:
                for place in places:
                    self._stream.seek(place)
                    copy.write(self._stream.readline())
            partial.replace(self.path)
        self._stream.close()

    def get(self, clip: str, metric: str, key: str) -> dict[str, Any] | None:
        """Return the record of `clip` and `metric`, with its `increment` as tensors; None without one of that key."""
        known, place = self._places.get((clip, metric), ("", 0))
        if known != key:
            return None
        self._stream.seek(place)
        record = json.loads(self._stream.readline())
        return record | {"increment": load(base64.b64decode(record["increment"]))}

    def has(self, clip: str, metric: str, key: str) -> bool:
        return self._places.get((clip, metric), ("", 0))[0] == key

    def put(self, clip: str, metric: str, key: str, increment: Increment, **values: Any) -> None:
        """Append a record; `values` are kept beside the increment."""
        text = base64.b64encode(save(increment)).decode()
        record = {"clip": clip, "metric": metric, "key": key, **values, "increment": text}
        self._stream.seek(0, 2)
        place = self._stream.tell()
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()
        self._places[clip, metric] = key, place
        self._num_lines += 1

    def _read_places(self) -> None:
        self._stream.seek(0)
        place = 0
        for line in self._stream:
            if not line.endswith(b"\n"):  # cut by a kill
                self._stream.truncate(place)
                break
            try:
                record = json.loads(line)
                self._places[record["clip"], record["metric"]] = record["key"], place
            except (ValueError, KeyError, TypeError):
                pass
            place += len(line)
            self._num_lines += 1


def read_increments(path: Path, metrics: Collection[str]) -> dict[str, dict[str, Increment]]:
    """Return what each clip adds to each of `metrics`, by metric and clip, as the file `path` has it last."""
    found: dict[str, dict[str, Increment]] = {name: {} for name in metrics}
    with open(path, "rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
                if record["metric"] in found and not record.get("refused"):
                    found[record["metric"]][record["clip"]] = load(base64.b64decode(record["increment"]))
            except (ValueError, KeyError, TypeError):  # cut by a kill: measured again by the next evaluation
                continue
    return found


def key_of(*parts: Any) -> str:
    """Return a hash of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
