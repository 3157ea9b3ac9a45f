"""Optical flow between neighbouring frames, and what follows from it. Flow is (f - 1, h, w, 2), pixels, x before y."""

import itertools
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .model_files import MissingModel


class FlowEstimator(Protocol):
    """Optical flow. `name` tells its numbers from those of others."""

    name: str

    def __call__(self, frames: np.ndarray, bgr: bool = False) -> np.ndarray:
        """Return the flow (f - 1, h, w, 2) float32 of `frames` (f h w 3); `bgr`: take their channels as blue first."""
        ...


class FarnebackFlow:
    """OpenCV's dense flow with the settings of OpenS2V-Eval. Needs the extra `faces`, which brings OpenCV."""

    name = "Farneback flow"

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingModel(
                f"flow needs OpenCV, which the extra `faces` brings: pip install 'likeness[faces]' ({error})"
            ) from error
        self._cv2 = cv2

    def __call__(self, frames: np.ndarray, bgr: bool = False) -> np.ndarray:
        code = self._cv2.COLOR_BGR2GRAY if bgr else self._cv2.COLOR_RGB2GRAY
        grey = [self._cv2.cvtColor(np.ascontiguousarray(frame), code) for frame in frames]
        return np.stack([self._between(first, second) for first, second in itertools.pairwise(grey)])

    def _between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        flow: Any = None  # OpenCV makes one
        return self._cv2.calcOpticalFlowFarneback(
            first, second, flow, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
        )


def signed_amplitude(flow: np.ndarray) -> float:
    """Return OpenS2V-Eval's motion amplitude: |mean over frames, pixels and both components|.

    Opposite motions cancel: a head that shakes, a camera that pans there and back, a zoom have almost none.
    """
    # The reference shrinks the flow to a width of 16 by area first, which leaves the mean as it is.
    return abs(float(flow.mean(dtype=np.float64)))


def amplitude(flow: np.ndarray, fps: float) -> float:
    """Return the mean length of the flow in frame widths per second, so that size and frame rate do not matter."""
    return float(_lengths(flow).mean()) / flow.shape[2] * fps


def is_dynamic(flow: np.ndarray, fps: float = 8.0) -> bool:
    """Return VBench's decision on the flow of frames that are about 1/8 second apart; `fps` of the whole clip.

    A pair moves if its 5 % longest vectors have a mean length above 6 pixels at a short side of 256 (more below 8 fps);
    a clip of f frames is dynamic if round(f / 4) pairs, at least one, move.
    """
    lengths = _lengths(flow).reshape(len(flow), flow.shape[1] * flow.shape[2])
    longest = np.sort(lengths, axis=1)[:, -max(int(0.05 * lengths.shape[1]), 1) :].mean(axis=1)
    threshold = 6 * max(1.0, 8 / fps) * min(flow.shape[1:3]) / 256
    return int((longest > threshold).sum()) >= max(round(4 * (len(flow) + 1) / 16), 1)


def warping_error(frames: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> float:
    """Return the mean squared difference of frames with the next ones warped back by `forward`, pixels in [0, 1].

    Pixels that come into sight or leave it, where forward and backward flow disagree, do not count (arXiv 1808.00449,
    equations 1 to 3); NaN where none is left. `backward` is the flow from each frame to the one before.
    """
    total, count = 0.0, 0
    # Pair by pair: all at once is hundreds of megabytes for a clip of 480 x 720.
    for first, second, ahead, back in zip(frames[:-1], frames[1:], forward, backward, strict=True):
        error, visible = _errors(first, second, ahead, back)
        total, count = total + float(error[visible].sum()), count + int(visible.sum())
    return total / count if count else float("nan")


def shrink(frames: np.ndarray, max_width: int | None) -> np.ndarray:
    """Return `frames` (f h w 3) uint8 at most `max_width` wide: pixels are means of areas."""
    height, width = frames.shape[1:3]
    if max_width is None or width <= max_width:
        return frames
    size = max(round(height * max_width / width), 1), max_width
    # Frame by frame: as floats, a clip of 480 x 720 is hundreds of megabytes.
    pictures = (torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() for frame in frames)
    small = [F.interpolate(picture, size, mode="area")[0].round().byte() for picture in pictures]
    return torch.stack(small).permute(0, 2, 3, 1).numpy()


def _lengths(flow: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(flow[..., 0]) + np.square(flow[..., 1]))  # a third of np.linalg.norm's time


def _errors(first: np.ndarray, second: np.ndarray, forward: np.ndarray, backward: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return squared differences (h w) of two frames along the flow, and where both flows agree (h w)."""
    pixels, following = (
        torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1) / 255 for part in (first, second)
    )
    ahead, back = (torch.from_numpy(np.ascontiguousarray(flow)).permute(2, 0, 1) for flow in (forward, backward))
    warped, inside = _warp(torch.cat([following, back])[None], ahead[None])
    returned = warped[0, 3:]
    bound = 0.01 * (ahead.square().sum(0) + returned.square().sum(0)) + 0.5
    visible = inside[0] & ((ahead + returned).square().sum(0) <= bound)
    return (warped[0, :3] - pixels).square().mean(dim=0), visible


def _warp(values: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` (n c h w) at each pixel plus `flow` (n 2 h w), and where that lies inside (n h w)."""
    height, width = values.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = columns + flow[:, 0], rows + flow[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=True), inside
