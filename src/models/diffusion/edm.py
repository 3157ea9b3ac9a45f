"""Continuous noise levels of Stable Video Diffusion: EDM's preconditioning with sigma_data = 1 and v-prediction.

Notation: x0 clean, e noise, s the noise level, x = x0 + s e noisy, F the network's output. Per-sample values are (b,).
Computed in float32 (float64 if given). Source: arXiv 2206.00364, table 1, and 2311.15127, appendix D, equations 11-14.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .parameterization import expand_like
from .samplers import OnStep

RHO = 7.0  # arXiv 2206.00364, equation 5


@dataclass(frozen=True)
class Scalings:
    """What surrounds the network: D = skip x + out F(in x, noise), and the weight of |D - x0|^2. Each (b,)."""

    input: Tensor
    skip: Tensor
    output: Tensor
    noise: Tensor
    weight: Tensor


def edm_scalings(sigmas: Tensor) -> Scalings:
    """Return the scalings at `sigmas` (b,).

    in = 1 / sqrt(s^2 + 1), skip = 1 / (s^2 + 1), out = -s / sqrt(s^2 + 1), noise = ln(s) / 4, weight = (1 + s^2) / s^2.
    """
    variance = sigmas**2 + 1
    root = variance**0.5
    return Scalings(1 / root, 1 / variance, -sigmas / root, 0.25 * sigmas.log(), variance * sigmas**-2.0)


def add_noise_at(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Return noisy latents, x = x0 + s e."""
    return latents + expand_like(sigmas, latents) * noise


def velocity_at(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Return what the network should say, v = (e - s x0) / sqrt(s^2 + 1): weight |D - x0|^2 is |F - v|^2."""
    sigmas = expand_like(sigmas, latents)
    return (noise - sigmas * latents) / (sigmas**2 + 1) ** 0.5


def latents_from_output(noisy_latents: Tensor, output: Tensor, sigmas: Tensor) -> Tensor:
    """Return D = skip x + out F."""
    scalings = edm_scalings(sigmas)
    return expand_like(scalings.skip, output) * noisy_latents + expand_like(scalings.output, output) * output


def noise_from_output(noisy_latents: Tensor, output: Tensor, sigmas: Tensor) -> Tensor:
    """Return e = F / sqrt(s^2 + 1) + s x / (s^2 + 1)."""
    sigmas = expand_like(sigmas, output)
    return output / (sigmas**2 + 1) ** 0.5 + noisy_latents * sigmas / (sigmas**2 + 1)


def lognormal_sigmas(uniform: Tensor, mean: float, std: float) -> Tensor:
    """Return noise levels (b,) whose logarithm is normal, from `uniform` (b,) in [0, 1)."""
    # Away from 0 and 1, where the inverse is infinite; the numbers are those of SVD Xtend.
    return torch.distributions.Normal(mean, std).icdf(uniform * (1 - 2e-7) + 1e-7).exp()


def cosine_sigmas(uniform: Tensor, sigma_min: float = 0.002, sigma_max: float = 700.0) -> Tensor:
    """Return noise levels (b,) of the shifted cosine schedule, stratified over the batch: t_i = (i + u_i) / b.

    L(t) between the log signal-to-noise ratios of the bounds, shifted for images of 64 against 32 and 64 pixels, the
    two interpolated; s = exp(-L / 2) / 2. Source: arXiv 2301.11093 in k-diffusion's form; SVD Xtend before 2024.
    """
    time = (torch.arange(len(uniform), device=uniform.device) + uniform) / len(uniform)
    bounds = [-2 * math.log(sigma / 0.5) for sigma in (sigma_max, sigma_min)]
    shifted = []
    for shift in (2 * math.log(32 / 64), 0.0):
        first, last = (math.atan(math.exp(-0.5 * (bound - shift))) for bound in bounds)
        shifted.append(-2 * torch.tan(first + time * (last - first)).log() + shift)
    return 0.5 * torch.exp(-0.5 * torch.lerp(shifted[0], shifted[1], time))


def karras_sigmas(num_inference_steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0) -> Tensor:
    """Return num_inference_steps + 1 noise levels from `sigma_max` to `sigma_min`, then 0.

    s_i = (max^(1/7) + i / (n - 1) (min^(1/7) - max^(1/7)))^7. Source: arXiv 2206.00364, equation 5.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps={num_inference_steps} must be 1 or more: sampling.num_inference_steps")
    ramp = torch.linspace(0, 1, num_inference_steps, dtype=torch.float64)
    highest, lowest = sigma_max ** (1 / RHO), sigma_min ** (1 / RHO)
    sigmas = (highest + ramp * (lowest - highest)) ** RHO
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def euler(
    predict_clean: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigmas: Tensor, on_step: OnStep | None = None
) -> Tensor:
    """Return clean latents by Euler steps of dx/ds = (x - D) / s, from x = sqrt(s_0^2 + 1) e.

    `predict_clean(latents, sigma)`; `noise`: standard normal; `sigmas`: as `karras_sigmas`. Source: arXiv 2206.00364,
    algorithm 1 without its second-order part, as diffusers' `EulerDiscreteScheduler` runs it.
    """
    latents = noise * (sigmas[0] ** 2 + 1) ** 0.5
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas)):
        clean = predict_clean(latents, sigma)
        latents = latents + (latents - clean) / sigma * (next_sigma - sigma)
        if on_step is not None:
            on_step(step, latents, clean)
    return latents


def dropout_bands(uniform: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Return which samples lose their first condition and which their second, (b,) each, from one draw for both.

    p < q: the first; q <= p < 2 q: both; 2 q <= p < 3 q: the second. Source: InstructPix2Pix, arXiv 2211.09800, code.
    """
    first = uniform < 2 * probability
    return first, (uniform >= probability) & (uniform < 3 * probability)
