"""Is every clip clearly something, and are they many things? The inception score, of frames or of whole clips."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from .distances import Rows, inception_score
from .states import cat, evenly_spaced


class Classifier(Protocol):
    """Class probabilities of pictures, e.g. `InceptionFeatures`."""

    name: str

    def probabilities(self, frames: np.ndarray) -> Tensor:
        """Return (n k) of `frames` (n h w 3) uint8 RGB."""
        ...


class InceptionScore(Metric):
    """exp of the mean KL divergence of p(class | picture) from p(class), over `num_splits` parts: mean and spread.

    Of `num_frames` evenly spaced frames a clip. Rows are shuffled in a fixed way that depends on their order, as in the
    published code; clips are brought into an order that follows from their rows first, whoever measured them.
    """

    full_state_update = False
    probabilities: list[Tensor]
    counts: list[Tensor]
    num_classes: Tensor

    def __init__(self, *, features: Classifier, num_frames: int = 16, num_splits: int = 10, **kwargs: Any):
        super().__init__(**kwargs)
        if num_splits < 1 or num_frames < 1:
            raise ValueError(f"num_splits={num_splits} and num_frames={num_frames} must be at least 1")
        self.classifier, self.num_frames, self.num_splits = features, num_frames, num_splits
        self.features = features.name
        self.descriptions = {
            "inception_score": "distinct and varied content: 1 to the number of classes, higher is better",
            "inception_score_std": "its standard deviation over parts of the frames",
        }
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")
        self.add_state("counts", default=[], dist_reduce_fx="cat")
        self.add_state("num_classes", torch.tensor(0), dist_reduce_fx="max")
        self._notes: list[str] = []

    def update(self, frames: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        chosen = frames[evenly_spaced(len(frames), self.num_frames)]
        rows = self.classifier.probabilities(chosen)
        self.num_classes = torch.tensor(rows.shape[1], device=self.device)
        self.probabilities.append(rows.float().flatten().to(self.device))
        self.counts.append(torch.tensor([float(len(rows))], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        if not len(self.probabilities):
            raise ValueError("InceptionScore has seen no clip")
        rows = cat(self.probabilities).reshape(-1, int(self.num_classes)).cpu()
        rows = Rows(rows, cat(self.counts).long().cpu()).sorted().rows
        num_splits = min(self.num_splits, max(len(rows) // 2, 1))
        self._notes = []
        if num_splits < self.num_splits:
            self._notes = [
                f"inception_score is over {num_splits} parts instead of {self.num_splits}: there are {len(rows)} frames"
            ]
        mean, std = inception_score(rows, num_splits)
        return {"inception_score": torch.tensor(mean), "inception_score_std": torch.tensor(std)}

    def per_clip(self) -> dict[str, Tensor]:
        """Return nothing: a clip alone has no score."""
        return {}

    def notes(self) -> list[str]:
        """Return what the numbers of the last `compute` leave out."""
        return self._notes
