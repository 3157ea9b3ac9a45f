"""What a tar of other people's samples may hold, and whether it was read to its end."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

BLOCK = 512  # bytes: tars consist of them, and end with two of zeros
CHUNK = 2**20


def members_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar. Raises ReadError where they end for anything but the tar's end.

    `tarfile` takes a damaged header behind the first for the end, and says nothing.
    """
    yield from tar
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(BLOCK).strip(b"\0"):
        raise tarfile.ReadError(f"damaged header at byte {tar.offset}")
    while chunk := tar.fileobj.read(CHUNK):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {tar.offset}: more data follow the zeros there")


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and suffix of a member's name, as webdataset splits them: at the first dot of the file name.

    None for what is no part of a sample: a name without a dot, or one that begins with it, such as macOS' `._a.mp4`.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else None


def unsafe(member: tarfile.TarInfo) -> str | None:
    """Return why a member must not be taken for a file in its place, None where it may."""
    name = member.name
    if name.startswith("/") or ".." in PurePosixPath(name).parts or re.match(r"[A-Za-z]:|\\", name):
        return f"{name!r} points out of the shard"
    if not (member.isreg() or member.isdir()):
        return f"{name!r} is a link or a device, not a file"
    return None
