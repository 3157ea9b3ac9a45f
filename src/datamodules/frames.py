"""Which frames of a video become the clip."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .samples import BadSample


@dataclass(frozen=True)
class ChosenFrames:
    """`indices` of the source video, one for each frame of the clip; `labels`: numbers that the model is told of it."""

    indices: list[int]
    labels: Mapping[str, int | float] = field(default_factory=dict)


class FrameSelection(Protocol):
    """Chooses the frames of a clip."""

    def __call__(self, info: Mapping[str, Any], num_frames: int, rng: np.random.Generator) -> ChosenFrames:
        """Return the frames of a clip of `num_frames`. `info`: the sample's json, always with `num_frames` and `fps`.

        Raises BadSample for a video that is too short.
        """
        ...

    def fits(self, available: np.ndarray, fps: np.ndarray, num_frames: int) -> np.ndarray:
        """Return, elementwise, whether videos of `available` frames are enough for `num_frames`, none repeated."""
        ...


@dataclass(frozen=True)
class ConcatIDFrames:
    """Concat-ID's rule: start at frame `skip`, stride for about `fps`, stop or repeat the last frame at the end.

    The stride is floored, so the real rate is not `fps`: 30 fps give 10, 24 give 12. `subtract_skip`: whether the span
    that is spread over the clip loses `skip` frames at its end; True for the CogVideoX variant, False for the Wan one.
    A picture is a clip of one frame. Source: the authors' code, `data_video.py`; integer arithmetic as written there.
    """

    fps: float = 8
    skip: int = 3
    subtract_skip: bool = True

    def __call__(self, info: Mapping[str, Any], num_frames: int, rng: np.random.Generator) -> ChosenFrames:
        available, fps, start = int(info["num_frames"]), float(info["fps"]), self.skip
        if num_frames == available == 1:
            return ChosenFrames([0])
        if available / fps * self.fps > num_frames or available > num_frames:
            long_enough = available / fps * self.fps > num_frames
            end = available - start
            if long_enough:
                end = math.ceil(start + num_frames / self.fps * fps) - (start if self.subtract_skip else 0)
            stride = max((end - start) // num_frames, 1)
            last = min(end, available - start) - 1
            # For a single frame the published rule finds none.
            indices = [min(index, last) for index in range(start, end, stride)] or [min(start, available - 1)]
        else:
            usable = available - 2 * start
            if usable < 1:
                raise BadSample(
                    "too short",
                    f"{available} frames, at least {2 * start + 1} are needed to skip {start} at both ends",
                )
            indices = list(range(start, start + (usable - 1) // 4 * 4 + 1))
        return ChosenFrames(_exactly(num_frames, indices))

    def fits(self, available: np.ndarray, fps: np.ndarray, num_frames: int) -> np.ndarray:
        # At about the target rate the published rule repeats up to `skip` frames however long the video is.
        return (available >= num_frames + 2 * self.skip) | ((num_frames == 1) & (available == 1))


@dataclass(frozen=True)
class StridedFrames:
    """Frames that are `stride` apart.

    `start`: `first`, `centre` or `random`. `short`: a video that is too short repeats its last frame (`repeat`), or is
    skipped (`skip`), since still ends teach that motion stops.
    """

    stride: int = 1
    start: str = "first"
    short: str = "repeat"

    def __post_init__(self):
        if self.short not in ("repeat", "skip"):
            raise ValueError(f"short={self.short!r} is not one of repeat, skip: datamodule.frames.short")
        if self.start not in ("first", "centre", "random"):
            raise ValueError(f"start={self.start!r} is not one of first, centre, random: datamodule.frames.start")

    def __call__(self, info: Mapping[str, Any], num_frames: int, rng: np.random.Generator) -> ChosenFrames:
        available, needed = int(info["num_frames"]), (num_frames - 1) * self.stride + 1
        if available < needed and self.short == "skip":
            raise BadSample(
                "too short",
                f"{available} frames, {needed} are needed: fewer of them (datamodule.num_frames), or repeat the last "
                "(datamodule.frames.short=repeat)",
            )
        slack = max(0, available - needed)
        # Drawn only where it is needed: what draws nothing always gives the same clip, which can be cached.
        start = (
            int(rng.integers(slack + 1)) if self.start == "random" else {"first": 0, "centre": slack // 2}[self.start]
        )
        return ChosenFrames([min(start + i * self.stride, available - 1) for i in range(num_frames)])

    def fits(self, available: np.ndarray, fps: np.ndarray, num_frames: int) -> np.ndarray:
        return available >= (num_frames - 1) * self.stride + 1


def _exactly(wanted: int, indices: list[int]) -> list[int]:
    return (indices + [indices[-1]] * wanted)[:wanted]
