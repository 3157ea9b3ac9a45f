"""Metrics that keep rows of numbers for every clip: how clips are split over batches and processes changes nothing."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .states import cat


class ColumnMetric(Metric):
    """A metric whose states are columns: each update appends rows, `compute` works on all rows of all processes."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self._empty: dict[str, Tensor] = {}

    def add_columns(self, **empty: Tensor) -> None:
        """Add states by name; each value is a column without rows, which says how wide rows are and of what type."""
        for name, value in empty.items():
            self.add_state(name, default=[], dist_reduce_fx="cat")
            self._empty[name] = value

    def append(self, **rows: Tensor) -> None:
        """Append `rows` (n ...) to the columns of their names."""
        for name, value in rows.items():
            parts = getattr(self, name)
            parts.append(value.to(self.device, self._empty[name].dtype, copy=True))
            # Few parts, as in a binary counter: thousands of small tensors that stay among the frames that come and go
            # keep the allocator from using their memory again.
            while len(parts) > 1 and len(parts[-1]) >= len(parts[-2]):
                parts[-2:] = [torch.cat(parts[-2:])]

    def column(self, name: str) -> Tensor:
        """Return all rows of a column."""
        values = cat(getattr(self, name))
        return values if values.numel() else self._empty[name].to(self.device)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics sends flat float32 for a process without clips; gathering mixed shapes or types hangs or fails.
        for name in self._empty:
            setattr(self, name, [self.column(name)])
        super()._sync_dist(*args, **kwargs)


def mean_of_defined(values: Tensor) -> Tensor:
    """Return the mean of the values that are not NaN, in float64 so that the order of rows leaves no trace."""
    return values.double().nanmean()


def mean_over_parts(values: Tensor, counts: list[int]) -> Tensor:
    """Return the mean of what is defined in each of the consecutive parts of `values`, `counts` rows long."""
    return torch.stack([mean_of_defined(part) for part in values.split(counts)]) if counts else values


def num_defined_in_parts(values: Tensor, counts: list[int]) -> Tensor:
    """Return how many of each of the consecutive parts of `values`, `counts` rows long, are defined."""
    parts = [(~part.isnan()).sum() for part in values.split(counts)] if counts else []
    return torch.stack(parts) if parts else torch.zeros(0, dtype=torch.long)
