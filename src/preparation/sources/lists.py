"""Reading list files that others wrote: JSON, JSON lines, plain lines. What is wrong is named by file and line."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_BYTES = 4 * 2**30  # a list of 100,000 entries has some 50 MB
MAX_LINE = 2**24


def check_file(path: str, setting: str = "source.file") -> Path:
    """Return `path` as a Path. Raises ValueError, naming the setting, where there is no such file."""
    if not Path(path).is_file():
        raise ValueError(f"{setting}={path} does not exist")
    return Path(path)


def check_folder(path: str, setting: str = "source.folder") -> Path:
    """Return `path` as a Path. Raises ValueError, naming the setting, where there is no such folder."""
    if not Path(path).is_dir():
        raise ValueError(f"{setting}={path} is not a folder")
    return Path(path)


def check_frame_settings(folder: str, fps: Any, crf: Any) -> None:
    """Raise ValueError for a rate of frames or a quality that no clip can be encoded with."""
    if not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
        raise ValueError(f"source.fps={fps} must be above 0: how fast the frames of {folder} follow each other")
    if not isinstance(crf, (int, float)) or not 0 <= crf <= 51:
        raise ValueError(f"source.crf={crf} must lie in [0, 51]")


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Return what the JSON file `path` holds. Raises ValueError, naming file and line, where that is not JSON."""
    try:
        if path.stat().st_size > max_bytes:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, at most {max_bytes} are read")
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); a comma before ] or }} is not allowed"
        ) from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of the lines of `path` that are not blank. Raises ValueError for lines without an end."""
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE:
                raise ValueError(f"{path}, line {number} has more than {MAX_LINE} characters")
            if line.strip():
                yield f"{path}, line {number}", line.rstrip("\r\n")


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield (place, object) of a file with one JSON object a line; in place of a bad one, what is wrong with it."""
    for place, line in read_lines(path):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield place, f"not valid JSON ({error})"
            continue
        yield place, entry if isinstance(entry, dict) else "expected a JSON object"


def text_of(entry: dict[str, Any], name: str) -> str | None:
    """Return the text under `name`, stripped; None where there is none."""
    value = entry.get(name)
    return value.strip() or None if isinstance(value, str) else None


def number_of(value: Any) -> float:
    """Return a finite number, also from a text. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{str(value)[:40]} is not a finite number")
    return number


def frame_of(value: Any) -> int:
    """Return the number of a frame. Raises ValueError where `value` is none."""
    number = number_of(value)
    if number < 0 or number != int(number):
        raise ValueError(f"{value!r} is not the number of a frame")
    return int(number)
