"""Reading the boxes that a user gives: our JSON form, CSV, and MOT's `gt.txt`. docs/boxes.md describes them.

What is wrong is raised as ValueError that names the file, the place in it and what is allowed.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import nearest
from .boxes import Box, BoxedObject, Colour, KeyBox, KeyBoxes

FILE_KEYS = ("coordinates", "size", "num_frames", "outside", "objects")
OBJECT_KEYS = ("id", "label", "colour", "boxes", "between", "ends", "path")
CORNERS = ("x1", "y1", "x2", "y2")
PIXEL_CORNERS = tuple(f"{name}_px" for name in CORNERS)
SOFT = "soft"


@dataclass(frozen=True)
class GivenBoxes:
    """The boxes of a file. `unit`: of coordinates, `unit` for [0, 1] or `pixels` of a picture of `size` (width, height;
    None: of the picture that is given). `outside`: what leaves the picture is `refused` or `cut`.
    """

    key_boxes: KeyBoxes
    unit: str
    size: tuple[float, float] | None = None
    outside: str = "refused"

    @property
    def needs_picture(self) -> bool:
        return self.unit == "pixels" and self.size is None

    def on_picture(self, height: int, width: int) -> KeyBoxes:
        """Return them in [0, 1] of a picture of this size. Raises ValueError for a box that leaves it."""
        scale = (1.0, 1.0) if self.unit == "unit" else self.size or (float(width), float(height))
        limits = "0 to 1" if self.unit == "unit" else f"0 to {scale[0]:g} (x) and {scale[1]:g} (y)"
        objects = []
        for one in self.key_boxes.objects:
            keys = tuple(replace(key, box=key.box and _scaled(key.box, scale)) for key in one.keys)
            leaving = [key for key in keys if key.box and not all(-1e-6 <= value <= 1 + 1e-6 for value in key.box)]
            if leaving and self.outside == "refused":
                box = next(key.box for key in one.keys if key.frame == leaving[0].frame)
                raise ValueError(
                    f"{self.key_boxes.source}, object {one.id!r}, frame {leaving[0].frame:g}: the box {_shown(box)} "
                    f'leaves the picture, {limits}: "coordinates" may be unit or pixels; "outside": "cut" allows it'
                )
            path = tuple((x / scale[0], y / scale[1]) for x, y in one.path)
            objects.append(replace(one, keys=keys, path=path))
        return replace(self.key_boxes, objects=tuple(objects))


def read_boxes(path: Path) -> GivenBoxes:
    """Return the boxes of a file: .json, .csv, or .txt in MOT's form."""
    readers = {".json": _read_json, ".csv": _read_csv, ".txt": _read_mot}
    if path.suffix.lower() not in readers:
        raise ValueError(f"boxes={path} is not a file of .json, .csv or .txt (MOT's gt.txt)")
    try:
        return readers[path.suffix.lower()](path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"boxes={path} cannot be read: {error}") from error


def parse_boxes(entry: Any, place: str) -> GivenBoxes:
    """Return the boxes of a JSON object. `place`: where it stands, for messages."""
    _check_keys(entry, FILE_KEYS, place)
    unit, outside = entry.get("coordinates"), entry.get("outside", "refused")
    if unit not in ("unit", "pixels"):
        raise ValueError(f'{place}: "coordinates" must say unit (0 to 1 of the picture) or pixels, not {unit!r}')
    if outside not in ("refused", "cut"):
        raise ValueError(f'{place}: "outside" must be refused or cut, not {outside!r}')
    size, num_frames = entry.get("size"), entry.get("num_frames")
    if size is not None and unit == "unit":
        raise ValueError(f'{place}: "size" has no meaning where "coordinates" is unit')
    if size is not None:
        width, height = _numbers(size, 2, f'{place}, "size" [width, height]')
        if min(width, height) <= 0:
            raise ValueError(f'{place}: "size" [width, height] must be above 0, not {size}')
        size = (width, height)
    if num_frames is not None and (not _is_frame(num_frames) or num_frames < 1):
        raise ValueError(f'{place}: "num_frames" must be an integer above 0, not {num_frames!r}')
    found = entry.get("objects")
    if not isinstance(found, list) or not found:
        raise ValueError(f'{place}: "objects" must be a list of at least one object')
    objects = [_parse_object(one, number, place) for number, one in enumerate(found)]
    return GivenBoxes(_key_boxes(place, objects, num_frames), unit, size, outside)


def _read_json(path: Path) -> GivenBoxes:
    try:
        entry = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return parse_boxes(entry, str(path))


def _read_csv(path: Path) -> GivenBoxes:
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True, restkey="", restval=None)
        names = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = names
        corners = PIXEL_CORNERS if PIXEL_CORNERS[0] in names else CORNERS
        missing = {"frame", "id", *corners} - set(names)
        unknown = set(names) - {"frame", "id", "label", "colour", *corners}
        if missing or unknown:
            wrong = f"column {min(unknown)!r} is unknown" if unknown else f"there is no column {min(missing)!r}"
            raise ValueError(
                f"{path}: {wrong}. Columns are frame, id, {', '.join(CORNERS)} (0 to 1 of the picture) or "
                f"{', '.join(PIXEL_CORNERS)} (pixels of it), and if wanted label, colour"
            )
        rows = [_csv_row(row, corners, f"{path}, line {reader.line_num}") for row in reader if any(row.values())]
    return GivenBoxes(_key_boxes(str(path), _grouped(rows)), "unit" if corners == CORNERS else "pixels")


def _read_mot(path: Path) -> GivenBoxes:
    """MOT: frame (from 1), id, left, top, width, height in pixels, whether it counts, ...; a gap is an absence."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        place, values = f"{path}, line {number}", [part.strip() for part in line.split(",")]
        if not line.strip():
            continue
        if len(values) < 6:
            raise ValueError(f"{place}: expected frame,id,left,top,width,height[,counts,...] as in MOT's gt.txt")
        x, y, width, height = _numbers(values[2:6], 4, place)
        if len(values) > 6 and _numbers(values[6:7], 1, place) == (0.0,):
            continue
        key = _key(_frame(values[0], place, first=1) - 1, (x, y, x + width, y + height), place)
        rows.append(_Row(place, values[1], key, between="absent"))
    return GivenBoxes(_key_boxes(str(path), _grouped(rows)), "pixels", outside="cut")


@dataclass(frozen=True)
class _Row:
    place: str
    id: str
    key: KeyBox
    label: str = ""
    colour: Colour | None = None
    between: str = "linear"


def _csv_row(row: Mapping[str, Any], corners: Sequence[str], place: str) -> _Row:
    if None in row.values() or "" in row:
        raise ValueError(f"{place}: it has more or fewer values than the first line has names")
    values = {name: value.strip() for name, value in row.items()}
    if not values["id"]:
        raise ValueError(f"{place}: `id` is empty")
    frame, found = _frame(values["frame"], place), [values[name] for name in corners]
    key = _key(frame, _numbers(found, 4, place), place) if any(found) else KeyBox(frame, None)
    colour = _colour(values["colour"], place) if values.get("colour") else None
    return _Row(place, values["id"], key, values.get("label", ""), colour)


def _grouped(rows: Sequence[_Row]) -> list[BoxedObject]:
    """Return the objects of rows, in the order of their first rows; label and colour stand in any of their rows."""
    found: dict[str, list[_Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    objects = []
    for name, own in found.items():
        given = {field: {getattr(row, field) for row in own} - {"", None} for field in ("label", "colour")}
        for field, values in given.items():
            if len(values) > 1:
                raise ValueError(f"{own[0].place}: object {name!r} has several values of {field}: {sorted(values)}")
        label, colour = (next(iter(values), None) for values in given.values())
        keys = _sorted_keys([row.key for row in own], [row.place for row in own], name)
        objects.append(BoxedObject(name, keys, label or "", colour, own[0].between))
    return objects


def _key_boxes(source: str, objects: Sequence[BoxedObject], num_frames: int | None = None) -> KeyBoxes:
    """Return the objects of a file. Raises ValueError where two have one id or one colour, and where there is none."""
    if not objects:
        raise ValueError(f"{source} holds no box")
    for name in ("id", "colour"):
        seen: dict[Any, str] = {}
        for one in objects:
            value = getattr(one, name)
            if value is not None and value in seen:
                raise ValueError(f"{source}: objects {seen[value]!r} and {one.id!r} have the same {name}, {value}")
            seen[value] = one.id
    return KeyBoxes(source, tuple(objects), num_frames)


def _parse_object(entry: Any, number: int, place: str) -> BoxedObject:
    name = entry.get("id", str(number)) if isinstance(entry, dict) else str(number)
    place = f"{place}, object {name!r}"
    _check_keys(entry, OBJECT_KEYS, place)
    label = entry.get("label", "")
    if not isinstance(name, (str, int)) or isinstance(name, bool) or not isinstance(label, str):
        raise ValueError(f'{place}: "id" and "label" must be names, not {name!r} and {label!r}')
    between, ends = entry.get("between", "linear"), entry.get("ends", "absent")
    for key, value, allowed in (("between", between, ("linear", "absent")), ("ends", ends, ("absent", "hold"))):
        if value not in allowed:
            raise ValueError(f'{place}: "{key}" must be {" or ".join(allowed)}, not {value!r}')
    rows = entry.get("boxes")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{place}: "boxes" must be a list of rows [frame, x1, y1, x2, y2]')
    keys = [_parse_row(row, place) for row in rows]
    keys = list(_sorted_keys(keys, [place] * len(keys), str(name)))
    path = tuple(_parse_path(entry["path"], keys, place)) if "path" in entry else ()
    colour = _colour(entry["colour"], place) if entry.get("colour") is not None else None
    return BoxedObject(str(name), tuple(keys), label, colour, between, ends, path)


def _parse_row(row: Any, place: str) -> KeyBox:
    if not isinstance(row, list) or len(row) not in (1, 5, 6) or (len(row) == 6 and row[5] != SOFT):
        raise ValueError(
            f'{place}: a row of "boxes" is [frame, x1, y1, x2, y2], [frame] where the object is gone, or '
            f'[frame, x1, y1, x2, y2, "{SOFT}"]; not {row!r}'
        )
    frame = _frame(row[0], place)
    if len(row) == 1:
        return KeyBox(frame, None)
    return _key(frame, _numbers(row[1:5], 4, f"{place}, frame {frame}"), place, is_soft=len(row) == 6)


def _parse_path(points: Any, keys: Sequence[KeyBox], place: str) -> Iterator[tuple[float, float]]:
    if not isinstance(points, list) or len(points) < 2:
        raise ValueError(f'{place}: "path" must be a list of at least two points [x, y]')
    if keys[0].box is None or any(key.box is not None for key in keys[1:]) or len(keys) > 2:
        raise ValueError(
            f'{place}: with "path", "boxes" holds one box, and [frame] if the object is gone from there on'
        )
    for point in points:
        x, y = _numbers(point, 2, f'{place}, "path"')
        yield x, y


def _sorted_keys(keys: Sequence[KeyBox], places: Sequence[str], name: str) -> tuple[KeyBox, ...]:
    seen: dict[float, str] = {}
    for key, place in zip(keys, places, strict=True):
        if key.frame in seen:
            raise ValueError(f"{place}: object {name!r} has two boxes in frame {key.frame:g}")
        seen[key.frame] = place
    if all(key.box is None for key in keys):
        raise ValueError(f"{places[0]}: object {name!r} has no box")
    return tuple(sorted(keys, key=lambda key: key.frame))


def _key(frame: int, values: tuple[float, ...], place: str, is_soft: bool = False) -> KeyBox:
    x1, y1, x2, y2 = values
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"{place}, frame {frame}: the box {_shown(values)} must have x1 < x2 and y1 < y2")
    return KeyBox(frame, (x1, y1, x2, y2), is_soft)


def _frame(value: Any, place: str, first: int = 0) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not _is_frame(value) or value < first:
        raise ValueError(f"{place}: a frame is an integer from {first} on, not {value!r}")
    return int(value)


def _is_frame(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(values: Any, count: int, place: str) -> tuple[float, ...]:
    try:
        if isinstance(values, str) or any(isinstance(value, bool) for value in values):
            raise ValueError("not a list of numbers")
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: expected {count} numbers, got {values!r}") from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"{place}: expected {count} numbers, got {values!r}")
    return found


def _colour(value: Any, place: str) -> Colour:
    from PIL import ImageColor

    try:
        found = ImageColor.getrgb(value)[:3] if isinstance(value, str) else tuple(value)
        red, green, blue = found
        if not all(_is_frame(part) and 0 <= part <= 255 for part in found):
            raise ValueError("out of range")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{place}: a colour is three integers from 0 to 255, '#rrggbb' or a name, not {value!r}"
        ) from error
    return red, green, blue


def _check_keys(entry: Any, allowed: Sequence[str], place: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: expected an object with {', '.join(allowed)}, got {str(entry)[:60]!r}")
    for key in entry:
        if key not in allowed:
            raise ValueError(f"{place}: {key!r} is unknown{nearest(key, allowed)}")


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    return box[0] / scale[0], box[1] / scale[1], box[2] / scale[0], box[3] / scale[1]


def _shown(box: Sequence[float] | None) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box or ()) + "]"
