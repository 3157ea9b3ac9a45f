"""Tracked boxes of a clip in a fixed number of slots, with a colour each, and clips with these boxes drawn in.

Source: TrackDiffusion, branch SVD (`youtube_loader.py`); drawn and soft boxes: Boximator, arXiv 2402.01566, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .boxes import COLOURS, TrackedBoxes, choose_colours, cut_to_frame, relaxed
from .conditions import Clip, Condition, SampleRequest
from .drawing import LINE_WIDTH, draw_boxes
from .faces import rows_by_frame
from .samples import BadSample, Sample

MIN_SIDE = 0.01  # pixels of the clip; thinner boxes are no boxes
EMPTY = -1
SETTINGS = "datamodule.conditions.tracklets"


@dataclass(frozen=True)
class Slots:
    """The objects of a clip: `boxes` (f k 4) xyxy in [0, 1], 0 where absent; `present` (f k) bool; `ids` (k) integers,
    EMPTY in a free slot. `frames` (3 f h w) uint8, where boxes are to be drawn.
    """

    boxes: np.ndarray
    present: np.ndarray
    ids: np.ndarray
    frames: Tensor | None = None

    @classmethod
    def free(cls, num_frames: int, num_slots: int, frames: Tensor | None = None) -> "Slots":
        """Return slots without objects."""
        shape = (num_frames, num_slots)
        return cls(np.zeros((*shape, 4)), np.zeros(shape, bool), np.full(num_slots, EMPTY), frames)


class Tracklets(Condition):
    """`boxes` (f k 4) xyxy in [0, 1], `track_masks` (f k): 1 where the object of a slot has a box, `track_ids` (k) and
    `track_colours` (k 3) in [0, 1], the identity that the model sees. With `draw`, also `drawn_pixel_values` (3 f h w):
    the clip with the boxes drawn in; its first frame, which the model continues, stays as it is with `clean_first`.

    There are `num_slots`; objects fill them in the order of their ids (`by_id`, as the authors) or the ones with most
    frames first (`by_length`); what finds no slot is left out. Colours are drawn anew in each epoch. Objects whose id
    is no number are numbered in the order of their names. Crowds and occluded boxes count unless switched off.
    `compat=original` also draws the empty slots, as the authors' code does: a small patch in the upper left corner.
    Where the crop left an object out, it is absent, or with `edge=border` a line on the border: so it comes and goes.

    With `box_dim` 8, also `box_hardness` (f k): 0 for soft boxes, which are larger than the object by parts of the
    frame (`boxes.relaxed`): in training each with `soft_box_probability`, from a request those between its key boxes.
    Drawn is where the object is.

    A request's boxes fill the slots in their order; without boxes all are absent.
    """

    takes_boxes = True

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
        edge: str = "absent",
        box_dim: int = 7,
        soft_box_probability: float = 0.0,
    ):
        if not 1 <= num_slots <= len(COLOURS):
            raise ValueError(f"num_slots={num_slots} must lie in 1 to {len(COLOURS)}, one colour each")
        for name, value, allowed in (
            ("order", order, ("by_id", "by_length")),
            ("compat", compat, ("corrected", "original")),
            ("edge", edge, ("absent", "border")),
            ("box_dim", box_dim, (4, 7, 8)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, allowed))}: {SETTINGS}.{name}")
        if not 0 <= soft_box_probability <= 1 or (soft_box_probability and box_dim != 8):
            raise ValueError(
                f"soft_box_probability={soft_box_probability} must lie in [0, 1], and be 0 with box_dim={box_dim}, "
                f"which does not tell the model what is soft: {SETTINGS}"
            )
        self.num_slots, self.order, self.compat = num_slots, order, compat
        self.edge, self.box_dim, self.soft_box_probability = edge, box_dim, soft_box_probability
        self.draw, self.clean_first, self.line_width = draw, clean_first, line_width
        self.keep_crowds, self.keep_occluded = keep_crowds, keep_occluded

    def load(self, sample: Sample, clip: Clip) -> Slots:
        if "tracks" not in sample.info:
            raise BadSample(
                "no tracks", "its json has no tracks, which prepare.py makes of source=mot, bdd100k, coco_vid"
            )
        tracks = sample.info["tracks"] or []
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
        is_soft = np.zeros_like(loaded.present)
        if self.soft_box_probability:
            is_soft = rng.random(loaded.present.shape) < self.soft_box_probability
        tensors = self._tensors(loaded, colours, is_soft, rng)
        if loaded.frames is not None:
            tensors["drawn_pixel_values"] = self._drawn(loaded, loaded.frames, colours)
        return tensors

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        given, num_frames = request.boxes, request.num_frames
        if num_frames is None:
            raise ValueError("a request for a clip that follows boxes must say its num_frames")
        slots = Slots.free(num_frames, self.num_slots)
        is_soft = np.zeros_like(slots.present)
        if given is not None:
            self._check(given, num_frames)
            count = len(given.ids)
            boxes, present = cut_to_frame(given.boxes, given.present, self.edge)
            slots.boxes[:, :count], slots.present[:, :count], slots.ids[:count] = boxes, present, range(count)
            is_soft[:, :count] = given.soft
        colours = [] if given is None else [tuple(colour) for colour in given.colours.tolist()]
        slot_colours = choose_colours([*colours, *[None] * (self.num_slots - len(colours))])
        return self._tensors(slots, slot_colours, is_soft, np.random.default_rng(request.seed))

    def _check(self, given: TrackedBoxes, num_frames: int) -> None:
        if len(given.boxes) != num_frames:
            raise ValueError(f"{given.source}: boxes for {len(given.boxes)} frames, and the clip has {num_frames}")
        if len(given.ids) > self.num_slots:
            raise ValueError(
                f"{given.source}: {len(given.ids)} objects, and the model of ckpt has room for {self.num_slots} "
                f"({SETTINGS}.num_slots of its training)"
            )

    def _tensors(
        self, slots: Slots, colours: np.ndarray, is_soft: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        boxes = relaxed(slots.boxes, is_soft & slots.present, rng) if self.box_dim == 8 else slots.boxes
        tensors = {
            "boxes": torch.from_numpy(boxes).float(),
            "track_masks": torch.from_numpy(slots.present).float(),
            "track_ids": torch.from_numpy(slots.ids),
            "track_colours": torch.from_numpy(colours / 255).float(),
        }
        if self.box_dim == 8:
            tensors["box_hardness"] = torch.from_numpy(~is_soft).float()
            tensors["object_boxes"] = torch.from_numpy(
                slots.boxes
            ).float()  # where things are, whatever the model is told
        return tensors

    def _drawn(self, slots: Slots, frames: Tensor, colours: np.ndarray) -> Tensor:
        shown = slots.present & (slots.boxes[..., 2:] > slots.boxes[..., :2]).all(axis=-1)
        if self.compat == "original":
            shown = np.ones_like(slots.present)
        drawn = draw_boxes(frames, slots.boxes, shown, colours, self.line_width)
        if self.clean_first:
            drawn[:, 0] = frames[:, 0]
        return drawn

    def _boxes(self, track: dict[str, Any], clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes of an object in the clip (f 4), and where it has one."""
        indices = clip.chosen.indices
        values, present = rows_by_frame(track.get("boxes"), 4, indices)
        for flag, is_kept in (("crowd", self.keep_crowds), ("occluded", self.keep_occluded)):
            if not is_kept:
                present &= ~np.isin(indices, track.get(flag) or [])
        height, width = clip.geometry.target
        return cut_to_frame(clip.geometry.uncut_boxes(values), present, self.edge, MIN_SIDE / np.array([width, height]))

    def _slots(self, found: Sequence[tuple[int, np.ndarray, np.ndarray]], clip: Clip) -> Slots:
        slots = Slots.free(len(clip.chosen.indices), self.num_slots, clip.frames if self.draw else None)
        for slot, (number, boxes, present) in enumerate(found):
            slots.boxes[:, slot], slots.present[:, slot], slots.ids[slot] = boxes, present, number
        return slots


def _numbers(ids: Sequence[str]) -> list[int]:
    """Return the ids as numbers; where one is none, all are numbered in the order of their names."""
    if all(one.isdecimal() and len(one) < 19 for one in ids):
        return [int(one) for one in ids]
    places = {one: place for place, one in enumerate(sorted(set(ids)))}
    return [places[one] for one in ids]
