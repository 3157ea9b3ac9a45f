"""Captions out of files that lie elsewhere: a text a clip, or one table for all."""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from ...datamodules.samples import BadSample, Sample
from ..sources.lists import read_json_lines
from . import SampleStage

NAMES = ("key", "name", "path", "video", "file")
TEXTS = ("caption", "text", "cap", "prompt")


class Captions(SampleStage):
    """Gives samples the captions of `source`: a folder of NAME.txt, or a JSONL or CSV file of names and captions.

    NAME is the sample's key, that of the clip that a shot was cut from, or the path of the clip's video, whole or its
    last parts, with or without the extension.
    With `replace`, a caption that is found takes the place of the one that is there; otherwise it only fills a gap. A
    sample without any is dropped. Raises ValueError where `source` cannot be read.
    """

    gives_captions = True

    def __init__(self, *, source: str, replace: bool = True):
        self.source, self.replace = Path(source), replace
        self.captions = read_captions(self.source)

    @classmethod
    def inputs(cls, settings: Mapping[str, Any]) -> str:
        """Return size and time of all files: after a change, captions are looked up again, and only theirs change."""
        source = Path(settings["source"])
        files = sorted(source.glob("*.txt")) if source.is_dir() else [source] if source.exists() else []
        return json.dumps([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])

    def depends_on(self, key: str, source: str) -> str:
        return self.find(key, source) or ""

    def __call__(self, sample: Sample) -> list[Sample]:
        present = sample.info["caption"].strip()
        found = self.find(sample.key, str(sample.info.get("source", ""))) if self.replace or not present else None
        if not (found or present):
            raise BadSample("no caption", f"{self.source} has none for {sample.key}, and the clip came without")
        return [replace(sample, info={**sample.info, "caption": found or present})]

    def find(self, key: str, source: str) -> str | None:
        """Return the caption of the sample `key`, made of the video `source`."""
        whole = re.sub(r"_s\d{3,}$", "", key)
        parts = PurePath(source).parts
        paths = [source, *("/".join(parts[start:]) for start in range(len(parts)))]
        for candidate in (key, whole, *paths, *(os.path.splitext(path)[0] for path in paths)):
            if candidate in self.captions:
                return self.captions[candidate]
        return None


def read_captions(source: Path) -> dict[str, str]:
    """Return captions by name. Raises ValueError, with file and line, where there are none."""
    if source.is_dir():
        texts = sorted(source.glob("*.txt"))
        captions = {path.stem: path.read_text("utf-8-sig", errors="replace").strip() for path in texts}
    elif not source.is_file():
        raise ValueError(
            f"stages.captions.source={source} does not exist: give a folder of .txt, a .jsonl or a .csv file"
        )
    elif source.suffix.lower() == ".csv":
        captions = dict(_csv_rows(source))
    elif source.suffix.lower() in (".jsonl", ".json"):
        captions = dict(_json_rows(source))
    else:
        raise ValueError(f"stages.captions.source={source}: allowed are a folder of .txt, a .jsonl or a .csv file")
    if not captions:
        raise ValueError(f"stages.captions.source={source} holds no caption")
    return {name: caption for name, caption in captions.items() if caption}


def _csv_rows(source: Path) -> Iterator[tuple[str, str]]:
    with open(source, newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                yield _pair(row, f"{source}, line {reader.line_num}")
        except csv.Error as error:
            raise ValueError(f"{source}, after line {reader.line_num}: {error}") from error


def _json_rows(source: Path) -> Iterator[tuple[str, str]]:
    for place, row in read_json_lines(source):
        if isinstance(row, str):
            raise ValueError(f"{place}: {row}")
        if len(row) == 1 and not row.keys() & set(NAMES):
            yield next((str(name), str(caption).strip()) for name, caption in row.items())
        else:
            yield _pair(row, place)


def _pair(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    name = next((row[one] for one in NAMES if row.get(one)), None)
    text = next((row[one] for one in TEXTS if row.get(one)), "")
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"{place}: expected one of {', '.join(NAMES)} and one of {', '.join(TEXTS)}")
    return name, text.strip()
