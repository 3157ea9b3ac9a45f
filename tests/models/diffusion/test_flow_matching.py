import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from likeness.models.diffusion.flow_matching import (
    flow_euler,
    flow_velocity,
    interpolate,
    latents_from_flow,
    noise_from_flow,
    shift_sigmas,
    shifted_schedule,
)

GENERATOR = torch.Generator().manual_seed(0)
LATENTS, NOISE = (torch.randn(4, 3, 2, 2, 2, dtype=torch.float64, generator=GENERATOR) for _ in range(2))
SIGMAS = torch.tensor([0.0, 0.1, 0.9, 1.0], dtype=torch.float64)


def stock(num_steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    # Without `sigmas` the library shifts the ends of its range twice; Wan's code and DiffSynth do not.
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    return scheduler


def test_conversions_are_inverse():
    noisy, velocity = interpolate(LATENTS, NOISE, SIGMAS), flow_velocity(LATENTS, NOISE)
    torch.testing.assert_close(latents_from_flow(noisy, velocity, SIGMAS), LATENTS)
    torch.testing.assert_close(noise_from_flow(noisy, velocity, SIGMAS), NOISE)


def test_ends_of_the_line_are_latents_and_noise():
    noisy = interpolate(LATENTS, NOISE, SIGMAS)
    assert torch.equal(noisy[0], LATENTS[0])
    assert torch.equal(noisy[-1], NOISE[-1])


def test_velocity_is_the_slope_of_the_line():
    step = torch.full_like(SIGMAS, 1e-6)
    slope = (interpolate(LATENTS, NOISE, SIGMAS + step) - interpolate(LATENTS, NOISE, SIGMAS)) / 1e-6
    torch.testing.assert_close(slope, flow_velocity(LATENTS, NOISE), atol=1e-8, rtol=1e-8)


def test_results_have_the_dtype_of_the_latents():
    latents, noise = LATENTS.bfloat16(), NOISE.bfloat16()
    noisy = interpolate(latents, noise, SIGMAS.float())
    assert noisy.dtype == latents_from_flow(noisy, noise, SIGMAS.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 4, 50])
def test_schedule_equals_the_library(num_steps, shift):
    torch.testing.assert_close(torch.tensor(shifted_schedule(num_steps, shift)), stock(num_steps, shift).sigmas)


def test_shift_keeps_the_ends_and_moves_the_middle_towards_noise():
    assert shift_sigmas(torch.tensor([0.0, 0.5, 1.0]), 5.0).tolist() == pytest.approx([0, 5 / 6, 1])


def test_noisy_latents_equal_the_library():
    scheduler = stock(4, 5.0)
    timesteps = scheduler.timesteps
    expected = scheduler.scale_noise(LATENTS.float(), timesteps, NOISE.float())
    torch.testing.assert_close(interpolate(LATENTS.float(), NOISE.float(), timesteps / 1000), expected)


def test_euler_equals_the_library():
    scheduler, sigmas = stock(5, 5.0), shifted_schedule(5, 5.0)
    expected = NOISE.float()
    for timestep in scheduler.timesteps:
        expected = scheduler.step(torch.tanh(expected), timestep, expected).prev_sample
    torch.testing.assert_close(flow_euler(lambda latents, step: torch.tanh(latents), NOISE.float(), sigmas), expected)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_a_network_that_knows_the_velocity_ends_at_the_latents(num_steps):
    seen = []
    result = flow_euler(
        lambda latents, step: flow_velocity(LATENTS, NOISE),
        NOISE,
        shifted_schedule(num_steps, 5.0),
        lambda step, state, clean: seen.append((step, clean)),
    )
    torch.testing.assert_close(result, LATENTS)
    assert [step for step, _ in seen] == list(range(num_steps))
    torch.testing.assert_close(seen[0][1], LATENTS)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps=0 must be 1 or more"):
        shifted_schedule(0, 5.0)
