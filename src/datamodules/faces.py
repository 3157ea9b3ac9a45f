"""Where the face of a clip's person lies in each frame: masks, boxes and keypoints, moved along with the pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .conditions import Clip, Condition, SampleRequest
from .masks import MASKS, decode_masks
from .samples import BadSample, Sample

MIRRORED = (1, 0, 2, 4, 3)  # in a mirrored picture, the left eye is the right one, and so are the mouth's corners


class FaceMask(Condition):
    """`face_mask` (1 f h w) uint8: 1 where the clip's person is, moved as the pixels were.

    The person is the one that the frame selection drew (label `identity`), else the first. `kind`: face, head or
    person. Samples without masks are skipped, or have empty ones: `without_mask` is `skip` or `empty`. In a frame of
    which no mask was stored, it is empty.
    """

    def __init__(self, *, kind: str = "face", without_mask: str = "skip"):
        if kind not in ("face", "head", "person"):
            raise ValueError(f"kind={kind!r} is not one of face, head, person: datamodule.conditions")
        if without_mask not in ("skip", "empty"):
            raise ValueError(f"without_mask={without_mask!r} is not one of skip, empty: datamodule.conditions")
        self.kind, self.without_mask = kind, without_mask

    def load(self, sample: Sample, clip: Clip) -> Tensor:
        if MASKS not in sample.members:
            if self.without_mask == "skip":
                raise BadSample("no masks", f"there is no member {MASKS}")
            return torch.zeros(1, *clip.frames.shape[1:], dtype=torch.uint8)
        shape = (int(sample.info["num_frames"]), *clip.geometry.source)
        masks = decode_masks(sample.members[MASKS], self.kind, clip.chosen.indices, shape)
        return clip.geometry.masks(masks == person_of(clip) + 1)

    def finish(self, loaded: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"face_mask": loaded}

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        return {}


class FaceBoxes(Condition):
    """`face_boxes` (f 4) xyxy in [0, 1] of the clip, and `face_boxes_present` (f) bool: where the person has one.

    `key`: `boxes` for faces, `head_boxes` for heads. A box that the crop cut off is absent.
    """

    def __init__(self, *, key: str = "boxes"):
        if key not in ("boxes", "head_boxes"):
            raise ValueError(f"key={key!r} is not one of boxes, head_boxes: datamodule.conditions")
        self.key = key

    def load(self, sample: Sample, clip: Clip) -> tuple[Tensor, Tensor]:
        values, present = rows_by_frame(_identity(sample, clip).get(self.key), 4, clip.chosen.indices)
        boxes = clip.geometry.boxes(values)
        present &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return torch.from_numpy(boxes * present[:, None]).float(), torch.from_numpy(present)

    def finish(self, loaded: tuple[Tensor, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        return {"face_boxes": loaded[0], "face_boxes_present": loaded[1]}

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        return {}


class Keypoints(Condition):
    """`face_keypoints` (f 5 2) x and y in [0, 1] of the clip, outside of it where the crop cut them off, and
    `face_keypoints_present` (f) bool. Order: eyes, nose, mouth corners, what is left in the picture first.
    """

    def load(self, sample: Sample, clip: Clip) -> tuple[Tensor, Tensor]:
        values, present = rows_by_frame(_identity(sample, clip).get("keypoints"), 10, clip.chosen.indices)
        points = clip.geometry.points(values.reshape(-1, 5, 2))
        if clip.geometry.flipped:
            points = points[:, MIRRORED]
        return torch.from_numpy(points * present[:, None, None]).float(), torch.from_numpy(present)

    def finish(self, loaded: tuple[Tensor, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        return {"face_keypoints": loaded[0], "face_keypoints_present": loaded[1]}

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        return {}


def person_of(clip: Clip) -> int:
    """Return the place in `identities` of the person that the clip was chosen for."""
    return int(clip.chosen.labels.get("identity", 0))


def rows_by_frame(rows: Any, size: int, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the `size` numbers that follow the frame in `rows`, for each of `indices`, and where there are some.

    Raises BadSample where `rows` is not a list of rows of finite numbers.
    """
    try:
        found = {int(row[0]): np.asarray(row[1 : size + 1], np.float64) for row in rows or []}
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise BadSample("broken json member", f"boxes or keypoints are not rows of numbers: {error}") from error
    if not all(row.shape == (size,) and np.isfinite(row).all() for row in found.values()):
        raise BadSample("broken json member", f"boxes or keypoints have rows without {size} finite numbers")
    present = np.array([index in found for index in indices], bool)
    values = np.array([found.get(index, np.zeros(size)) for index in indices]).reshape(len(indices), size)
    return values, present


def _identity(sample: Sample, clip: Clip) -> Mapping[str, Any]:
    identities = sample.info.get("identities") or []
    if len(identities) <= person_of(clip):
        raise BadSample("no identity", f"{len(identities)} are known, number {person_of(clip)} was asked for")
    return identities[person_of(clip)]
