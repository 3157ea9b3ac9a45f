"""Conditioning data beside the caption: from a shard in training, from a user's request in sampling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .boxes import TrackedBoxes
from .buckets import Bucket
from .frames import ChosenFrames
from .images import Geometry, decode_image, fit_and_pad, stretched
from .samples import BadSample, Sample

MAX_REFERENCES = 3  # what Concat-ID was made for: its position table has room for no more


@dataclass(frozen=True)
class SampleRequest:
    """What a user asks for: one clip of `num_frames`. `references`: RGB pictures (h w 3 uint8), one an identity.

    `boxes`: where things are to be; `seed`: of what a condition draws.
    """

    prompt: str
    references: Sequence[np.ndarray]
    boxes: TrackedBoxes | None = None
    num_frames: int | None = None
    seed: int = 0


class Clip:
    """The clip that a condition goes with. Its frames are decoded when somebody asks for them.

    `chosen`: which frames of the video it is made of. `frames` (3 f h w) uint8; `geometry`: where they lie in those of
    the video. `make` returns both. `shape`: of its bucket, where it comes from a loader that has several.
    """

    def __init__(self, chosen: ChosenFrames, make: Callable[[], tuple[Tensor, Geometry]], shape: Bucket | None = None):
        self.chosen, self._make, self.shape = chosen, make, shape

    @property
    def frames(self) -> Tensor:
        return self._made[0]

    @property
    def geometry(self) -> Geometry:
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[Tensor, Geometry]:
        return self._make()


class Condition(ABC):
    """One kind of conditioning data: out of a shard in training, out of a user's request in sampling.

    `takes_boxes`: whether it reads the boxes of a request.
    """

    takes_boxes = False

    @abstractmethod
    def load(self, sample: Sample, clip: Clip) -> Any:
        """Decode what `sample` holds beside its `clip`. Raises BadSample where it cannot be used."""

    @abstractmethod
    def finish(self, loaded: Any, rng: np.random.Generator) -> dict[str, Tensor]:
        """Make the random choices of this epoch and return the batch's tensors, without the batch axis."""

    @abstractmethod
    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        """Return the same tensors for `request`. Raises ValueError where it does not fit."""

    def num_references(self, identities: np.ndarray) -> np.ndarray:
        """Return how many references a clip with so many `identities` that have a picture gets; -1: it has too few.

        Clips share a batch where the answer is the same.
        """
        return np.zeros_like(identities)


def given_conditions(conditions: Mapping[str, Condition | None]) -> dict[str, Condition]:
    """Return `conditions` without those that a configuration has taken out again."""
    return {name: condition for name, condition in conditions.items() if condition is not None}


def request_batch(conditions: Mapping[str, Condition], requests: Sequence[SampleRequest]) -> dict[str, Any]:
    """Return the batch, without clips, that a method's `generate` needs for `requests`."""
    batch: dict[str, Any] = {"caption": [request.prompt for request in requests]}
    for condition in conditions.values():
        tensors = [condition.from_request(request) for request in requests]
        batch |= {name: torch.stack([one[name] for one in tensors]) for name in tensors[0]}
    return batch


def check_boxes(conditions: Mapping[str, Condition], boxes: Sequence[TrackedBoxes]) -> None:
    """Raise ValueError where `boxes` of requests are none for a model with these `conditions`."""
    taking = [condition for condition in conditions.values() if condition.takes_boxes]
    if boxes and not taking:
        raise ValueError(
            f"{boxes[0].source}: the model of ckpt follows no boxes, as none of its conditions "
            f"({', '.join(conditions) or 'none'}) is tracklets: leave `boxes` out"
        )
    for condition in taking:
        for one in boxes:
            condition.from_request(SampleRequest("", [], one, len(one.boxes)))


class ReferenceImages(Condition):
    """`reference_pixel_values` (3 k h w) in [-1, 1]: a picture of each of the clip's first `max_references` identities.

    They have the size of the clip, which is `height` x `width` where there is one for all.
    Clips with fewer than `min_references` are skipped; those in between share a run, and a batch holds equal counts.
    Whatever has a picture is an identity here: a garment or a place is one more reference. Of several pictures of an
    identity one is drawn in each epoch. A mask of the picture (member `face.N.mask.png`) blackens its background with
    probability `mask_probability`. A clip without pictures refers to its own first frame, or is skipped:
    `without_face` is `first_frame` or `skip`.
    """

    def __init__(
        self,
        *,
        height: int,
        width: int,
        min_references: int = 1,
        max_references: int = 1,
        mask_probability: float = 0.9,
        without_face: str = "first_frame",
    ):
        if without_face not in ("first_frame", "skip"):
            raise ValueError(
                f"without_face={without_face!r} is not one of first_frame, skip: "
                "datamodule.conditions.references.without_face"
            )
        if not 1 <= min_references <= max_references <= MAX_REFERENCES:
            raise ValueError(
                f"min_references={min_references} and max_references={max_references} must lie between 1 and "
                f"{MAX_REFERENCES}, in this order: datamodule.conditions.references"
            )
        self.height, self.width = height, width
        self.min_references, self.max_references = min_references, max_references
        self.mask_probability = mask_probability
        self.without_face = without_face

    def num_references(self, identities: np.ndarray) -> np.ndarray:
        counts = np.minimum(identities, self.max_references)
        counts[identities < self.min_references] = -1
        if self._may_use_first_frame:
            counts[identities == 0] = 1
        return counts

    def load(self, sample: Sample, clip: Clip) -> list[list[tuple[Tensor, Tensor | None]]]:
        """Return, for each identity, its pictures, each plain and (or None) with a black background."""
        identities = [identity["face"] for identity in sample.identities]
        if not identities and self._may_use_first_frame:
            return [[(fit_and_pad(clip.frames[:, 0].permute(1, 2, 0).numpy(), *self._size(clip)), None)]]
        if len(identities) < self.min_references:
            raise BadSample(
                "too few references", f"{len(identities)} identities with a picture, {self.min_references} wanted"
            )
        used = identities[: self.max_references]
        return [[self._picture(sample, suffix, self._size(clip)) for suffix in faces] for faces in used]

    @property
    def _may_use_first_frame(self) -> bool:
        return self.without_face == "first_frame" and self.min_references == 1

    def finish(self, loaded: list[list[tuple[Tensor, Tensor | None]]], rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = []
        for pictures in loaded:
            plain, masked = pictures[int(rng.integers(len(pictures)))]
            chosen.append(masked if masked is not None and rng.uniform() < self.mask_probability else plain)
        return {"reference_pixel_values": torch.stack(chosen, dim=1)}

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        if len(request.references) > 3:
            raise ValueError(f"{len(request.references)} reference images were given for a clip: give at most 3")
        if not request.references:  # text to video
            return {"reference_pixel_values": torch.zeros(3, 0, self.height, self.width)}
        fitted = [fit_and_pad(image, self.height, self.width) for image in request.references]
        return {"reference_pixel_values": torch.stack(fitted, dim=1)}

    def _size(self, clip: Clip) -> tuple[int, int]:
        return (self.height, self.width) if clip.shape is None else (clip.shape.height, clip.shape.width)

    @staticmethod
    def _picture(sample: Sample, suffix: str, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        image = decode_image(sample.member(suffix), suffix)
        mask_suffix = f"{suffix.rpartition('.')[0]}.mask.png"
        if mask_suffix not in sample.members:
            return fit_and_pad(image, *size), None
        mask = decode_image(sample.members[mask_suffix], mask_suffix, mode="L")
        if mask.shape != image.shape[:2]:
            raise BadSample(
                "mask of another size", f"{mask_suffix} is {mask.shape[::-1]}, {suffix} is {image.shape[1::-1]}"
            )
        return fit_and_pad(image, *size), fit_and_pad(image * (mask > 0)[..., None], *size)


class FirstFrame(Condition):
    """`image_pixel_values` (3 1 h w): the picture that a clip begins with; `fps` () and `motion_bucket_id` ().

    From a shard: the clip's first frame; its frame rate, by the distance of its frames; and `motion_bucket_id` of its
    json, or else the one given here. From a request: its only picture, stretched to `height` x `width` as diffusers'
    pipeline does, and `clip_pixel_values` (3 224 224), which that pipeline makes of the picture itself; `fps` and
    `motion_bucket_id` given here, which sampling may change.
    """

    def __init__(self, *, height: int, width: int, fps: float = 7.0, motion_bucket_id: float = 127.0):
        self.height, self.width = height, width
        self.fps, self.motion_bucket_id = fps, motion_bucket_id

    def load(self, sample: Sample, clip: Clip) -> dict[str, Tensor]:
        """Return the tensors: there is nothing to choose in an epoch."""
        indices, rate = clip.chosen.indices, sample.info.get("fps")
        if not rate:
            raise BadSample("no frame rate", "its json has no fps")
        stride = indices[1] - indices[0] if len(indices) > 1 else 1
        motion = sample.info.get("motion_bucket_id", self.motion_bucket_id)
        try:  # a column of a table is text
            motion = float(motion)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadSample("broken json member", "motion_bucket_id is no number") from error
        return {
            "image_pixel_values": clip.frames[:, :1],
            "fps": torch.tensor(float(rate) / max(stride, 1)),
            "motion_bucket_id": torch.tensor(motion),
        }

    def finish(self, loaded: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        return dict(loaded)

    def from_request(self, request: SampleRequest) -> dict[str, Tensor]:
        if len(request.references) != 1:
            raise ValueError(
                f"{len(request.references)} pictures were given for a clip: this method wants one, its first frame "
                "(references=[FILE], or inputs=FOLDER)"
            )
        from ..models.image_encoders import CLIP_SIZE, antialiased_resize

        picture = request.references[0]
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 * 2 - 1
        return {
            "image_pixel_values": stretched(picture, self.height, self.width)[:, None],
            "clip_pixel_values": antialiased_resize(pixels[None], (CLIP_SIZE, CLIP_SIZE))[0],
            "fps": torch.tensor(self.fps),
            "motion_bucket_id": torch.tensor(self.motion_bucket_id),
        }
