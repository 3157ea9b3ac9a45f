"""Shards elsewhere: everything that webdataset opens (http, s3 through `pipe:`, ...), fetched whole, with retries."""

import fcntl
import hashlib
import logging
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
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
class Version:
    """What is known of a file elsewhere, so that a copy of an older one is not taken for it.

    `num_bytes` and `sha256` as its index says, `tag` (ETag or time) as its server says.
    """

    num_bytes: int | None = None
    sha256: str | None = None
    tag: str | None = None

    @property
    def name(self) -> str:
        """Text that is another one for another content, "" where nothing is known."""
        return self.sha256 or self.tag or ""


@dataclass(frozen=True)
class Fetcher:
    """Fetches files into `folder` (None: the user's own among the temporary files), where they stay for other runs.

    The least recently used ones are removed beyond `max_bytes`. Each file is tried `num_tries` times, after waits of
    `wait_s`, twice that, and so on. Several processes of a machine share the folder and fetch a file once.
    """

    folder: str | None = None
    max_bytes: float = 200e9
    num_tries: int = 5
    wait_s: float = 1.0

    def __call__(self, url: str, version: Version | None = None) -> Path:
        """Return where the file of `url` lies on this machine. `version`: what the file must be, as far as it is known.

        Raises Unreachable after the last try, and ValueError where the default folder is somebody else's.
        """
        version, folder = version or Version(), self._folder()
        name = re.sub(r"[^\w.-]", "_", url.rstrip(" -").rpartition("/")[2])[-60:]
        path = folder / f"{hashlib.sha256(f'{url} {version.name}'.encode()).hexdigest()[:16]}_{name}"
        if not _is_here(path, version):
            retry(lambda: self._fetch(url, path, version), url, self.num_tries, self.wait_s)
        return path

    def _folder(self) -> Path:
        if self.folder is not None:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            return Path(self.folder)
        folder = Path(tempfile.gettempdir()) / f"likeness_shards_{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise ValueError(f"{folder} belongs to another user: set datamodule.fetcher.folder")
        return folder

    def _fetch(self, url: str, path: Path, version: Version) -> None:
        # Held for one try, not for all: of many processes that find a file out of reach, each waits only for itself.
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_here(path, version):
                _download(url, path, version)
                self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """Remove what was used longest ago. Processes that have a removed file open go on reading it."""
        files = [(path, status) for path in newest.parent.glob("[!.]*") if (status := _status(path)) is not None]
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


def served_version(url: str, num_tries: int = 5, wait_s: float = 1.0) -> Version:
    """Return what the server of `url` says of the file, without fetching it; nothing for what is not http(s).

    Raises Unreachable where it does not answer.
    """
    if not url.startswith(("http://", "https://")):
        return Version()

    def ask() -> Version:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
                headers = answer.headers
                num_bytes = 0 if headers.get("Content-Encoding") else int(headers.get("Content-Length") or 0)
                return Version(num_bytes or None, tag=headers.get("ETag") or headers.get("Last-Modified"))
        except urllib.error.HTTPError as error:
            if error.code < 500:  # e.g. a signed address, which allows GET alone
                return Version()
            raise

    return retry(ask, url, num_tries, wait_s)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # removed by another process
        return None


def _is_here(path: Path, version: Version) -> bool:
    try:
        if version.num_bytes not in (None, path.stat().st_size):
            return False
        os.utime(path)  # it was used just now
    except FileNotFoundError:
        return False
    return True


def _read(url: str) -> bytes:
    from webdataset.gopen import gopen

    with gopen(url, "rb") as stream:
        data = stream.read(SMALL + 1)
    if len(data) > SMALL:
        raise ValueError(f"{url} has more than {SMALL} bytes: it is no index")
    if not data:
        raise OSError("nothing came")
    return data


def _download(url: str, path: Path, version: Version) -> None:
    from webdataset.gopen import gopen

    temporary, count, content = path.with_name(f".{path.name}.tmp"), 0, hashlib.sha256()
    with gopen(url, "rb") as stream, open(temporary, "wb") as target:
        while block := stream.read(2**20):
            count += target.write(block)
            content.update(block)
    if count == 0 or version.num_bytes not in (None, count):
        raise OSError(f"{count} bytes came" + ("" if version.num_bytes is None else f" of {version.num_bytes}"))
    if version.sha256 not in (None, content.hexdigest()):
        raise OSError("what came has another sha256 than its index says")
    os.replace(temporary, path)
