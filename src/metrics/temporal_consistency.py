"""Does the clip stay what it is? Similarity of frames with their neighbours, with the first, and with the given image.

Formulas: VBench (arXiv 2311.17982), VBench-I2V, and I2V-Bench of ConsistI2V (arXiv 2402.04324).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .clip_metric import ClipMetric
from .image_features import ImageFeatures

ONE_FRAME = "which have one frame only"


class TemporalConsistency(ClipMetric):
    """Mean cosine of neighbouring frames' features; values are named `name`, one for each network.

    A frozen clip has 1: read it beside `motion_amplitude`. NAME_lowest is the least similar pair of neighbours, which a
    cut shows in.
    """

    def __init__(self, *, features: ImageFeatures, name: str = "temporal_consistency", **kwargs: Any):
        super().__init__(
            descriptions={
                name: "mean cosine of neighbouring frames: -1 to 1, higher is steadier, 1 is frozen",
                f"{name}_lowest": "the least similar neighbours: -1 to 1, higher is steadier",
            },
            undefined=ONE_FRAME,
            features=features.name,
            **kwargs,
        )
        self.name, self.network = name, features

    def update(self, frames: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        if len(frames) < 2:
            self.add({})
            return
        cosines = neighbour_cosines(self.network(frames))
        self.add({self.name: float(cosines.mean()), f"{self.name}_lowest": float(cosines.min())})


class FirstFrameConsistency(ClipMetric):
    """Subject (DINO) or background (CLIP) consistency of VBench and I2V-Bench, under the name `name`.

    For each frame from the second on, the mean of its cosines with the frame before and with the first, negative ones
    counted as 0; the mean over all frames of all clips.
    """

    def __init__(self, *, features: ImageFeatures, name: str, **kwargs: Any):
        super().__init__(
            descriptions={name: "cosine with the frame before and the first: 0 to 1, higher is steadier, 1 is frozen"},
            undefined=ONE_FRAME,
            features=features.name,
            **kwargs,
        )
        self.name, self.network = name, features

    def update(self, frames: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        if len(frames) < 2:
            self.add({})
            return
        self.add({self.name: first_frame_consistency(self.network(frames))}, weight=len(frames) - 1)


class ImageConsistency(ClipMetric):
    """i2v_subject (DINO) or i2v_background of VBench-I2V, under the name `name`: is the clip that of the given image?

    `weights` of the best cosine with the image, and of the mean and the least cosine of neighbouring frames. VBench
    takes 0.4, 0.3, 0.3 (one of its revisions 0.5, 0.5, 0 for the subject), and DreamSim for the background, which is
    not here. A clip with several references is compared with the first.
    """

    def __init__(
        self,
        *,
        features: ImageFeatures,
        name: str = "i2v_subject",
        weights: Sequence[float] = (0.4, 0.3, 0.3),
        **kwargs: Any,
    ):
        super().__init__(
            descriptions={name: "likeness to the given image and steadiness: 0 to 1, higher is better"},
            undefined="which have one frame or no reference",
            features=features.name,
            **kwargs,
        )
        self.name, self.network, self.mixture = name, features, tuple(weights)

    def update(self, frames: np.ndarray, references: Sequence[np.ndarray] = ()) -> None:
        """Add a clip: `frames` (f h w 3) and the image it began with, the first of `references`, uint8 RGB."""
        if len(frames) < 2 or not len(references):
            self.add({})
            return
        image = self.network(references[0][None])
        self.add({self.name: image_consistency(image[0], self.network(frames), self.mixture)})


def neighbour_cosines(features: Tensor) -> Tensor:
    """Return the cosines (f - 1) of each frame's `features` (f d) with the next one's."""
    return F.cosine_similarity(features[:-1], features[1:], dim=1)


def first_frame_consistency(features: Tensor) -> float:
    """Return the mean over frames but the first of their cosines (at least 0) with the frame before and the first."""
    before = neighbour_cosines(features).clamp(min=0)
    first = F.cosine_similarity(features[1:], features[:1], dim=1).clamp(min=0)
    return float((before + first).mean() / 2)


def image_consistency(image: Tensor, features: Tensor, weights: Sequence[float] = (0.4, 0.3, 0.3)) -> float:
    """Return the `weights` of best cosine with `image` (d), mean and least cosine of neighbours in `features` (f d)."""
    to_image = F.cosine_similarity(features, image[None], dim=1).clamp(min=0)
    neighbours = neighbour_cosines(features).clamp(min=0)
    parts = torch.stack([to_image.max(), neighbours.mean(), neighbours.min()])
    return float((parts * parts.new_tensor(weights)).sum())
