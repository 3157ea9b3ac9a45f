"""States of metrics that are lists of tensors.

A process that has seen no clip gives torchmetrics an empty float32 vector for each; the others wait forever unless
theirs are float32 vectors too. So rows are kept flat.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def cat(values: Any) -> Tensor:
    """Return a list state as one tensor, before or after torchmetrics has joined the processes' lists."""
    if isinstance(values, Tensor):
        return values
    return torch.cat(list(values)) if values else torch.zeros(0)


def evenly_spaced(num_frames: int, count: int) -> np.ndarray:
    """Return `count` indices from the first to the last of `num_frames`, rounded down, or all if there are fewer."""
    return np.linspace(0, num_frames - 1, min(count, num_frames)).astype(int)
