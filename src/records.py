"""`samples.jsonl`: what each clip of a folder was made of, one JSON object a line, also where several processes write.

Each process appends to a file of its own, `samples.jsonl` or one for its share, and puts all of them together at its
end.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .datamodules.box_files import parse_boxes
from .datamodules.boxes import TrackedBoxes
from .datamodules.shards import write_atomically
from .shares import Share

Record = dict[str, Any]


def read_records(folder: Path) -> dict[str, Record]:
    """Return what the files say of each clip, by `video`; of several records of a clip, the one that was made last."""
    records: dict[str, Record] = {}
    for path in [folder / "samples.jsonl", *sorted(folder.glob("samples.*-of-*.jsonl"))]:
        for record in _read(path):
            previous = records.get(record["video"])
            if previous is None or record.get("made", 0) >= previous.get("made", 0):
                records[record["video"]] = record
    return dict(sorted(records.items()))


def recorded_boxes(record: Record) -> TrackedBoxes | None:
    """Return the boxes that a clip was made with."""
    if record.get("boxes") is None:
        return None
    return parse_boxes(record["boxes"], f"boxes of {record['video']}").on_picture(1, 1).at(record["num_frames"])


class RecordWriter:
    """Appends to the file of one share of `folder`."""

    def __init__(self, folder: Path, share: Share):
        self.folder = folder
        self.path = folder / ("samples.jsonl" if share.count == 1 else f"samples.{share.index}-of-{share.count}.jsonl")
        if self.path.is_file():
            # A kill may have cut the last line: what is appended to it would be lost as well.
            _write(self.path, _read(self.path))

    def append(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as stream:
            stream.write(json.dumps({**record, "made": round(time.time(), 3)}) + "\n")

    @contextmanager
    def merged(self) -> Iterator[dict[str, Record]]:
        """Write everything that is known of the folder into `samples.jsonl`, and give it to a block.

        Of the processes of a folder, one at a time is in such a block: the last to end sees what all have made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".samples.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = read_records(self.folder)
            _write(self.folder / "samples.jsonl", list(records.values()))
            yield records


def _read(path: Path) -> list[Record]:
    """Return the records of a file that may not exist; lines that are no JSON were cut by a kill."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def _write(path: Path, records: list[Record]) -> None:
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records).encode())
