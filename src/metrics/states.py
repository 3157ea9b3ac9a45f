"""States of metrics that are lists of tensors."""

from typing import Any

import torch
from torch import Tensor


def cat(values: Any) -> Tensor:
    """Return a list state as one tensor, before or after torchmetrics has joined the processes' lists."""
    if isinstance(values, Tensor):
        return values
    return torch.cat(list(values)) if values else torch.zeros(0)
