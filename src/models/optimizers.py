"""Optimizers of optional packages, under the settings that torch's have."""

from collections.abc import Sequence
from typing import Any

import torch

SMALLEST_IN_8_BITS = 4096  # values of a tensor; bitsandbytes keeps the states of smaller ones in float32


def adamw_8bit(
    params: Sequence[dict[str, Any]],
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> torch.optim.Optimizer:
    """Return bitsandbytes' AdamW, whose two states take one byte a value instead of four, on a GPU or a CPU.

    Raises ValueError where the package is not installed, and where every tensor is too small for it.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            f"optimizer=adamw_8bit needs bitsandbytes ({error}): pip install 'likeness[bitsandbytes]', or leave "
            "optimizer out"
        ) from error
    sizes = [value.numel() for group in params for value in group["params"]]
    if max(sizes) < SMALLEST_IN_8_BITS:
        raise ValueError(
            f"optimizer=adamw_8bit would change nothing: the largest trained tensor has {max(sizes)} values, and those "
            f"under {SMALLEST_IN_8_BITS} keep float32 states. Leave optimizer out, or train more (model.lora.rank)"
        )
    return AdamW8bit(params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
