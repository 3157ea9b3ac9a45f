"""How much does the clip move, and how smoothly? Values from flow, and values from pixels alone."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .clip_metric import ClipMetric
from .flow import FlowEstimator, amplitude, is_dynamic, shrink, signed_amplitude, warping_error
from .temporal_consistency import ONE_FRAME

PUBLISHED = "motion_amplitude_opens2v"


class Motion(ClipMetric):
    """Values from the optical flow of each clip, which is computed once for all of them.

    - `motion_amplitude`: mean length of the flow in frame widths per second,
    - `motion_amplitude_opens2v`: OpenS2V-Eval's, |signed mean| in pixels per frame, in which opposite motions cancel,
      from grey pictures whose red and blue are swapped, as there; left out with `opens2v=False`,
    - `dynamic_degree`: VBench's 0 or 1, by frames about 1/8 second apart. VBench's own flow is RAFT: read the share of
      dynamic clips beside `features`,
    - `warping_error`: mean squared difference of frames along the flow, where nothing is hidden; 0 for a frozen clip.

    With `max_width`, frames that are wider are shrunk to it first, for all but the published form, which stays exact
    and slow. The units stay, and values differ: Farneback sees larger motions in small frames, and more of them on
    walls and sky. So the width stands in `features`, and runs of other widths are not compared. At 256, frames of
    480 x 720 take a third of the time, and without the published form an eleventh (benchmarks/motion.py).
    """

    def __init__(self, *, flow: FlowEstimator, max_width: int | None = None, opens2v: bool = True, **kwargs: Any):
        if max_width is not None and max_width < 32:
            raise ValueError(f"max_width={max_width} must be at least 32")
        descriptions = {
            "motion_amplitude": "mean speed in frame widths per second: 0 and up, higher moves more",
            PUBLISHED: "OpenS2V-Eval's signed form, pixels per frame: 0 and up, higher moves more",
            "dynamic_degree": "share of clips that move by VBench's rule: 0 to 1, higher moves more",
            "warping_error": "change of pixels along the flow, squared: 0 to 1, lower is smoother",
        }
        super().__init__(
            descriptions={name: text for name, text in descriptions.items() if opens2v or name != PUBLISHED},
            undefined="which have one frame only, or whose pixels all come or go",
            features=flow.name if max_width is None else f"{flow.name}, frames at most {max_width} wide",
            **kwargs,
        )
        self.flow, self.max_width, self.opens2v = flow, max_width, opens2v

    def update(self, frames: np.ndarray, fps: float = 8.0) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB at `fps` frames a second."""
        if fps <= 0:
            raise ValueError(f"fps={fps} must be above 0")
        if len(frames) < 2:
            self.add({})
            return
        published = {PUBLISHED: signed_amplitude(self.flow(frames, bgr=True))} if self.opens2v else {}
        frames = shrink(frames, self.max_width)
        forward, backward = self.flow(frames), self.flow(frames[::-1])[::-1]
        step = max(1, round(fps / 8))
        apart = forward if step == 1 else self.flow(frames[::step]) if len(frames) > step else forward[:0]
        self.add(
            {
                "motion_amplitude": amplitude(forward, fps),
                "dynamic_degree": is_dynamic(apart, fps),
                "warping_error": warping_error(frames, forward, backward),
            }
            | published
        )


class Flicker(ClipMetric):
    """VBench's temporal flickering: 1 - mean absolute difference of neighbouring frames / 255.

    It cannot tell flicker from motion: a frozen clip has 1.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(
            descriptions={"temporal_flickering": "1 - mean change of pixels: 0 to 1, higher flickers (and moves) less"},
            undefined=ONE_FRAME,
            features="pixels",
            **kwargs,
        )

    def update(self, frames: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        if len(frames) < 2:
            self.add({})
            return
        changes = [np.abs(first.astype(np.int16) - second).mean() for first, second in itertools.pairwise(frames)]
        self.add({"temporal_flickering": 1 - float(np.mean(changes)) / 255})


def mean_of_neighbours(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the frame half-way between two (h w 3) as their mean."""
    return (before.astype(np.float32) + after) / 2


class MotionSmoothness(ClipMetric):
    """VBench's motion smoothness with the frame interpolation `interpolate`: (before, after) (h w 3) -> frame between.

    Every second frame is left out and interpolated from its neighbours; the value is 1 - mean absolute difference /
    255. VBench interpolates with AMT-S; without its weights the mean of the neighbours stands in, under its own name.
    """

    def __init__(
        self,
        *,
        interpolate: Callable[[np.ndarray, np.ndarray], np.ndarray] = mean_of_neighbours,
        name: str = "motion_smoothness_linear",
        **kwargs: Any,
    ):
        super().__init__(
            descriptions={name: "1 - error of frames interpolated from their neighbours: 0 to 1, higher is smoother"},
            undefined="which have fewer than three frames",
            features=f"pixels, {getattr(interpolate, '__name__', type(interpolate).__name__)}",
            **kwargs,
        )
        self.name, self.interpolate = name, interpolate

    def update(self, frames: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        if len(frames) < 3:
            self.add({})
            return
        triples = zip(frames[:-2:2], frames[1:-1:2], frames[2::2], strict=True)
        errors = [np.abs(self.interpolate(before, after) - left_out).mean() for before, left_out, after in triples]
        self.add({self.name: 1 - float(np.mean(errors)) / 255})
