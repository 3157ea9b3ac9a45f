"""Classifier-free guidance."""

from torch import Tensor


def guide(unconditional: Tensor, conditional: Tensor, scale: float | Tensor) -> Tensor:
    """Return u + scale (c - u). Source: arXiv 2207.12598, equation 6 with scale = 1 + w."""
    return unconditional + scale * (conditional - unconditional)
