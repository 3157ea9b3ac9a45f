"""Which frames of a video become the clip."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .samples import BadSample


class FrameSelection(Protocol):
    """Chooses the frames of a clip."""

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[int]:
        """Return the indices of the clip's frames in a video of `num_frames` at `fps`.

        Raises BadSample for a short one.
        """
        ...


@dataclass(frozen=True)
class ConcatIDFrames:
    """Concat-ID's rule: start at frame `skip`, stride for about `fps`, stop or repeat the last frame at `num_frames`.

    The stride is floored, so the real rate is not `fps`: 30 fps give 10, 24 give 12. `subtract_skip`: whether the span
    that is spread over the clip loses `skip` frames at its end; True for the CogVideoX variant, False for the Wan one.
    Source: the authors' code, `data_video.py`; integer arithmetic as written there.
    """

    num_frames: int
    fps: float = 8
    skip: int = 3
    subtract_skip: bool = True

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[int]:
        wanted, start = self.num_frames, self.skip
        if num_frames / fps * self.fps > wanted or num_frames > wanted:
            long_enough = num_frames / fps * self.fps > wanted
            end = num_frames - start
            if long_enough:
                end = math.ceil(start + wanted / self.fps * fps) - (start if self.subtract_skip else 0)
            stride = max((end - start) // wanted, 1)
            last = min(end, num_frames - start) - 1
            indices = [min(index, last) for index in range(start, end, stride)]
        else:
            usable = num_frames - 2 * start
            if usable < 1:
                raise BadSample(
                    "too short",
                    f"{num_frames} frames, at least {2 * start + 1} are needed to skip {start} at both ends",
                )
            indices = list(range(start, start + (usable - 1) // 4 * 4 + 1))
        return _exactly(wanted, indices)


@dataclass(frozen=True)
class StridedFrames:
    """`num_frames` frames, `stride` apart.

    `start`: `first`, `centre` or `random`; a shorter video repeats its last frame.
    """

    num_frames: int
    stride: int = 1
    start: str = "first"

    def __post_init__(self):
        if self.start not in ("first", "centre", "random"):
            raise ValueError(f"start={self.start!r} is not one of first, centre, random: datamodule.frames.start")

    def __call__(self, num_frames: int, fps: float, rng: np.random.Generator) -> list[int]:
        slack = max(0, num_frames - ((self.num_frames - 1) * self.stride + 1))
        start = (
            int(rng.integers(slack + 1)) if self.start == "random" else {"first": 0, "centre": slack // 2}[self.start]
        )
        return [min(start + i * self.stride, num_frames - 1) for i in range(self.num_frames)]


def _exactly(wanted: int, indices: list[int]) -> list[int]:
    return (indices + [indices[-1]] * wanted)[:wanted]
