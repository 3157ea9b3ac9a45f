"""Tracked boxes of a clip of frames, as three layouts give them, and the `tracks` of the json member made of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...datamodules.samples import BadSample

MIN_SIDE = 0.01  # pixels; thinner boxes are no boxes: TrackDiffusion, `youtube_loader.py`
MAX_PIXEL = 1e6


@dataclass(frozen=True)
class TrackBox:
    """A box (xyxy, pixels) of the object `track` in the frame `frame`, the first being 0."""

    frame: int
    track: str
    label: str
    box: tuple[float, float, float, float]
    score: float = 1.0
    is_crowd: bool = False
    is_occluded: bool = False


def tracks_of(boxes: Iterable[TrackBox], info: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Return the `tracks` of a clip: for each object, `id`, `label`, `boxes` [frame, x0, y0, x1, y1, score] in [0, 1]
    of the clip, and the frames in which it is a `crowd` or `occluded`.

    Boxes outside the picture, thinner than MIN_SIDE or past the end of the clip are left out. Raises BadSample, naming
    `place`, where a box is no box, and where an object has two in one frame.
    """
    height, width, num_frames = int(info["height"]), int(info["width"]), int(info["num_frames"])
    tracks: dict[str, dict[str, Any]] = {}
    seen: set[tuple[str, int]] = set()
    for one in boxes:
        if not all(abs(value) < MAX_PIXEL for value in one.box):
            raise BadSample("bad annotation", f"{place}: frame {one.frame}, object {one.track} has the box {one.box}")
        left, right = (min(max(value / width, 0.0), 1.0) for value in one.box[::2])
        top, bottom = (min(max(value / height, 0.0), 1.0) for value in one.box[1::2])
        if one.frame >= num_frames or (right - left) * width < MIN_SIDE or (bottom - top) * height < MIN_SIDE:
            continue
        if (one.track, one.frame) in seen:
            raise BadSample("bad annotation", f"{place}: object {one.track} has two boxes in frame {one.frame}")
        seen.add((one.track, one.frame))
        track = tracks.setdefault(
            one.track, {"id": one.track, "label": one.label, "boxes": [], "crowd": [], "occluded": []}
        )
        track["boxes"].append([one.frame, *(round(value, 7) for value in (left, top, right, bottom)), one.score])
        for flag, is_set in (("crowd", one.is_crowd), ("occluded", one.is_occluded)):
            if is_set:
                track[flag].append(one.frame)
    for track in tracks.values():
        track["boxes"].sort(key=lambda row: row[0])
    return list(tracks.values())


def xywh_to_xyxy(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height
