"""One file a layout: each lists its clips as `SourceClip`."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...datamodules.limits import MAX_SAMPLE_BYTES
from ...datamodules.samples import BadSample
from ...datamodules.video import VideoReader

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Picture:
    """A reference picture and, optionally, a grey mask of the same size: 0 is background."""

    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class FrameFiles:
    """A clip that lies as one picture a frame in `folder`, shown at `fps`.

    `names`: its files, in order; None for all pictures of the folder in natural order. Fewer than `min_frames` are too
    short. `crf`: the quality at which they are encoded, once, as H.264; 0 loses only colour resolution.
    """

    folder: Path
    fps: float
    names: tuple[str, ...] | None = None
    min_frames: int = 1
    crf: int = 12

    def paths(self) -> list[Path]:
        """Return the files in order. Raises BadSample where they are missing or too few."""
        if self.names is None and not os.path.isdir(self.folder):
            raise BadSample("missing file", f"{self.folder} is not a folder")
        paths = pictures_in(self.folder) if self.names is None else [self.folder / name for name in self.names]
        if len(paths) < max(self.min_frames, 1):
            raise BadSample("too short", f"{self.folder} holds {len(paths)} frames, {self.min_frames} are needed")
        return paths


class Annotations(Protocol):
    """What a layout says of a clip beside caption and pictures. It is read when the clip's turn comes, in a worker."""

    def files(self) -> tuple[Path, ...]:
        """Return the files that `read` opens; a folder stands for the files in it."""
        ...

    def read(self, video: bytes, info: Mapping[str, Any], reader: VideoReader) -> tuple[dict[str, Any], dict]:
        """Return entries of the json member and further members. `info`: the json member so far, with the probed
        `num_frames`, `fps`, `height` and `width`. Raises BadSample, naming file and entry, where something is wrong.
        """
        ...


@dataclass(frozen=True)
class SourceClip:
    """One clip as its source describes it.

    `video`: a video, a picture (a clip of one frame) or, where `frames` are given, their folder. `caption`: None where
    one is needed and missing, "" where the layout has none. `identities`: for each, the pictures that may stand for it;
    `identity_ids`: their names, where the layout has some. `info`: further entries of the json member. `problem`:
    reason and detail where listing has shown that the clip cannot be used. `place`: for messages.
    """

    video: Path
    caption: str | None
    identities: tuple[tuple[Picture, ...], ...] = field(default=())
    place: str = ""
    identity_ids: tuple[str, ...] = ()
    frames: FrameFiles | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    annotations: Annotations | None = None
    problem: tuple[str, str] | None = None

    def files(self) -> tuple[Path, ...]:
        """Return every file that the sample is made of; a folder stands for the files in it."""
        pictures = (picture for pictures in self.identities for picture in pictures)
        references = tuple(path for picture in pictures for path in (picture.image, picture.mask) if path is not None)
        return (*self._video_files(), *references, *(self.annotations.files() if self.annotations else ()))

    def _video_files(self) -> tuple[Path, ...]:
        if self.frames is None:
            return (self.video,)
        try:
            return tuple(self.frames.paths())
        except BadSample:
            return (self.frames.folder,)


class Source(Protocol):
    """Lists clips without opening them. Raises ValueError where the layout itself is wrong.

    What is wrong with one entry drops this entry (`SourceClip.problem`), not the listing. `sources.shards` lists
    samples that are in shards already, as `StoredSample`.
    """

    def __iter__(self) -> Iterator[SourceClip]: ...


def bad_entry(file: Path, place: str, detail: str, reason: str = "bad entry") -> SourceClip:
    """Return a clip that will be dropped: the entry of `file` at `place` cannot be understood."""
    return SourceClip(file, None, place=place, problem=(reason, f"{place}: {detail}"))


def resolve(name: str, folder: Path) -> Path:
    """Return the path `name`, from the working directory or, where nothing is there, relative to `folder`."""
    path = Path(name)
    # Not Path.exists, which raises for names that no system takes: they are dropped when they are to be read.
    return path if path.is_absolute() or os.path.exists(path) else folder / path


def inside(folder: Path, name: str) -> Path:
    """Return `folder / name`. Raises ValueError where that leaves the folder."""
    path = Path(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} does not name a file inside {folder}")
    return folder / path


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Return a key that sorts names as people count: 2.png before 10.png."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of `folder`, in natural order, without hidden ones. Raises BadSample where it is closed."""
    try:
        files = list(folder.iterdir())
    except (OSError, ValueError) as error:  # ValueError: no system takes such a name
        raise BadSample("missing file", f"{folder}: {getattr(error, 'strerror', None) or error}") from error
    found = (path for path in files if path.suffix.lower() in PICTURES and not path.name.startswith("."))
    return sorted(found, key=natural_key)


def caption_beside(path: Path) -> str | None:
    """Return the text of the `.txt` file of the same name, None where there is none or it is empty."""
    text = path.with_suffix(".txt") if path.is_file() else path.with_name(f"{path.name}.txt")
    return (text.read_text(errors="replace").strip() or None) if text.is_file() else None


def read_file(path: Path) -> bytes:
    """Return the bytes of `path`. Raises BadSample where it cannot be read, or is no plain file of a bearable size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a list may name /dev/zero, which never ends
            raise BadSample("not a file", f"{path} is a folder, a device or a pipe")
        if status.st_size > MAX_SAMPLE_BYTES:
            raise BadSample("too large", f"{path} has {status.st_size} bytes; at most {MAX_SAMPLE_BYTES} are read")
        return path.read_bytes()
    except BadSample:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise BadSample("missing file", f"{path}: {getattr(error, 'strerror', None) or error}") from error
