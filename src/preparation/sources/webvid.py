"""WebVid's JSON lines, as ConsistI2V trains on them: `text`, `file`, `time` and `fps`."""

from collections.abc import Iterator
from pathlib import Path

from . import SourceClip, bad_entry, inside
from .lists import check_file, check_folder, read_json_lines, text_of


class WebVid:
    """Each line of `file` names a video below `folder`. Of an absolute path, only the last part counts.

    Length and rate are read from the videos: the listed ones are rounded. Source: ConsistI2V code, `webvid.py`.
    """

    def __init__(self, *, file: str, folder: str):
        self.file, self.folder = check_file(file), check_folder(folder)

    def __iter__(self) -> Iterator[SourceClip]:
        for place, entry in read_json_lines(self.file):
            if isinstance(entry, str) or text_of(entry, "file") is None:
                detail = entry if isinstance(entry, str) else "expected an object with `text` and `file`"
                yield bad_entry(self.file, place, detail)
                continue
            try:
                video = below(self.folder, entry["file"])
            except ValueError as error:
                yield bad_entry(self.file, place, str(error))
                continue
            yield SourceClip(video, text_of(entry, "text"), place=place)


def below(folder: Path, name: str) -> Path:
    """Return the file `name` of `folder`; of an absolute name, the last part counts. Raises ValueError outside."""
    name = name.strip()
    return inside(folder, name.replace("\\", "/").rpartition("/")[2] if name.startswith("/") else name)
