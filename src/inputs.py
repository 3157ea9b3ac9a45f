"""What to sample: a prompt or pictures from the command line, a list of them in a file, or a folder of pictures.

With each, boxes of where things are to be (docs/boxes.md).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .datamodules.box_files import GivenBoxes, parse_boxes, read_boxes

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Request:
    """One clip to make: `references` are picture files, one an identity; `seed` only where the list fixes it.

    `prompt` None: none was given, for methods that go on from a picture.
    """

    prompt: str | None
    references: tuple[Path, ...]
    seed: int | None = None
    boxes: GivenBoxes | None = None


def read_requests(
    prompt: str | None, references: Sequence[str], inputs: str | None, boxes: str | None = None
) -> list[Request]:
    """Return the requests of a command line.

    A prompt with its references is one clip; without a prompt each reference is a clip of its own, as each picture of a
    folder is. `boxes`: a file for all clips that the list gives none. Raises ValueError unless either these or `inputs`
    are given.
    """
    requests = _read_requests(prompt, references, inputs)
    if boxes is None:
        return requests
    given = read_boxes(Path(boxes))
    return [request if request.boxes is not None else replace(request, boxes=given) for request in requests]


def _read_requests(prompt: str | None, references: Sequence[str], inputs: str | None) -> list[Request]:
    if (prompt is None and not references) == (inputs is None):
        raise ValueError(
            "give either prompt='...' with references=[FILE,...], or inputs=FILE (one clip a line); for a method "
            "without prompts references=[FILE,...], or inputs=FOLDER (one clip a picture)"
        )
    if inputs is None:
        found = tuple(_existing(reference, "references", Path(".")) for reference in references)
        return [Request(prompt, found)] if prompt is not None else [Request(None, (picture,)) for picture in found]
    path = Path(inputs)
    if path.is_dir():
        return _pictures_in(path)
    if not path.is_file():
        raise ValueError(f"inputs={path} does not exist")
    parse = _parse_json if path.suffix == ".jsonl" else _parse_concat_id
    lines = path.read_text().splitlines()
    requests = [
        parse(line, f"{path}, line {number}", path.parent) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not requests:
        raise ValueError(f"inputs={path} has no lines")
    return requests


def read_picture(path: Path) -> np.ndarray:
    """Return the picture at `path` (h w 3 uint8 RGB), upright. Raises ValueError, naming the file, where it is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} cannot be read as a picture: its format is not known") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def check_prompts(requests: Sequence[Request], has_prompts: bool) -> None:
    """Raise ValueError where a method that reads prompts was given none."""
    if has_prompts and any(request.prompt is None for request in requests):
        raise ValueError(
            "the model of ckpt reads prompts: give either prompt='...' with references=[FILE,...], or inputs=FILE"
        )


def _pictures_in(folder: Path) -> list[Request]:
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    if not pictures:
        raise ValueError(f"inputs={folder} holds no picture ({', '.join(_PICTURES)})")
    return [Request(None, (picture,)) for picture in pictures]


def _parse_concat_id(line: str, place: str, folder: Path) -> Request:
    """Concat-ID's list format: `prompt@@image[@@image[@@image]]`."""
    prompt, *references = [part.strip() for part in line.split("@@")]
    if not prompt or not references or not all(references):
        raise ValueError(f"{place}: expected prompt@@image[@@image[@@image]], got {line[:80]!r}")
    return Request(prompt, tuple(_existing(reference, place, folder) for reference in references))


def _parse_json(line: str, place: str, folder: Path) -> Request:
    """One JSON object a line: `prompt`, `references` (list of files), or one of them; optional `seed`, and `boxes`, a
    file or what such a file says.
    """
    try:
        entry: Any = json.loads(line)
        prompt, references, seed = entry.get("prompt"), entry.get("references", []), entry.get("seed")
        boxes = entry.get("boxes")
        if prompt is None and not references:
            raise KeyError("prompt")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place}: expected an object with `prompt` and `references` ({error})") from error
    found = tuple(_existing(reference, place, folder) for reference in references)
    if isinstance(boxes, str):
        return Request(prompt, found, seed, read_boxes(_existing(boxes, place, folder, "file of boxes")))
    return Request(prompt, found, seed, None if boxes is None else parse_boxes(boxes, f"{place}, boxes"))


def _existing(name: str, place: str, folder: Path, what: str = "picture") -> Path:
    """Return the file `name`, relative to the working directory (as in the original) or else to the list's folder."""
    for path in (Path(name), folder / name):
        if path.is_file():
            return path
    raise ValueError(f"{place}: there is no {what} {name}")
