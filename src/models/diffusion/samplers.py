"""Samplers as plain functions: noise and a function that predicts clean latents in, clean latents out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PredictClean = Callable[[Tensor, int], Tensor]  # (noisy latents, step index) -> clean latents
OnStep = Callable[[int, Tensor, Tensor], None]  # (step index, new state, clean latents)


@dataclass(frozen=True)
class SDESchedule:
    """Discretisation of the SDE-DPM-Solver++(2M) sampler: one entry for each call of the network, noisiest first.

    `timesteps`: what the network is told. `signal`: sqrt(alphas_cumprod) of the state, from 0 (pure noise), followed by
    1. `table_index`: nearest entry of the training schedule, with which the network's output is read.
    """

    timesteps: list[int]
    signal: list[float]
    table_index: list[int]


def sde_schedule(unrescaled: Tensor, table: Tensor, num_inference_steps: int) -> SDESchedule:
    """Return the discretisation of Concat-ID's sampler.

    `unrescaled`, `table`: alphas_cumprod of training before and after the zero-terminal-SNR rescaling. The sampler
    rescales the subset of levels that it visits, not the table: s_i = (u_i - u_last) u_first / (u_first - u_last).
    Source: CogVideoX SAT code, `VPSDEDPMPP2MSampler` and `ZeroSNRDDPMDiscretization`.
    """
    num_timesteps = len(table)
    if not 1 <= num_inference_steps <= num_timesteps:
        raise ValueError(
            f"num_inference_steps={num_inference_steps} must lie between 1 and {num_timesteps}: "
            "sampling.num_inference_steps"
        )
    last = num_timesteps - 1
    # numpy's linspace(last, 0, n, endpoint=False) truncated to integers, in the same float64 arithmetic.
    timesteps = [int(last + step * (-last / num_inference_steps)) for step in range(num_inference_steps)]
    roots = unrescaled.sqrt()
    visited, noisiest = roots[timesteps], roots[timesteps[0]]
    signal = visited - noisiest
    if num_inference_steps > 1:
        signal = signal * visited[-1] / (visited[-1] - noisiest)
    table_index = (signal[:, None] - table.sqrt()[None]).abs().argmin(dim=1)
    return SDESchedule(timesteps, [*signal.tolist(), 1.0], table_index.tolist())


def sde_dpm_solver_pp_2m(
    predict_clean: PredictClean,
    noise: Tensor,
    signal: list[float],
    step_noise: Callable[[int], Tensor],
    on_step: OnStep | None = None,
) -> Tensor:
    """Return clean latents by SDE-DPM-Solver++(2M), data prediction, second order over two steps.

    x_{i+1} = c_x x_i - c_d D_i + c_e eps_i with D_i = d_i + (d_i - d_{i-1}) / (2 r_i); the last step returns d.
    `noise`: initial state; `signal`: sqrt(alphas_cumprod) of each state, from 0, then 1; `step_noise(i)`: eps_i, like
    `noise`. Source: arXiv 2211.01095, appendix (SDE-DPM-Solver++(2M)), in the form of the Concat-ID code.
    """
    latents, previous = noise, None
    num_steps = len(signal) - 1
    for step in range(num_steps):
        clean = predict_clean(latents, step)
        if step == num_steps - 1:
            latents = clean
        else:
            coefficients = sde_dpm_solver_pp_2m_coefficients(signal, step)
            target = clean if previous is None else coefficients.new * clean - coefficients.old * previous
            latents = coefficients.state * latents - coefficients.data * target + coefficients.noise * step_noise(step)
        previous = clean
        if on_step is not None:
            on_step(step, latents, clean)
    return latents


def ddim(
    predict_velocity: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    alphas_cumprod: Tensor,
    num_inference_steps: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return clean latents by deterministic DDIM as diffusers' `CogVideoXPipeline` runs it, with the library's step.

    `predict_velocity(latents, timestep)`; `alphas_cumprod`: of training, zero at the end. Timesteps are `trailing`:
    the first is the noisiest. Source: arXiv 2010.02502, equation 12 with eta = 0.
    """
    from diffusers import CogVideoXDDIMScheduler

    num_timesteps = len(alphas_cumprod)
    scheduler: Any = CogVideoXDDIMScheduler(
        num_train_timesteps=num_timesteps,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.alphas_cumprod = alphas_cumprod.cpu()
    scheduler.set_timesteps(num_inference_steps)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        output = predict_velocity(latents, timestep)
        latents, clean = scheduler.step(output, timestep, latents, return_dict=False)
        if on_step is not None:
            on_step(step, latents, clean)
    return latents


@dataclass(frozen=True)
class SDECoefficients:
    """x_next = state * x - data * (new * d - old * d_previous) + noise * eps."""

    state: float
    data: float
    new: float
    old: float
    noise: float


def sde_dpm_solver_pp_2m_coefficients(signal: list[float], step: int) -> SDECoefficients:
    """Return the update from state `step` to `step` + 1; with lam = ln(s / sqrt(1 - s^2)), h = lam' - lam:

    state = sqrt((1 - s'^2) / (1 - s^2)) exp(-h), data = (exp(-2 h) - 1) s', noise = sqrt(1 - s'^2) sqrt(1 - exp(-2 h)),
    new = 1 + 1 / (2 r), old = 1 / (2 r), r = h_previous / h. From pure noise (s = 0) h is infinite.
    """
    levels = torch.tensor(signal[max(step - 1, 0) : step + 2], dtype=torch.float64)
    log_snr = torch.log(levels) - 0.5 * torch.log1p(-(levels**2))
    h = log_snr[-1] - log_snr[-2]
    sigma, next_sigma = (1 - levels[-2:] ** 2).sqrt()
    old = (
        torch.zeros(()) if step == 0 else h / (2 * (log_snr[1] - log_snr[0]))
    )  # 1 / (2 r); zero after the infinite first h
    return SDECoefficients(
        state=float(next_sigma / sigma * torch.exp(-h)),
        data=float(torch.expm1(-2 * h) * levels[-1]),
        new=float(1 + old),
        old=float(old),
        noise=float(next_sigma * (-torch.expm1(-2 * h)).sqrt()),
    )
