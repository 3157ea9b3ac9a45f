"""ConsisID's and ConsistI2V's rules for which frames of a video become the clip."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any

import numpy as np

from .frames import ChosenFrames
from .samples import BadSample


@dataclass(frozen=True)
class ConsisIDFrames:
    """Frames `stride` apart, in which one person is seen; the label `identity` says which.

    The person is drawn among those with valid frames of face and head. Its frames of either kind are split where more
    than `miss_tolerance` lie between two; the longest part counts. Of a part no longer than the clip, all frames are
    taken and repeated; else the clip starts at random between the first `skip_start` and the last `skip_end` frames
    (`skip_percent`: shares of the part, (0, 1) for all of it, take their place). `one_person`: clips with more are
    skipped. Videos of which no valid frames are known count as valid throughout.

    Source: ConsisID's released code (`generate_frame_indices_for_face`).
    """

    stride: int = 3
    skip_start: int = 7
    skip_end: int = 7
    skip_percent: tuple[float, float] = (0.0, 1.0)
    miss_tolerance: int = 6
    one_person: bool = False

    def __post_init__(self):
        counts = {"stride": self.stride, "miss_tolerance": self.miss_tolerance}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count} must be at least 1: datamodule.frames.{name}")
        if self.skip_start < 0 or self.skip_end < 0 or not 0 <= self.skip_percent[0] < self.skip_percent[1] <= 1:
            raise ValueError(
                f"skip_start={self.skip_start} and skip_end={self.skip_end} must be at least 0, skip_percent="
                f"{list(self.skip_percent)} two rising shares: datamodule.frames"
            )

    def __call__(self, info: Mapping[str, Any], num_frames: int, rng: np.random.Generator) -> ChosenFrames:
        people = valid_people(info)
        if self.one_person and len(info.get("identities") or []) > 1:
            raise BadSample("several people", f"{len(info['identities'])} are known, one_person asks for one")
        if not people:
            if any("valid_frames" in identity for identity in info.get("identities") or []):
                raise BadSample("no face", "nobody has valid frames of both face and head")
            return ChosenFrames(self._indices(range(int(info["num_frames"])), num_frames, rng), {"identity": 0})
        person = list(people)[int(rng.integers(len(people)))]
        segment = max(segments(people[person], self.miss_tolerance), key=len)
        return ChosenFrames(self._indices(segment, num_frames, rng), {"identity": person})

    def fits(self, available: np.ndarray, fps: np.ndarray, num_frames: int) -> np.ndarray:
        """True where videos of `available` frames, all of them valid, fill the clip without a repeated frame."""
        low, high = self.window(np.asarray(available))
        return np.minimum(high - low, available) >= (num_frames - 1) * self.stride + 1

    def window(self, length: Any) -> tuple[Any, Any]:
        """Return the first place in a part of `length` frames that a clip may use, and the one after the last."""
        if tuple(self.skip_percent) != (0.0, 1.0):
            low, high = (np.asarray(length * share).astype(int) for share in self.skip_percent)
            return (low, high) if np.ndim(length) else (int(low), int(high))
        return self.skip_start, length - self.skip_end

    def start_range(self, length: int, num_frames: int) -> tuple[int, int]:
        """Return the first and the last place at which a clip may start. Raises BadSample where skips leave nothing."""
        low, high = self.window(length)
        if high <= low:
            raise BadSample("too short", f"{length} valid frames, of which {self.skip_start} and {self.skip_end} go")
        return low, high - min(high - low, (num_frames - 1) * self.stride + 1)

    def from_start(self, segment: Sequence[int], start: int, num_frames: int) -> list[int]:
        """Return the clip that starts at the place `start` of `segment`: `stride` apart, up to a frame it lacks."""
        known, indices = set(segment), []
        for frame in range(segment[start], segment[start] + num_frames * self.stride, self.stride):
            if frame not in known:
                break
            indices.append(frame)
        return repeat_to(indices, num_frames)

    def _indices(self, segment: Sequence[int], num_frames: int, rng: np.random.Generator) -> list[int]:
        if len(segment) <= num_frames:
            return repeat_to(list(segment), num_frames)
        low, high = self.start_range(len(segment), num_frames)
        return self.from_start(segment, int(rng.integers(low, high + 1)), num_frames)


def valid_people(info: Mapping[str, Any]) -> dict[int, list[int]]:
    """Return the frames in which the face or the head of each person is valid, by place in `identities`.

    Those of whom one of the two is never seen are missing.
    """
    people = {}
    for place, identity in enumerate(info.get("identities") or []):
        valid = identity.get("valid_frames") or {}
        face, head = set(valid.get("face") or []), set(valid.get("head") or [])
        frames = sorted(frame for frame in face | head if 0 <= frame < int(info["num_frames"]))
        if face and head and frames:
            people[place] = frames
    return people


def segments(frames: Sequence[int], tolerance: int) -> list[list[int]]:
    """Return rising `frames` in parts: a new one begins where a frame is more than `tolerance` after the one before."""
    parts = [[frames[0]]]
    for before, frame in pairwise(frames):
        if frame - before > tolerance:
            parts.append([])
        parts[-1].append(frame)
    return parts


def repeat_to(frames: Sequence[int], count: int) -> list[int]:
    """Return exactly `count` frames: the first ones, or all of them over and over, sorted."""
    return sorted(islice(cycle(frames), count))


@dataclass(frozen=True)
class ConsistI2VFrames:
    """Frames evenly over a stretch that starts at random; the label `stride` is the drawn one.

    `stride`: a number, or [lowest, highest], of which one is drawn for each clip. Or, in its place, `duration_s` and
    `sample_fps`: that many seconds, of which duration_s x sample_fps frames are shown. A shorter video is spread over
    the clip: its frames are repeated, and the stride is still the drawn one.

    Source: ConsistI2V code, `data/dataset.py`; no rate is asked for: a stride counts the source's frames.
    """

    stride: int | Sequence[int] | None = (1, 5)
    duration_s: float | None = None
    sample_fps: float | None = None

    def __post_init__(self):
        by_duration = self.duration_s is not None and self.sample_fps is not None
        is_mixed = (self.duration_s is None) != (self.sample_fps is None)
        if is_mixed or by_duration == (self.stride is not None):
            raise ValueError(
                f"give either stride={self.stride} or both duration_s={self.duration_s} and sample_fps="
                f"{self.sample_fps}: datamodule.frames"
            )
        if self.stride is not None and not 1 <= self.range[0] <= self.range[1]:
            raise ValueError(f"stride={self.stride} must be at least 1, or [lowest, highest]: datamodule.frames.stride")

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest stride."""
        if self.stride is None or isinstance(self.stride, int):
            return (1, 1) if self.stride is None else (self.stride, self.stride)
        low, high = self.stride
        return int(low), int(high)

    def __call__(self, info: Mapping[str, Any], num_frames: int, rng: np.random.Generator) -> ChosenFrames:
        available = int(info["num_frames"])
        if self.stride is None:
            wanted, count = self._durations(float(info["fps"]))
            if count != num_frames:
                raise ValueError(
                    f"duration_s={self.duration_s} x sample_fps={self.sample_fps} is {count} frames, num_frames="
                    f"{num_frames}: they must agree, datamodule.frames"
                )
            length = min(available, wanted)
            return ChosenFrames(spread(int(rng.integers(available - length + 1)), length, num_frames))
        stride = int(rng.integers(self.range[0], self.range[1] + 1))
        length = stretch(available, num_frames, stride)
        start = int(rng.integers(available - length + 1))
        return ChosenFrames(spread(start, length, num_frames), {"stride": stride})

    def fits(self, available: np.ndarray, fps: np.ndarray, num_frames: int) -> np.ndarray:
        """True where videos are long enough for the shortest stretch (a video that is too short is spread)."""
        if self.stride is None:
            assert self.duration_s is not None
            return np.asarray(available) >= np.maximum(np.ceil(np.asarray(fps) * self.duration_s), num_frames)
        return np.asarray(available) >= (num_frames - 1) * self.range[0] + 1

    def _durations(self, fps: float) -> tuple[int, int]:
        """Return how many frames of the source the stretch has, and how many the clip."""
        assert self.duration_s is not None
        assert self.sample_fps is not None
        return math.ceil(fps * self.duration_s), int(self.duration_s * self.sample_fps)


def stretch(available: int, num_frames: int, stride: int) -> int:
    """Return how many frames of a video the clip covers."""
    return min(available, (num_frames - 1) * stride + 1)


def spread(start: int, length: int, num_frames: int) -> list[int]:
    """Return `num_frames` indices, evenly over `length` frames from `start` on, fractions cut off."""
    return np.linspace(start, start + length - 1, num_frames).astype(int).tolist()
