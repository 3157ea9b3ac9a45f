"""A table of paths and captions: CSV with a header, or one JSON object a line."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import Picture, SourceClip, bad_entry, resolve
from .lists import MAX_LINE, check_file, read_json_lines, text_of

csv.field_size_limit(MAX_LINE)


class Table:
    """Each row of `file` (`.csv`, `.tsv` or `.jsonl`) is a video or a picture.

    `path`, `caption`, `references`: the names of the columns; references are `a@@b`, one picture for each person, and
    need not be there. Paths start at `folder`, else at the working directory or the file's folder. All other columns
    are kept in the json member under `columns`.
    """

    def __init__(
        self,
        *,
        file: str,
        folder: str | None = None,
        path: str = "path",
        caption: str = "caption",
        references: str = "references",
    ):
        self.file, self.folder = check_file(file), None if folder is None else Path(folder)
        if self.file.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
            raise ValueError(f"source.file={file} must be a .csv, .tsv or .jsonl file")
        self.path, self.caption, self.references = path, caption, references

    def __iter__(self) -> Iterator[SourceClip]:
        rows = read_json_lines(self.file) if self.file.suffix.lower() == ".jsonl" else self._csv_rows()
        for place, row in rows:
            if isinstance(row, str) or text_of(row, self.path) is None:
                detail = row if isinstance(row, str) else f"there is no `{self.path}` (source.path names the column)"
                yield bad_entry(self.file, place, detail)
            else:
                yield self._clip(row, place)

    def _csv_rows(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        delimiter = "\t" if self.file.suffix.lower() == ".tsv" else ","
        with open(self.file, newline="", encoding="utf-8-sig", errors="replace") as stream:
            rows = csv.DictReader(stream, delimiter=delimiter)
            missing = {self.path, self.caption} - set(rows.fieldnames or [])
            if missing:
                raise ValueError(
                    f"{self.file} has no column {', '.join(sorted(missing))}, its header is "
                    f"{', '.join(rows.fieldnames or [])}: source.path and source.caption name the columns"
                )
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield f"{self.file}, line {rows.line_num}", str(error)
                    continue
                yield f"{self.file}, line {rows.line_num}", self._checked(row)

    @staticmethod
    def _checked(row: dict[Any, Any]) -> dict[str, Any] | str:
        return f"{len(row[None])} values more than the header has" if None in row else row

    def _clip(self, row: dict[str, Any], place: str) -> SourceClip:
        images = [name.strip() for name in (text_of(row, self.references) or "").split("@@") if name.strip()]
        known = {self.path, self.caption, self.references}
        further = {name: value for name, value in row.items() if name not in known and value not in (None, "")}
        return SourceClip(
            self._resolve(row[self.path].strip()),
            text_of(row, self.caption),
            tuple((Picture(self._resolve(name)),) for name in images),
            place,
            info={"columns": further} if further else {},
        )

    def _resolve(self, name: str) -> Path:
        return resolve(name, self.file.parent) if self.folder is None else self.folder / name
