"""Concat-ID's JSON file: a list of `video_path`, `caption`, `image_path` and, optionally, `mask_path`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import Picture, SourceClip, resolve

PICTURES = (".png", ".jpg", ".jpeg")


class ConcatIDJson:
    """`image_path` is a picture, a folder of pictures of one person (one is drawn in each epoch), `a@@b[@@c]` for
    several people, or empty for the clip's own first frame. Relative paths start at the working directory or at the
    file's folder.

    Source: Concat-ID code, `data_video.py`.
    """

    def __init__(self, *, file: str):
        self.file = Path(file)
        if not self.file.is_file():
            raise ValueError(f"source.file={file} does not exist")

    def __iter__(self) -> Iterator[SourceClip]:
        try:
            entries = json.loads(self.file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.file}, line {error.lineno}: not valid JSON ({error.msg}); a comma before ] or }} is not allowed"
            ) from error
        if not isinstance(entries, list):
            raise ValueError(f"{self.file} must hold a list of objects with video_path, caption and image_path")
        for number, entry in enumerate(entries):
            yield self._clip(entry, f"{self.file}, entry {number}")

    def _clip(self, entry: Any, place: str) -> SourceClip:
        if not isinstance(entry, dict) or not isinstance(entry.get("video_path"), str):
            raise ValueError(f"{place}: expected an object with video_path, caption and image_path")
        names = [name for name in entry.get("image_path", "").split("@@") if name]
        mask = entry.get("mask_path") or None
        if mask and len(names) != 1:
            raise ValueError(f"{place}: mask_path goes with one image_path, not with {len(names)}")
        masks = [resolve(mask, self.file.parent) if mask else None] * len(names)
        identities = tuple(
            self._pictures(resolve(name, self.file.parent), mask) for name, mask in zip(names, masks, strict=True)
        )
        return SourceClip(resolve(entry["video_path"], self.file.parent), entry.get("caption"), identities, place)

    @staticmethod
    def _pictures(path: Path, mask: Path | None) -> tuple[Picture, ...]:
        if not path.is_dir():
            return (Picture(path, mask),)
        return tuple(Picture(file) for file in sorted(path.iterdir()) if file.suffix.lower() in PICTURES) or (
            Picture(path),
        )
