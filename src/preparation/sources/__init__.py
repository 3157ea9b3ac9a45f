"""One file a layout: each lists its clips as `SourceClip`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Picture:
    """A reference picture and, optionally, a grey mask of the same size: 0 is background."""

    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class SourceClip:
    """One clip as its source describes it.

    `identities`: for each, the pictures that may stand for it. `place`: for messages.
    """

    video: Path
    caption: str | None
    identities: tuple[tuple[Picture, ...], ...] = field(default=())
    place: str = ""


class Source(Protocol):
    """Lists clips without opening them. Raises ValueError where the layout itself is wrong.

    `sources.shards` lists samples that are in shards already, as `StoredSample`.
    """

    def __iter__(self) -> Iterator[SourceClip]: ...


def resolve(name: str, folder: Path) -> Path:
    """Return the path `name`, from the working directory or, where nothing is there, relative to `folder`."""
    path = Path(name)
    return path if path.is_absolute() or path.exists() else folder / path
