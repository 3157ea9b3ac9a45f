"""Shards elsewhere: everything that webdataset opens (http, s3 through `pipe:`, ...), fetched whole, with retries."""

import fcntl
import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")
SMALL = 2**28  # bytes that an index may have


class Unreachable(OSError):
    """A file elsewhere that could not be fetched, after all retries."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches files into `folder` (None: a folder of the machine's temporary files), where they stay for other runs.

    The least recently used ones are removed beyond `max_bytes`. Each file is tried `num_tries` times, after waits of
    `wait_s`, twice that, and so on. Several processes of a machine share the folder and fetch a file once.
    """

    folder: str | None = None
    max_bytes: float = 200e9
    num_tries: int = 5
    wait_s: float = 1.0

    def __call__(self, url: str, num_bytes: int | None = None) -> Path:
        """Return where the file of `url` lies on this machine. `num_bytes`: its size, if known.

        Raises Unreachable after the last try.
        """
        folder = Path(self.folder or Path(tempfile.gettempdir()) / "likeness_shards")
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]", "_", url.rstrip(" -").rpartition("/")[2])[-60:]
        path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
        if _is_here(path, num_bytes):
            return path
        with open(folder / f".{path.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_here(path, num_bytes):
                retry(lambda: _download(url, path, num_bytes), url, self.num_tries, self.wait_s)
                self._make_room(folder, path)
        return path

    def _make_room(self, folder: Path, newest: Path) -> None:
        """Remove what was used longest ago. Processes that have a removed file open go on reading it."""
        files = [(path, path.stat()) for path in folder.iterdir() if not path.name.startswith(".")]
        total = sum(status.st_size for _, status in files)
        for path, status in sorted(files, key=lambda entry: entry[1].st_mtime):
            if total > self.max_bytes and path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size


def is_remote(url: str) -> bool:
    """True for what is not a path of this machine."""
    return url.startswith("pipe:") or re.match(r"\w+://", url) is not None


def join(index: str, name: str) -> str:
    """Return the place of the file `name` that lies beside `index`, a path, a URL or a command."""
    folder, slash, rest = index.rpartition("/")
    _, _, after = rest.partition(" ")  # `pipe:aws s3 cp s3://bucket/index.json -`
    return f"{folder}{slash}{name}" + (f" {after}" if after and is_remote(index) else "")


def read_small(url: str, num_tries: int = 5, wait_s: float = 1.0) -> bytes:
    """Return the content of a small file elsewhere. Raises ValueError where it cannot be had."""
    try:
        return retry(lambda: _read(url), url, num_tries, wait_s)
    except Unreachable as error:
        raise ValueError(f"{error}: check the address, and that its tool (curl, aws, gsutil...) is here") from error


def retry(attempt: Callable[[], Result], url: str, num_tries: int, wait_s: float) -> Result:
    """Return what `attempt` returns. Raises Unreachable when it has failed `num_tries` times."""
    for number in range(1, num_tries + 1):
        try:
            return attempt()
        except (OSError, EOFError) as error:
            problem = error
        if number < num_tries:
            log.warning("%s: %s (try %d of %d)", url, problem, number, num_tries)
            time.sleep(wait_s * 2 ** (number - 1))
    raise Unreachable(f"{url} could not be fetched in {num_tries} tries: {problem}") from problem


def _is_here(path: Path, num_bytes: int | None) -> bool:
    try:
        if num_bytes not in (None, path.stat().st_size):
            return False
        os.utime(path)  # it was used just now
        return True
    except FileNotFoundError:
        return False


def _read(url: str) -> bytes:
    from webdataset.gopen import gopen

    with gopen(url, "rb") as stream:
        data = stream.read(SMALL + 1)
    if len(data) > SMALL:
        raise ValueError(f"{url} has more than {SMALL} bytes: it is no index")
    if not data:
        raise OSError("nothing came")
    return data


def _download(url: str, path: Path, num_bytes: int | None) -> None:
    from webdataset.gopen import gopen

    temporary, count = path.with_name(f".{path.name}.tmp"), 0
    with gopen(url, "rb") as stream, open(temporary, "wb") as target:
        while block := stream.read(2**20):
            count += target.write(block)
    if count == 0 or num_bytes not in (None, count):
        raise OSError(f"{count} bytes came" + ("" if num_bytes is None else f" of {num_bytes}"))
    os.replace(temporary, path)
