"""Pexels' two JSON-lines files, as ConsistI2V trains on them: videos with their sizes, and captions by `id`."""

from collections.abc import Iterator
from typing import Any

from . import SourceClip, bad_entry
from .lists import check_file, check_folder, number_of, read_json_lines, text_of
from .webvid import below


class Pexels:
    """`file` lists `id`, `file`, `fps`, `height`, `width` of videos below `folder`, `captions` lists `id` and `text`.

    Clips with height / width of `max_aspect` or more are dropped. Source: ConsistI2V code, `pexels.py`.
    """

    def __init__(self, *, file: str, captions: str, folder: str, max_aspect: float = 0.625):
        self.file, self.captions = check_file(file), check_file(captions, "source.captions")
        self.folder, self.max_aspect = check_folder(folder), max_aspect

    def __iter__(self) -> Iterator[SourceClip]:
        captions = {
            str(entry["id"]): text_of(entry, "text")
            for _, entry in read_json_lines(self.captions)
            if isinstance(entry, dict) and "id" in entry
        }
        if not captions:
            raise ValueError(f"source.captions={self.captions} holds no line with `id` and `text`")
        for place, entry in read_json_lines(self.file):
            try:
                yield self._clip(entry, captions, place)
            except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
                yield bad_entry(
                    self.file, place, f"expected an object with id, file, height and width ({error or error!r})"
                )

    def _clip(self, entry: dict[str, Any] | str, captions: dict[str, str | None], place: str) -> SourceClip:
        if isinstance(entry, str):
            raise ValueError(entry)
        aspect = number_of(entry["height"]) / number_of(entry["width"])
        is_too_tall = not aspect < self.max_aspect
        problem = ("too tall", f"{place}: height / width is {aspect:.3f}, less than {self.max_aspect} is kept")
        return SourceClip(
            below(self.folder, entry["file"]),
            captions.get(str(entry["id"])),
            place=place,
            problem=problem if is_too_tall else None,
        )
