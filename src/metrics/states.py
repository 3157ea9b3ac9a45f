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
    return spread(num_frames, min(count, num_frames))


def spread(num_frames: int, count: int) -> np.ndarray:
    """Return `count` indices from the first to the last of `num_frames`, rounded down: of few frames, some repeatedly.

    This is how ConsisID's and OpenS2V-Eval's released code choose frames.
    """
    return np.linspace(0, num_frames - 1, count).astype(int)


class Shelves:
    """Places for small tensors that are kept for long, 256 to a block of memory.

    Each in a place of its own, between the large tensors of a network that come and go, kept the allocator from giving
    those back: 0.2 MB more a clip.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, torch.device], list[Tensor]] = {}

    def put(self, value: Tensor) -> Tensor:
        """Return a copy of a vector (n) on a shelf."""
        free = self._blocks.setdefault((len(value), value.device), [])
        if not free:
            free.extend(value.new_empty(256, len(value)).unbind())
        return free.pop().copy_(value)
