"""Tracked boxes of a clip in a fixed number of slots, with a colour each, and clips with these boxes drawn in.

Source: TrackDiffusion, branch SVD (`youtube_loader.py`); drawn boxes: Boximator, arXiv 2402.01566, section 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .conditions import Clip, Condition, SampleRequest
from .faces import rows_by_frame
from .samples import BadSample, Sample

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
LINE_WIDTH = 4  # pixels of the clip; TrackDiffusion
MIN_SIDE = 0.01  # pixels of the clip; thinner boxes are no boxes
EMPTY = -1


@dataclass(frozen=True)
class Slots:
    """The objects of a clip: `boxes` (f k 4) xyxy in [0, 1], 0 where absent; `present` (f k) bool; `ids` (k) integers,
    EMPTY in a free slot. `frames` (3 f h w) uint8, where boxes are to be drawn.
    """

    boxes: np.ndarray
    present: np.ndarray
    ids: np.ndarray
    frames: Tensor | None = None


class Tracklets(Condition):
    """`boxes` (f k 4) xyxy in [0, 1], `track_masks` (f k): 1 where the object of a slot has a box, `track_ids` (k) and
    `track_colours` (k 3) in [0, 1], the identity that the model sees. With `draw`, also `drawn_pixel_values` (3 f h w):
    the clip with the boxes drawn in; its first frame, which the model continues, stays as it is with `clean_first`.

    There are `num_slots`; objects fill them in the order of their ids (`by_id`, as the authors) or the ones with most
    frames first (`by_length`); what finds no slot is left out. Colours are drawn anew in each epoch. Objects whose id
    is no number are numbered in the order of their names. Crowds and occluded boxes count unless switched off.
    `compat=original` also draws the empty slots, as the authors' code does: a small patch in the upper left corner.
    """

    def __init__(
        self,
        *,
        num_slots: int = 20,
        order: str = "by_id",
        draw: bool = False,
        clean_first: bool = True,
        line_width: int = LINE_WIDTH,
        compat: str = "corrected",
        keep_crowds: bool = True,
        keep_occluded: bool = True,
    ):
        if not 1 <= num_slots <= len(COLOURS):
            raise ValueError(f"num_slots={num_slots} must lie in 1 to {len(COLOURS)}, one colour each")
        if order not in ("by_id", "by_length"):
            raise ValueError(f"order={order!r} is not one of by_id, by_length: datamodule.conditions")
        if compat not in ("corrected", "original"):
            raise ValueError(f"compat={compat!r} is not one of corrected, original: datamodule.conditions")
        self.num_slots, self.order, self.compat = num_slots, order, compat
        self.draw, self.clean_first, self.line_width = draw, clean_first, line_width
        self.keep_crowds, self.keep_occluded = keep_crowds, keep_occluded

    def load(self, sample: Sample, clip: Clip) -> Slots:
        tracks = sample.info.get("tracks") or []
        if not isinstance(tracks, list) or not all(isinstance(track, dict) for track in tracks):
            raise BadSample("broken json member", "`tracks` is not a list of objects")
        numbers = _numbers([str(track.get("id")) for track in tracks])
        found = []
        for number, track in zip(numbers, tracks, strict=True):
            boxes, present = self._boxes(track, clip)
            if present.any():
                found.append((number, boxes, present))
        by_length = self.order == "by_length"
        found.sort(key=lambda one: (-one[2].sum() if by_length else 0, one[0]))
        return self._slots(found[: self.num_slots], clip)

    def finish(self, loaded: Slots, rng: np.random.Generator) -> dict[str, Tensor]:
        colours = COLOURS[rng.permutation(len(COLOURS))[: self.num_slots]]
        tensors = {
            "boxes": torch.from_numpy(loaded.boxes).float(),
            "track_masks": torch.from_numpy(loaded.present).float(),
            "track_ids": torch.from_numpy(loaded.ids),
            "track_colours": torch.from_numpy(colours / 255).float(),
        }
        if loaded.frames is not None:
            shown = np.ones_like(loaded.present) if self.compat == "original" else loaded.present
            drawn = draw_boxes(loaded.frames, loaded.boxes, shown, colours, self.line_width)
            if self.clean_first:
                drawn[:, 0] = loaded.frames[:, 0]
            tensors["drawn_pixel_values"] = drawn
        return tensors

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        return {}

    def _boxes(self, track: dict[str, Any], clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes of an object in the clip (f 4), and where it has one."""
        indices = clip.chosen.indices
        values, present = rows_by_frame(track.get("boxes"), 4, indices)
        for flag, is_kept in (("crowd", self.keep_crowds), ("occluded", self.keep_occluded)):
            if not is_kept:
                present &= ~np.isin(indices, track.get(flag) or [])
        boxes = clip.geometry.boxes(values)
        height, width = clip.geometry.target
        sides = (boxes[:, 2:] - boxes[:, :2]) * (width, height)
        present &= (sides >= MIN_SIDE).all(axis=1)
        return boxes * present[:, None], present

    def _slots(self, found: Sequence[tuple[int, np.ndarray, np.ndarray]], clip: Clip) -> Slots:
        num_frames = len(clip.chosen.indices)
        boxes = np.zeros((num_frames, self.num_slots, 4))
        present = np.zeros((num_frames, self.num_slots), bool)
        ids = np.full(self.num_slots, EMPTY)
        for slot, (number, of_track, where) in enumerate(found):
            boxes[:, slot], present[:, slot], ids[slot] = of_track, where, number
        return Slots(boxes, present, ids, clip.frames if self.draw else None)


def draw_boxes(
    frames: Tensor, boxes: np.ndarray, present: np.ndarray, colours: np.ndarray, line_width: int = LINE_WIDTH
) -> Tensor:
    """Return `frames` (3 f h w uint8) with the outlines of `boxes` (f k 4) where `present` (f k), inside of the boxes
    and `line_width` pixels wide, in `colours` (k 3) from 0 to 255.
    """
    from PIL import Image, ImageDraw

    height, width = frames.shape[-2:]
    drawn = torch.empty_like(frames)
    for index in range(frames.shape[1]):
        picture = Image.fromarray(frames[:, index].permute(1, 2, 0).contiguous().numpy())
        pen = ImageDraw.Draw(picture)
        for slot in np.flatnonzero(present[index]):
            # PIL cuts fractions off: 4 / 48 x 48 must not become 3.9999.
            corners = (boxes[index, slot] * (width, height, width, height)).round(3)
            pen.rectangle(corners.tolist(), outline=tuple(map(int, colours[slot])), width=line_width)
        drawn[:, index] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return drawn


def _numbers(ids: Sequence[str]) -> list[int]:
    """Return the ids as numbers; where one is none, all are numbered in the order of their names."""
    if all(one.isdecimal() and len(one) < 19 for one in ids):
        return [int(one) for one in ids]
    places = {one: place for place, one in enumerate(sorted(set(ids)))}
    return [places[one] for one in ids]
