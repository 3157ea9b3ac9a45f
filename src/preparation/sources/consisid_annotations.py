"""What ConsisID's files say of one clip: who is in it, boxes, masks and valid frames, and the faces cut out of it."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...datamodules.masks import MASKS, encode_masks
from ...datamodules.samples import BadSample
from ...datamodules.video import VideoReader
from ...media import encode_png
from ...models.identity.crops import crop_and_resize, expanded_box
from . import read_file
from .lists import frame_of, number_of, read_json

KINDS = ("face", "head", "person")
MAX_JSON = 2**28
CONFIDENCES = (0.95, 0.94, 0.93, 0.92, 0.91, 0.90)  # levels of the authors: the first at which there are enough frames
Row = tuple[float, float, float, float, float]  # x1 y1 x2 y2 in pixels, confidence


@dataclass
class Person:
    """One tracked person: `objects` gives the number of its masks by kind, `boxes` rows by kind and frame."""

    name: str
    objects: dict[str, int]
    valid_frames: dict[str, list[int]]
    control_frames: dict[str, int]
    boxes: dict[str, dict[int, Row]] = field(default_factory=lambda: {kind: {} for kind in KINDS})


@dataclass(frozen=True)
class ConsisIDAnnotations:
    """The annotations of a clip: `boxes` is a file of `refine_bbox_jsons`, `tracks` a folder of `track_masks_data`."""

    boxes: Path
    tracks: Path
    num_faces: int
    min_distance: int
    masks: tuple[str, ...]

    def files(self) -> tuple[Path, ...]:
        folders = (self.tracks / "tracking_mask_results").glob("*")
        return (self.boxes, *(self.tracks / f"{name}.json" for name in TRACK_FILES), *sorted(folders))

    def read(
        self, video: bytes, info: Mapping[str, Any], reader: VideoReader
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        people = self._people(int(info["num_frames"]))
        members, identities = self._faces(people, video, info, reader)
        missing: dict[str, list[list[int]]] = {}
        if self.masks:
            shape = (int(info["num_frames"]), int(info["height"]), int(info["width"]))
            found = {kind: self._mask_files(people, kind, shape[0]) for kind in self.masks}
            frames = {kind: _mask_frames(files, shape) for kind, files in found.items()}
            members[MASKS] = encode_masks(frames, shape)
            missing = {kind: [sorted(files) for files in of_kind] for kind, of_kind in found.items()}
        for number, identity in enumerate(identities):
            sparse = {kind: frames[number] for kind, frames in missing.items() if len(frames[number]) < shape[0]}
            if sparse:
                identity["mask_frames"] = sparse
        return {"identities": identities, "faces_from": "same"}, members

    def _people(self, num_frames: int) -> list[Person]:
        """Return who is in the clip, by number. Frames past the end of the video are left out."""
        corresponding, control, valid = (_read(self.tracks / f"{name}.json") for name in TRACK_FILES)
        place = str(self.tracks)
        try:
            people = [
                Person(
                    str(int(name)),
                    {kind: frame_of(objects[kind]) for kind in KINDS if kind in objects},
                    _by_kind(valid.get(name) or {}, lambda frames: _frames(frames, num_frames)),
                    _by_kind(control.get(name) or {}, frame_of),
                )
                for name, objects in sorted(corresponding.items(), key=lambda item: int(item[0]))
            ]
            place = str(self.boxes)
            self._add_boxes(people, num_frames)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadSample("bad annotation", f"{place}: {error or error!r}") from error
        if not people:
            raise BadSample("no identity", f"{self.tracks}/corresponding_data.json names nobody")
        return people

    def _add_boxes(self, people: Sequence[Person], num_frames: int) -> None:
        by_name = {person.name: person for person in people}
        for frame, kinds in _read(self.boxes).items():
            number = frame_of(frame)
            if number >= num_frames:
                continue
            for kind in KINDS:
                for item in kinds.get(kind) or []:
                    # Track ids are the detector's; `new_track_id` is the person.
                    person = by_name.get(str(item.get("new_track_id")))
                    if person is not None:
                        person.boxes[kind].setdefault(number, _row(item, f"frame {frame}, {kind}"))

    def _faces(
        self, people: Sequence[Person], video: bytes, info: Mapping[str, Any], reader: VideoReader
    ) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
        """Return the pictures cut out of the clip, and what the json member says of each person."""
        size = (int(info["height"]), int(info["width"]))
        name = Path(info["source"]).stem
        chosen = [choose_face_frames(person, self.num_faces, self.min_distance) for person in people]
        indices = sorted({frame for frames in chosen for frame in frames})
        pixels = dict(zip(indices, reader.read(video, indices), strict=True)) if indices else {}
        members: dict[str, bytes] = {}
        identities = []
        for person, frames in zip(people, chosen, strict=True):
            suffixes = []
            for frame in frames:
                box = expanded_box(_head_or_face(person, frame)[:4], *size)
                suffixes.append(f"face.{len(members)}.png")
                members[suffixes[-1]] = encode_png(crop_and_resize(pixels[frame], box))
            identities.append(_identity(person, f"{name}/{person.name}", suffixes, frames, size))
        return members, identities

    def _mask_files(self, people: Sequence[Person], kind: str, num_frames: int) -> list[dict[int, Path]]:
        """Return, for each person, the masks of a kind by frame. Not every frame need have one."""
        found = []
        for person in people:
            number = person.objects.get(kind)
            folder = self.tracks / "tracking_mask_results" / str(number)
            paths = folder.glob("annotated_frame_*.png") if number is not None else ()
            frames = {int(path.stem.rpartition("_")[2]): path for path in paths if path.stem[-1].isdigit()}
            found.append({frame: path for frame, path in frames.items() if frame < num_frames})
        return found


TRACK_FILES = ("corresponding_data", "control_sam2_frame", "valid_frame")


def choose_face_frames(person: Person, count: int, min_distance: int) -> list[int]:
    """Return at most `count` frames with a good view of a person: spread over the clip, `min_distance` apart.

    Frames are valid for face and head and have a box. They come from the highest of CONFIDENCES that face and head
    exceed in enough of them, else from all. The one that prompted the tracker comes first, where it is one of them.
    """
    valid = set(person.valid_frames.get("face", [])) & set(person.valid_frames.get("head", []))
    candidates = sorted(frame for frame in valid if frame in person.boxes["head"] or frame in person.boxes["face"])
    if not candidates or count == 0:
        return []
    surest = person.control_frames.get("head")
    first = [surest] if surest in candidates else []
    for level in (*CONFIDENCES, -1.0):
        good = [frame for frame in candidates if _confidence(person, frame) > level]
        apart = _apart(
            [frame for frame in good if all(abs(frame - one) >= min_distance for one in first)], min_distance
        )
        if len(first) + len(apart) >= count:
            break
    left = count - len(first)
    places = np.linspace(0, len(apart) - 1, min(left, len(apart))).round().astype(int).tolist()
    return [*first, *(apart[place] for place in places)]


def _apart(frames: Sequence[int], min_distance: int) -> list[int]:
    kept: list[int] = []
    for frame in frames:
        if not kept or frame - kept[-1] >= min_distance:
            kept.append(frame)
    return kept


def _confidence(person: Person, frame: int) -> float:
    return min((person.boxes[kind][frame][4] if frame in person.boxes[kind] else 0.0) for kind in ("face", "head"))


def _head_or_face(person: Person, frame: int) -> Row:
    return person.boxes["head"].get(frame) or person.boxes["face"][frame]


def _identity(
    person: Person, name: str, suffixes: list[str], frames: list[int], size: tuple[int, int]
) -> dict[str, Any]:
    scale = np.array([size[1], size[0]] * 2)

    def rows(kind: str) -> list[list[float]]:
        boxes = sorted(person.boxes[kind].items())
        return [[frame, *(np.array(row[:4]) / scale).clip(0, 1).round(7).tolist(), row[4]] for frame, row in boxes]

    return {
        "id": name,
        "face": suffixes,
        "face_frames": frames,
        "boxes": rows("face"),
        "head_boxes": rows("head"),
        "valid_frames": person.valid_frames,
        "mask_objects": person.objects,
        "control_frames": person.control_frames,
    }


def _mask_frames(files: Sequence[Mapping[int, Path]], shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Yield the masks of all people together, frame by frame: the number of the person from 1 on, 0 elsewhere."""
    for frame in range(shape[0]):
        together = np.zeros(shape[1:], np.uint8)
        for number, of_person in enumerate(files, 1):
            if frame in of_person:
                together[(together == 0) & _mask(of_person[frame], shape[1:])] = number
        yield together


def _mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return a 16-bit mask as booleans: every value above 0 is the object."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(read_file(path))) as image:
            if image.size != size[::-1]:
                raise BadSample("mask of another size", f"{path} is {image.size}, the video is {size[::-1]}")
            pixels = np.asarray(image)
    except UnidentifiedImageError as error:
        raise BadSample("unreadable image", f"{path} is not a picture of a known format") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("unreadable image", f"{path}: {error}") from error
    return pixels.reshape(*size, -1).max(axis=-1) > 0


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadSample("no annotations", f"{path} does not exist")
    try:
        content = read_json(path, MAX_JSON)
    except ValueError as error:
        raise BadSample("bad annotation", str(error)) from error
    if not isinstance(content, dict):
        raise BadSample("bad annotation", f"{path} must hold an object")
    return content


def _by_kind(entry: Mapping[str, Any], convert: Any) -> dict[str, Any]:
    return {kind: convert(entry[kind]) for kind in KINDS if entry.get(kind) is not None}


def _frames(frames: Any, num_frames: int) -> list[int]:
    return sorted({number for number in map(frame_of, frames) if number < num_frames})


def _row(item: Mapping[str, Any], place: str) -> Row:
    """Return box and confidence. Raises ValueError where they are no numbers or the box is empty."""
    x1, y1, x2, y2 = (number_of(item["box"][name]) for name in ("x1", "y1", "x2", "y2"))
    confidence = number_of(item.get("confidence", 1.0))
    if not (x1 < x2 and y1 < y2 and max(abs(value) for value in (x1, y1, x2, y2)) < 1e6 and 0 <= confidence <= 1):
        raise ValueError(f"{place}: box {[x1, y1, x2, y2]} with confidence {confidence}")
    return x1, y1, x2, y2, confidence
