"""What metrics have in common whose value is a mean over clips."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .states import cat


class ClipMetric(Metric):
    """Mean over clips of values that each clip has for itself.

    `descriptions`: by name of a value, what it measures, its range and which direction is better; `undefined`: why a
    clip may have none (NaN, left out of the mean and counted in `notes`); `features`: what the values are taken from.
    Subclasses implement `update(frames, ...)`, which calls `add`.
    """

    full_state_update = False
    values: list[Tensor]
    weights: list[Tensor]

    def __init__(self, *, descriptions: dict[str, str], undefined: str, features: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.descriptions, self.undefined, self.features = descriptions, undefined, features
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("weights", default=[], dist_reduce_fx="cat")

    def add(self, values: dict[str, float], weight: float = 1.0) -> None:
        """Add the values of one clip, NaN or left out where it has none, with its `weight` in the mean."""
        row = [float(values.get(name, torch.nan)) for name in self.descriptions]
        self.values.append(torch.tensor(row, device=self.device))
        # float, whatever was given: processes that gather different types wait for each other, or fail.
        self.weights.append(torch.tensor([float(weight)], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        if not len(self.values):
            raise ValueError(f"{type(self).__name__} has seen no clip")
        values, weights = self._rows(), cat(self.weights)[:, None].double()
        known = ~values.isnan()
        means = (values.nan_to_num() * weights).sum(dim=0) / (known * weights).sum(dim=0)
        return dict(zip(self.descriptions, means, strict=True))

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each clip, in the order of `update`, by name; NaN where a clip has none."""
        return dict(zip(self.descriptions, self._rows().T, strict=True))

    def clip_weights(self) -> dict[str, Tensor]:
        """Return how much each clip counts in the mean of each value of `per_clip`."""
        return dict.fromkeys(self.descriptions, cat(self.weights))

    def notes(self) -> list[str]:
        """Return what the means leave out."""
        columns = self.per_clip()
        missing = {name: int(column.isnan().sum()) for name, column in columns.items()}
        total = len(self._rows())
        return [
            f"{', '.join(name for name in missing if missing[name] == count)}: {count} of {total} clips are left out, "
            f"{self.undefined}"
            for count in sorted(set(missing.values()) - {0})
        ]

    def _rows(self) -> Tensor:
        """Return the values (n k) of all clips."""
        return cat(self.values).reshape(-1, len(self.descriptions)).double()
