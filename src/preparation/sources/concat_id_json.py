"""Concat-ID's JSON file: a list of `video_path`, `caption`, `image_path` and, optionally, `mask_path`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...datamodules.samples import BadSample
from . import Picture, SourceClip, bad_entry, pictures_in, resolve
from .lists import check_file, read_json, text_of


class ConcatIDJson:
    """`image_path` is a picture, a folder of pictures of one person (one is drawn in each epoch), `a@@b[@@c]` for
    several people, or empty for the clip's own first frame. Relative paths start at the working directory or at the
    file's folder.

    Source: Concat-ID code, `data_video.py`.
    """

    def __init__(self, *, file: str):
        self.file = check_file(file)

    def __iter__(self) -> Iterator[SourceClip]:
        entries = read_json(self.file)
        if not isinstance(entries, list):
            raise ValueError(f"{self.file} must hold a list of objects with video_path, caption and image_path")
        for number, entry in enumerate(entries):
            yield self._clip(entry, f"{self.file}, entry {number}")

    def _clip(self, entry: Any, place: str) -> SourceClip:
        if not isinstance(entry, dict) or not isinstance(entry.get("video_path"), str):
            return bad_entry(self.file, place, "expected an object with video_path, caption and image_path")
        images, mask_path = entry.get("image_path") or "", entry.get("mask_path") or None
        if not isinstance(images, str) or not isinstance(mask_path, (str, type(None))):
            return bad_entry(self.file, place, "image_path and mask_path must be texts")
        names = [name.strip() for name in images.split("@@") if name.strip()]
        if mask_path and len(names) != 1:
            return bad_entry(self.file, place, f"mask_path goes with one image_path, not with {len(names)}")
        mask = resolve(mask_path, self.file.parent) if mask_path else None
        identities = tuple(reference_pictures(resolve(name, self.file.parent), mask) for name in names)
        video = resolve(entry["video_path"], self.file.parent)
        return SourceClip(video, text_of(entry, "caption"), identities, place)


def reference_pictures(path: Path, mask: Path | None = None) -> tuple[Picture, ...]:
    """Return the picture at `path`, or all of a folder; a folder without any is named as the missing picture."""
    try:
        found = pictures_in(path)
    except BadSample:
        found = []
    return tuple(Picture(picture) for picture in found) or (Picture(path, mask),)
