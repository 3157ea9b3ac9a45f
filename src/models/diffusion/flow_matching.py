"""Flow matching along straight lines: conversions, schedule and Euler sampler. Source: arXiv 2210.02747, 2403.03206.

Notation: x0 clean, e noise, s in [0, 1] the noise level (sigma), x = (1 - s) x0 + s e, velocity v = dx/ds = e - x0.
Computed in float32 (float64 if given), returned in the dtype of the first argument.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .parameterization import expand_like
from .samplers import OnStep

PredictVelocity = Callable[[Tensor, int], Tensor]  # (noisy latents, step index) -> velocity


def interpolate(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Return noisy latents, x = (1 - s) x0 + s e. `sigmas`: (b,) in [0, 1]."""
    sigmas = _level(sigmas, latents)
    return ((1 - sigmas) * latents + sigmas * noise).to(latents.dtype)


def flow_velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """Return v = e - x0, the same at every noise level."""
    return noise - latents


def latents_from_flow(noisy_latents: Tensor, velocity: Tensor, sigmas: Tensor) -> Tensor:
    """Return x0 = x - s v."""
    return (noisy_latents - _level(sigmas, noisy_latents) * velocity).to(noisy_latents.dtype)


def noise_from_flow(noisy_latents: Tensor, velocity: Tensor, sigmas: Tensor) -> Tensor:
    """Return e = x + (1 - s) v."""
    return (noisy_latents + (1 - _level(sigmas, noisy_latents)) * velocity).to(noisy_latents.dtype)


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Return noise levels moved towards noise: shift s / (1 + (shift - 1) s). Source: arXiv 2403.03206, equation 23."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def shifted_schedule(num_inference_steps: int, shift: float) -> list[float]:
    """Return num_inference_steps + 1 noise levels from 1 to 0, evenly spaced before `shift_sigmas`."""
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps={num_inference_steps} must be 1 or more: sampling.num_inference_steps")
    return shift_sigmas(torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64), shift).tolist()


def flow_euler(
    predict_velocity: PredictVelocity, noise: Tensor, sigmas: list[float], on_step: OnStep | None = None
) -> Tensor:
    """Return clean latents by Euler steps, x_{i+1} = x_i + (s_{i+1} - s_i) v_i. `sigmas`: from 1 to 0."""
    latents = noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas)):
        velocity = predict_velocity(latents, step)
        clean = latents - sigma * velocity
        latents = latents + (next_sigma - sigma) * velocity
        if on_step is not None:
            on_step(step, latents, clean)
    return latents


def _level(sigmas: Tensor, like: Tensor) -> Tensor:
    return expand_like(sigmas, like).to(torch.float64 if like.dtype == torch.float64 else torch.float32)
