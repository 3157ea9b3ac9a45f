import pytest
import torch

from likeness.models.diffusion.processes import FlowMatching, ZeroSNRVelocity

PROCESSES = [ZeroSNRVelocity(), FlowMatching(shift=5.0)]
UNIFORM = torch.rand(1000, generator=torch.Generator().manual_seed(0))


SOLVERS = [(process, solver) for process in PROCESSES for solver in (None, *process.solvers)]


@pytest.mark.parametrize(("process", "solver"), SOLVERS, ids=lambda value: str(value).partition("(")[0])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_sampling_undoes_the_noise_for_a_network_that_knows_the_target(process, solver, num_steps):
    """`target` and `sample` are two sides of one thing: a perfect prediction at every level leads back."""
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(1, 2, 1, 3, 3, generator=generator), torch.randn(1, 2, 1, 3, 3, generator=generator)

    def perfect(noisy: torch.Tensor, timestep: float) -> torch.Tensor:
        timesteps = torch.full((1,), timestep)
        if isinstance(process, FlowMatching):
            return (noisy - latents) / (timesteps / 1000)
        alphas = process.alphas_cumprod[timesteps].float()
        return process.target(latents, (noisy - alphas.sqrt() * latents) / (1 - alphas).sqrt(), timesteps)

    made = process.sample(perfect, noise, num_steps, lambda step: torch.zeros_like(noise), solver=solver)
    # Concat-ID's sampler reads the output with the nearest level of the training table, which may be one step off.
    torch.testing.assert_close(made, latents, atol=5e-3, rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_tables_are_not_saved(process):
    assert not process.state_dict()


def test_flow_timesteps_are_shifted_towards_noise():
    timesteps = FlowMatching(shift=5.0).draw_timesteps(UNIFORM, rank=3, world_size=8)
    torch.testing.assert_close(timesteps, 1000 * 5 * UNIFORM / (1 + 4 * UNIFORM))
    assert timesteps.median() == pytest.approx(1000 * 5 / 6, rel=0.05)


def test_velocity_timesteps_are_integers_of_the_ranks_share():
    timesteps = ZeroSNRVelocity().draw_timesteps(UNIFORM, rank=3, world_size=8)
    assert timesteps.dtype == torch.int64
    assert timesteps.min() >= 375 and timesteps.max() < 500


def test_snr_shift_makes_the_same_timestep_noisier():
    plain, shifted = ZeroSNRVelocity(), ZeroSNRVelocity(snr_shift_scale=3.0)
    assert (shifted.alphas_cumprod[1:-1] < plain.alphas_cumprod[1:-1]).all()


def test_shift_must_be_positive():
    with pytest.raises(ValueError, match=r"shift=0 must be positive: model\.process\.shift"):
        FlowMatching(shift=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_a_solver_of_another_process_is_refused(process):
    with pytest.raises(ValueError, match=r"sampling\.solver=heun: \w+ has (sde_dpm, ddim|euler)"):
        process.sample(lambda latents, timestep: latents, torch.zeros(1, 1), 2, torch.zeros, solver="heun")
