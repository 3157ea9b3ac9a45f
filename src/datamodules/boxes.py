"""Boxes of objects over a clip's frames: key boxes and what lies between them, soft boxes, the frame's edge.

Sources: Boximator, arXiv 2402.01566, section 3 and appendix A; TrackDiffusion, branch SVD (`youtube_loader.py`).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# TrackDiffusion's list of colours, (r, g, b).
COLOURS = np.array(
    [
        [220, 20, 60], [0, 0, 255], [106, 0, 228], [246, 0, 122], [250, 170, 30], [220, 220, 0], [165, 42, 42],
        [0, 226, 252], [182, 182, 255], [120, 166, 157], [255, 179, 240], [0, 125, 92], [0, 220, 176], [255, 99, 164],
        [45, 89, 255], [134, 134, 103], [197, 226, 255], [207, 138, 255], [74, 65, 105], [255, 109, 65], [0, 143, 149],
        [209, 99, 106], [227, 255, 205], [163, 255, 0], [183, 130, 88], [166, 74, 118], [65, 70, 15], [191, 162, 208],
        [142, 108, 45],
    ]
)  # fmt: skip
SLACK = (1.0, 8.0)  # of the Beta distribution of how far a soft box reaches beyond its object; Boximator
ON_KEY = 1e-6  # frames; so near to a key, it is the key

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class KeyBox:
    """Where an object is (xyxy, x1 < x2 and y1 < y2) in `frame`; None: it is gone from there to the next key."""

    frame: float
    box: Box | None
    is_soft: bool = False


@dataclass(frozen=True)
class BoxedObject:
    """One object. `keys`: at least one with a box, one a frame, in order.

    `between` keys: `linear` interpolation, or `absent` unless they are neighbours. `ends`, before the first and after
    the last key: `absent`, or `hold` them. `path`: points, along which the one box is moved at constant speed, to the
    end of the clip or until it is gone. `colour`: None for one of COLOURS.
    """

    id: str
    keys: tuple[KeyBox, ...]
    label: str = ""
    colour: Colour | None = None
    between: str = "linear"
    ends: str = "absent"
    path: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class TrackedBoxes:
    """The objects of a clip frame by frame: `boxes` (f k 4) xyxy, [0, 1] being the picture, which they may leave.

    `present` (f k) bool; `colours` (k 3) from 0 to 255; `soft` (f k) bool: not given there, but interpolated, so that
    the object is only about there; `ids`, `labels`: k each; `source`: for messages.
    """

    boxes: np.ndarray
    present: np.ndarray
    colours: np.ndarray
    soft: np.ndarray
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    source: str = "boxes"

    def record(self) -> dict[str, Any]:
        """Return them in the JSON form that `box_files` reads."""
        objects = []
        for slot, (name, label) in enumerate(zip(self.ids, self.labels, strict=True)):
            rows = [
                [int(frame), *self.boxes[frame, slot].round(6).tolist(), *["soft"][: int(self.soft[frame, slot])]]
                for frame in np.flatnonzero(self.present[:, slot])
            ]
            colour = self.colours[slot].tolist()
            if rows:
                objects.append({"id": name, "label": label, "colour": colour, "between": "absent", "boxes": rows})
        return {"coordinates": "unit", "outside": "cut", "num_frames": len(self.boxes), "objects": objects}


@dataclass(frozen=True)
class KeyBoxes:
    """The objects of a file, as boxes at some frames; coordinates in [0, 1] of the picture.

    `num_frames`: of the clip that the frames are numbered in, if the file says so; in a clip of another length, keys
    keep their share of its time.
    """

    source: str
    objects: tuple[BoxedObject, ...] = field(default=())
    num_frames: int | None = None

    def at(self, num_frames: int) -> TrackedBoxes:
        """Return the boxes of a clip of `num_frames`. Raises ValueError where a key is none of its frames.

        A key box between two frames, neither of which has the object, goes to the nearer one: in a shorter clip, what
        is seen for a moment would be gone.
        """
        counted = self.num_frames or num_frames
        for one in self.objects:
            if wrong := [key.frame for key in one.keys if key.frame >= counted]:
                raise ValueError(
                    f"{self.source}, object {one.id!r}: frame {wrong[0]:g} is none of the clip's 0 to {counted - 1}. "
                    "Give num_frames of sample.py, or num_frames in the file if it numbers another length"
                )
        scale = (num_frames - 1) / (counted - 1) if counted > 1 else 0.0
        shape = (num_frames, len(self.objects))
        boxes, present, soft = np.zeros((*shape, 4)), np.zeros(shape, bool), np.zeros(shape, bool)
        for slot, one in enumerate(self.objects):
            for frame in range(num_frames):
                found = box_at(one, frame, scale, num_frames)
                if found is not None and found.box is not None:
                    boxes[frame, slot], present[frame, slot], soft[frame, slot] = found.box, True, found.is_soft
            for key in one.keys:
                around = [math.floor(key.frame * scale), min(math.ceil(key.frame * scale), num_frames - 1)]
                if key.box is not None and not present[around, slot].any():
                    nearer = round(key.frame * scale)
                    boxes[nearer, slot], present[nearer, slot], soft[nearer, slot] = key.box, True, key.is_soft
        colours = choose_colours([one.colour for one in self.objects])
        ids, labels = (tuple(getattr(one, name) for one in self.objects) for name in ("id", "label"))
        return TrackedBoxes(boxes, present, colours, soft, ids, labels, self.source)


def box_at(one: BoxedObject, frame: int, scale: float, num_frames: int) -> KeyBox | None:
    """Return the box of an object in a frame, None where it is absent. Key k stands at the frame `scale` * k."""
    times = [key.frame * scale for key in one.keys]
    place = bisect_right(times, frame + ON_KEY) - 1
    if place < 0:
        return _soft(frame, one.keys[0].box) if one.ends == "hold" else None
    here, is_key = one.keys[place], frame - times[place] <= ON_KEY
    if here.box is None or is_key:
        return here
    is_last = place == len(one.keys) - 1
    if one.path:
        end = num_frames - 1 if is_last else max(times[place + 1] - 1, times[place])
        return _soft(frame, _moved(here.box, one.path, (frame - times[place]) / max(end - times[place], 1.0)))
    if is_last:
        return _soft(frame, here.box) if one.ends == "hold" else None
    after = one.keys[place + 1]
    if one.between == "absent" and after.frame - here.frame > 1:
        return None
    share = (frame - times[place]) / (times[place + 1] - times[place])
    box = here.box if after.box is None else _mixed(here.box, after.box, share)
    # Neighbours in the file, in a clip with more frames: as well known as they are.
    return KeyBox(frame, box, is_soft=after.frame - here.frame > 1 or here.is_soft or after.is_soft)


def choose_colours(given: Sequence[Colour | None]) -> np.ndarray:
    """Return the `given` colours (k 3), and for None the first of COLOURS that are free, then greys."""
    taken = {tuple(colour) for colour in given if colour is not None}
    supply = [*COLOURS.tolist(), *([level] * 3 for level in range(256))]
    free = (colour for colour in supply if tuple(colour) not in taken)
    return np.array([next(free) if colour is None else colour for colour in given], int).reshape(-1, 3)


def relaxed(boxes: np.ndarray, is_soft: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `boxes` (... 4), those that are soft (...) larger: each side moves outwards by a part of the frame.

    The part is Beta(1, 8), 1/9 in the mean; the box stays in the frame. Source: Boximator, appendix A.
    """
    grown = (boxes + rng.beta(*SLACK, size=boxes.shape) * (-1, -1, 1, 1)).clip(0, 1)
    return np.where(is_soft[..., None], grown, boxes)


def cut_to_frame(
    boxes: np.ndarray, present: np.ndarray, edge: str = "absent", min_sides: np.ndarray | float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """Return `boxes` (... 4) cut at the edges of the frame, 0 where absent, and where (...) there is one.

    Boxes with less than `min_sides` (of x and y, in [0, 1]) are none. A box outside of the frame is `absent`, or with
    `edge=border` what is nearest to it, a line on the border: so an object comes in or leaves.
    """
    inside = boxes.clip(0, 1)
    kept = boxes if edge == "border" else inside
    present = present & (kept[..., 2:] - kept[..., :2] >= min_sides).all(axis=-1)
    return inside * present[..., None], present


def _soft(frame: float, box: Box | None) -> KeyBox | None:
    return None if box is None else KeyBox(frame, box, is_soft=True)


def _mixed(first: Box, second: Box, share: float) -> Box:
    x1, y1, x2, y2 = ((1 - share) * a + share * b for a, b in zip(first, second, strict=True))
    return x1, y1, x2, y2


def _moved(box: Box, path: Sequence[tuple[float, float]], share: float) -> Box:
    """Return `box` moved as far as a point that has gone `share` of the length of `path`."""
    points = np.array(path)
    lengths = np.concatenate([[0.0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    point = [np.interp(share * lengths[-1], lengths, axis) for axis in points.T]
    x1, y1, x2, y2 = np.array(box) + np.tile(np.array(point) - points[0], 2)
    return float(x1), float(y1), float(x2), float(y2)
