import pytest
import torch

from likeness.models.diffusion.samplers import (
    ddim,
    sde_dpm_solver_pp_2m,
    sde_dpm_solver_pp_2m_coefficients,
    sde_schedule,
)
from likeness.models.diffusion.schedules import rescale_zero_terminal_snr, scaled_linear_alphas_cumprod

UNRESCALED = scaled_linear_alphas_cumprod()
TABLE = rescale_zero_terminal_snr(UNRESCALED)


def sample(predict_clean, num_steps, shape=(2, 3), on_step=None):
    generator = torch.Generator().manual_seed(0)
    schedule = sde_schedule(UNRESCALED, TABLE, num_steps)
    noise = torch.randn(shape, generator=generator)
    return sde_dpm_solver_pp_2m(
        predict_clean, noise, schedule.signal, lambda step: torch.randn(shape, generator=generator), on_step
    )


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
def test_a_network_that_knows_the_answer_ends_at_it(num_steps):
    answer = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    assert torch.equal(sample(lambda latents, step: answer, num_steps), answer)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_the_network_is_called_once_a_step(num_steps):
    calls = []
    sample(lambda latents, step: calls.append(step) or latents, num_steps)
    assert calls == list(range(num_steps))


def test_states_have_the_variance_of_their_noise_level():
    # For clean latents of zero, state i is Gaussian with variance 1 - signal^2.
    variances = []
    schedule = sde_schedule(UNRESCALED, TABLE, 10)
    sample(
        lambda latents, step: torch.zeros_like(latents),
        10,
        shape=(200, 500),
        on_step=lambda step, state, clean: variances.append(state.var().item()),
    )
    expected = [1 - signal**2 for signal in schedule.signal[1:-1]]
    assert variances[:-1] == pytest.approx(expected, rel=0.02)


def test_first_step_from_pure_noise_keeps_nothing_of_the_state():
    coefficients = sde_dpm_solver_pp_2m_coefficients(sde_schedule(UNRESCALED, TABLE, 50).signal, 0)
    assert coefficients.state == 0
    assert coefficients.old == 0


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_number_of_steps_names_the_setting(num_steps):
    with pytest.raises(ValueError, match=r"sampling\.num_inference_steps"):
        sde_schedule(UNRESCALED, TABLE, num_steps)


@pytest.mark.parametrize("num_steps", [1, 4, 50])
def test_ddim_equals_the_scheduler_of_the_published_pipeline(num_steps):
    from diffusers import CogVideoXDDIMScheduler

    def network(latents, timestep):
        return (latents * 0.7 + timestep / 1000).tanh()

    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    stock = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        clip_sample=False,
    )
    stock.set_timesteps(num_steps)
    expected = noise
    for timestep in stock.timesteps:
        expected = stock.step(network(expected, int(timestep)), timestep, expected).prev_sample
    # The library's table is float32 with a square root in between; ours is float64.
    torch.testing.assert_close(ddim(network, noise, TABLE, num_steps), expected, rtol=1e-4, atol=1e-5)
