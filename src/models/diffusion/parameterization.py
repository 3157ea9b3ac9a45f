"""Conversions between clean latents, noise, noisy latents and velocity for variance-preserving schedules.

Notation of the equations: x0 clean, e noise, x noisy, v velocity, a = alphas_cumprod at the sample's timestep.
Computed in float32 (float64 if given), returned in the dtype of the first argument.
"""

import torch
from torch import Tensor


def expand_like(coefficients: Tensor, like: Tensor) -> Tensor:
    """Return per-sample `coefficients` (b,) as (b 1 ... 1) with as many axes as `like`."""
    return coefficients.reshape(-1, *[1] * (like.ndim - 1))


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return noisy latents, x = sqrt(a) x0 + sqrt(1 - a) e. `alphas_cumprod`: (b,)."""
    signal, sigma = _signal_and_noise_level(alphas_cumprod, latents)
    return (signal * _wide(latents) + sigma * _wide(noise)).to(latents.dtype)


def velocity(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return v = sqrt(a) e - sqrt(1 - a) x0. Source: arXiv 2202.00512, appendix D."""
    signal, sigma = _signal_and_noise_level(alphas_cumprod, latents)
    return (signal * _wide(noise) - sigma * _wide(latents)).to(latents.dtype)


def latents_from_velocity(noisy_latents: Tensor, velocity: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return x0 = sqrt(a) x - sqrt(1 - a) v."""
    signal, sigma = _signal_and_noise_level(alphas_cumprod, noisy_latents)
    return (signal * _wide(noisy_latents) - sigma * _wide(velocity)).to(noisy_latents.dtype)


def noise_from_velocity(noisy_latents: Tensor, velocity: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return e = sqrt(1 - a) x + sqrt(a) v."""
    signal, sigma = _signal_and_noise_level(alphas_cumprod, noisy_latents)
    return (sigma * _wide(noisy_latents) + signal * _wide(velocity)).to(noisy_latents.dtype)


def mean_per_clip(values: Tensor) -> Tensor:
    """Return the mean (b,) over everything but the batch axis, in float32."""
    return values.float().flatten(1).mean(dim=1)


def _signal_and_noise_level(alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    # In bfloat16, 1 - alphas_cumprod is exactly zero at small timesteps; the square roots are taken in float64.
    alphas_cumprod = expand_like(alphas_cumprod.double(), like)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return alphas_cumprod.sqrt().to(dtype), (1 - alphas_cumprod).sqrt().to(dtype)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
