"""Leaves out clips that are too short, too small, too slow or cannot be decoded. Runs before what costs more."""

from collections.abc import Sequence

import numpy as np

from ...datamodules.samples import BadSample, Sample
from ...datamodules.video import get_reader
from . import SampleStage


class Filter(SampleStage):
    """Each bound is the last value that is allowed, None for no bound: `frames`, `seconds`, `side` (the shorter one, in
    pixels), `fps` and `aspect` (width / height) are pairs of the lowest and the highest one.

    `decode` frames, evenly spaced, are decoded; with `full` all of them, which finds every truncated file and a wrong
    count. Raises ValueError for bounds that nothing can meet.
    """

    def __init__(
        self,
        *,
        frames: Sequence[float | None] = (None, None),
        seconds: Sequence[float | None] = (None, None),
        side: Sequence[float | None] = (None, None),
        fps: Sequence[float | None] = (None, None),
        aspect: Sequence[float | None] = (None, None),
        decode: int = 3,
        full: bool = False,
        reader: str = "pyav",
    ):
        self.bounds = {"frames": frames, "seconds": seconds, "side": side, "fps": fps, "aspect": aspect}
        for name, bounds in self.bounds.items():
            if not _is_range(bounds):
                raise ValueError(f"{name}={bounds} must be [lowest, highest] or null: stages.filter.{name}")
        if decode < 1:
            raise ValueError(f"decode={decode} must be at least 1: stages.filter.decode")
        self.decode, self.full, self.reader = decode, full, get_reader(reader)

    def __call__(self, sample: Sample) -> list[Sample]:
        info = sample.info
        count, fps, height, width = (info.get(name) or 0 for name in ("num_frames", "fps", "height", "width"))
        self._hold("frames", count, "too short", "too long")
        self._hold("seconds", count / fps if fps else 0, "too short", "too long")
        self._hold("side", min(height, width), "too small", "too large")
        self._hold("fps", fps, "frame rate too low", "frame rate too high")
        self._hold("aspect", width / height if height else 0, "too narrow", "too wide")
        if self.full:
            found = self.reader.probe(sample.video).num_frames
            if found != count:
                raise BadSample("unreadable video", f"{found} frames can be decoded, not {count}")
        else:
            indices = np.linspace(0, max(count - 1, 0), min(self.decode, max(count, 1))).round().astype(int).tolist()
            self.reader.read(sample.video, indices)
        return [sample]

    def _hold(self, name: str, value: float, below: str, above: str) -> None:
        low, high = self.bounds[name]
        if low is not None and value < low:
            raise BadSample(below, f"{name} {value:.5g}, at least {low:.5g} is asked for: stages.filter.{name}")
        if high is not None and value > high:
            raise BadSample(above, f"{name} {value:.5g}, at most {high:.5g} is allowed: stages.filter.{name}")


def _is_range(bounds: object) -> bool:
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        return False
    known = [bound for bound in bounds if bound is not None]
    return all(isinstance(bound, (int, float)) for bound in known) and known == sorted(known)
