"""Noise schedules: cumulative products of alphas (named `alphas_cumprod`, after diffusers) as float64 tensors.

The index is the integer timestep: 0 is nearly clean, the last one is the noisiest.
"""

import torch
from torch import Tensor


def scaled_linear_alphas_cumprod(
    num_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tensor:
    """Return (num_timesteps,) cumulative alphas of betas whose square roots are evenly spaced.

    beta_k = (sqrt(beta_start) + k / (n - 1) * (sqrt(beta_end) - sqrt(beta_start)))^2. Source: arXiv 2112.10752, code.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def shift_snr(alphas_cumprod: Tensor, scale: float) -> Tensor:
    """Return the schedule whose signal-to-noise ratio is divided by `scale`: a / (scale + (1 - scale) a).

    Source: CogVideoX (arXiv 2408.06072, code): 1 for the 5B model, 3 for the 2B model.
    """
    return alphas_cumprod / (scale + (1 - scale) * alphas_cumprod)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Return the schedule stretched so that the last step is pure noise and the first is kept.

    s = sqrt(a); s <- (s - s_last) * s_0 / (s_0 - s_last). Source: arXiv 2305.08891, algorithm 1.
    """
    roots = alphas_cumprod.sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots**2


def stratified_timesteps(uniform: Tensor, num_timesteps: int, rank: int, world_size: int) -> Tensor:
    """Return integer timesteps (b,) from `uniform` (b,) in [0, 1), each rank drawing from its own part of the range.

    The ranks form G groups, the largest number of equal groups that divides `num_timesteps`; group g draws from
    [g n / G, (g + 1) n / G). One process draws from the whole range. Source: Concat-ID code, `DiscreteSampling`.
    """
    group_size = next(
        i for i in range(1, world_size + 1) if world_size % i == 0 and num_timesteps % (world_size // i) == 0
    )
    interval = num_timesteps // (world_size // group_size)
    start = rank // group_size * interval
    return start + (uniform.double() * interval).long().clamp(max=interval - 1)
