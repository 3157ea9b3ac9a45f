"""Celeb Basis' input: aligned pictures of faces, in a folder or listed in a file such as `ffhq.pickle`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import PICTURES, SourceClip, bad_entry, natural_key, resolve
from .lists import read_json, read_json_lines, read_lines
from .safe_pickle import load_plain


class CelebBasis:
    """Every picture is a clip of one frame; its identity is the file name before the first dot.

    `pictures`: a folder, or a list of paths: `.pickle` or `.pkl` (a list of paths, read without running code), `.json`
    (a list), `.jsonl` (objects with `path`) or any other file with one path a line. The order of the list is kept:
    positions in it name people in training. `root`: where to look for the file names of a list that another machine
    wrote. A NAME.txt beside a picture is its caption. Source: Celeb Basis code, `FaceIdDatasetOneShot`.
    """

    def __init__(self, *, pictures: str, root: str | None = None):
        self.pictures, self.root = Path(pictures), None if root is None else Path(root)
        if not self.pictures.exists():
            raise ValueError(f"source.pictures={pictures} does not exist: give a folder or a list of pictures")

    def __iter__(self) -> Iterator[SourceClip]:
        is_empty = True
        for place, entry, info in self._entries():
            is_empty = False
            if not isinstance(entry, str) or not entry.strip():
                yield bad_entry(self.pictures, place, f"expected the path of a picture, got {_short(entry)}")
                continue
            path = self._path(entry.strip())
            name = path.name.partition(".")[0]
            text = path.with_suffix(".txt")
            caption = text.read_text(errors="replace").strip() if text.is_file() else ""
            yield SourceClip(path, caption, ((),), place, identity_ids=(name,), info=info)
        if is_empty:
            raise ValueError(f"source.pictures={self.pictures} holds no picture ({', '.join(PICTURES)})")

    def _entries(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Yield place, path and further entries of the json member."""
        if self.pictures.is_dir():
            found = (path for path in self.pictures.iterdir() if path.suffix.lower() in PICTURES)
            yield from ((str(path), str(path), {}) for path in sorted(found, key=natural_key))
        elif self.pictures.suffix in (".pickle", ".pkl", ".json"):
            entries = (read_json if self.pictures.suffix == ".json" else load_plain)(self.pictures)
            if not isinstance(entries, (list, tuple)):
                raise ValueError(f"{self.pictures} must hold a list of paths, it holds a {type(entries).__name__}")
            for number, entry in enumerate(entries):
                yield f"{self.pictures}, entry {number}", *_with_quality(entry)
        elif self.pictures.suffix == ".jsonl":
            for place, entry in read_json_lines(self.pictures):
                yield place, entry.get("path") if isinstance(entry, dict) else None, {}
        else:
            yield from ((place, line, {}) for place, line in read_lines(self.pictures))

    def _path(self, name: str) -> Path:
        if self.root is not None:
            return self.root / name.replace("\\", "/").rpartition("/")[2]
        return Path(name) if self.pictures.is_dir() else resolve(name, self.pictures.parent)


def _with_quality(entry: Any) -> tuple[Any, dict[str, Any]]:
    """Return path and quality of an entry of the authors' second kind of list, (path, quality)."""
    is_pair = isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], (int, float))
    return (entry[0], {"quality": entry[1]}) if is_pair else (entry, {})


def _short(entry: Any) -> str:
    """Return what an entry is, without spelling out lists: a pickle of some bytes can hold the largest there are."""
    return f"a {type(entry).__name__}" if isinstance(entry, (list, tuple, dict)) else repr(str(entry)[:80])
