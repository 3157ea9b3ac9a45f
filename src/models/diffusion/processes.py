"""What a denoiser was trained to undo: noise levels, noisy latents, target and sampler, as one object."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from .flow_matching import flow_euler, flow_velocity, interpolate, shift_sigmas, shifted_schedule
from .parameterization import add_noise, latents_from_velocity, velocity
from .samplers import OnStep, ddim, sde_dpm_solver_pp_2m, sde_schedule
from .schedules import (
    rescale_zero_terminal_snr,
    scaled_linear_alphas_cumprod,
    shift_snr,
    stratified_timesteps,
)

Predict = Callable[[Tensor, float], Tensor]  # (noisy latents, timestep) -> the denoiser's output, guided


class DiffusionProcess(nn.Module, ABC):
    """Noise levels are timesteps (b,), as the denoiser is told them. Tables move with the module and are not saved.

    `solvers`: what `sample` can do, the one of the published recipe first.
    """

    solvers: tuple[str, ...]

    @abstractmethod
    def draw_timesteps(self, uniform: Tensor, rank: int, world_size: int) -> Tensor:
        """Return the training's timesteps (b,) from `uniform` (b,) in [0, 1)."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return noisy latents, like `latents`."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser should say about the noisy latents, like `latents`."""

    @abstractmethod
    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        num_inference_steps: int,
        step_noise: Callable[[int], Tensor],
        on_step: OnStep | None = None,
        solver: str | None = None,
    ) -> Tensor:
        """Return clean latents from standard normal `noise`. `step_noise(i)`: more of it for step i of a stochastic
        sampler; `solver`: one of `solvers`, None for the first. Raises ValueError for another.
        """

    def choose_solver(self, solver: str | None) -> str:
        if solver is not None and solver not in self.solvers:
            raise ValueError(f"sampling.solver={solver}: {type(self).__name__} has {', '.join(self.solvers)}")
        return solver or self.solvers[0]


class ZeroSNRVelocity(DiffusionProcess):
    """CogVideoX: v-prediction at integer timesteps in [0, 1000), zero terminal SNR; SDE-DPM-Solver++(2M).

    `ddim` is the solver of diffusers' pipeline, which draws no further noise. `snr_shift_scale`: 1 for the 5B backbone,
    3 for the 2B one. Timesteps are stratified over the ranks.
    """

    solvers = ("sde_dpm", "ddim")
    unrescaled_alphas_cumprod: Tensor
    alphas_cumprod: Tensor

    def __init__(self, *, snr_shift_scale: float = 1.0):
        super().__init__()
        unrescaled = shift_snr(scaled_linear_alphas_cumprod(), snr_shift_scale)
        self.register_buffer("unrescaled_alphas_cumprod", unrescaled, persistent=False)
        self.register_buffer("alphas_cumprod", rescale_zero_terminal_snr(unrescaled), persistent=False)

    def draw_timesteps(self, uniform: Tensor, rank: int, world_size: int) -> Tensor:
        return stratified_timesteps(uniform, len(self.alphas_cumprod), rank, world_size)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return add_noise(latents, noise, self.alphas_cumprod[timesteps])

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return velocity(latents, noise, self.alphas_cumprod[timesteps])

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        num_inference_steps: int,
        step_noise: Callable[[int], Tensor],
        on_step: OnStep | None = None,
        solver: str | None = None,
    ) -> Tensor:
        if self.choose_solver(solver) == "ddim":
            return ddim(predict, noise, self.alphas_cumprod, num_inference_steps, on_step)
        schedule = sde_schedule(self.unrescaled_alphas_cumprod, self.alphas_cumprod, num_inference_steps)

        def predict_clean(latents: Tensor, step: int) -> Tensor:
            level = self.alphas_cumprod[schedule.table_index[step]].expand(len(latents))
            return latents_from_velocity(latents, predict(latents, schedule.timesteps[step]), level)

        return sde_dpm_solver_pp_2m(predict_clean, noise, schedule.signal, step_noise, on_step)


class FlowMatching(DiffusionProcess):
    """Wan: straight lines from latents to noise, timestep = 1000 sigma; Euler steps, which draw no further noise.

    `shift`: moves training and sampling towards noise; 5 for Wan2.1 at 480p.
    """

    solvers = ("euler",)
    num_timesteps = 1000

    def __init__(self, *, shift: float = 5.0):
        super().__init__()
        if shift <= 0:
            raise ValueError(f"shift={shift} must be positive: model.process.shift")
        self.shift = shift

    def draw_timesteps(self, uniform: Tensor, rank: int, world_size: int) -> Tensor:
        return self.num_timesteps * shift_sigmas(uniform, self.shift)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return interpolate(latents, noise, timesteps / self.num_timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return flow_velocity(latents, noise)

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        num_inference_steps: int,
        step_noise: Callable[[int], Tensor],
        on_step: OnStep | None = None,
        solver: str | None = None,
    ) -> Tensor:
        self.choose_solver(solver)
        sigmas = shifted_schedule(num_inference_steps, self.shift)
        return flow_euler(
            lambda latents, step: predict(latents, self.num_timesteps * sigmas[step]), noise, sigmas, on_step
        )
