"""Concat-ID: identity-preserving text-to-video by concatenation. Source: arXiv 2503.14151 and the authors' code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .autoencoders import VideoAutoencoder
from .base import Batch, Conditioning, OnStep, OptimizerFactory, ScheduleFactory, VideoDiffusion
from .denoisers.placement import CogVideoXPlacement, ReferencePlacement
from .diffusion.guidance import guide
from .diffusion.parameterization import expand_like, mean_per_clip
from .diffusion.processes import DiffusionProcess, ZeroSNRVelocity
from .draws import Draws
from .lora import LoRA
from .text_encoders import TextEncoder


@dataclass(frozen=True)
class ConcatIDConditioning(Conditioning):
    """`prompt_embeds` (b n d), `reference_latents` (b c k h w)."""

    reference_latents: Tensor


class ConcatID(VideoDiffusion):
    """Clean reference latents follow the video latents on the frame axis; attention carries the identity.

    References share the clip's timestep, are seen by every layer, and what the network says about them is thrown away:
    they carry no loss. Source: arXiv 2503.14151, section 3.

    `placement`: where a reference stands in the sequence of `denoiser`; `process`: what the denoiser predicts, and how
    clips are sampled. Both go with the backbone, by default CogVideoX-5B's. `prompt_dropout`: share of clips whose
    prompt embeddings are zeroed. `reference_dropout`: probability that all references of a batch, or of one of its
    clips, are zeroed (they keep their place in the sequence); `reference_dropout_per`: batch or sample.
    `reference_noise`: mean and standard deviation of the logarithm of the pixel noise on references.
    """

    def __init__(
        self,
        *,
        denoiser: Any,
        autoencoder: VideoAutoencoder,
        text_encoder: TextEncoder,
        optimizer: OptimizerFactory,
        lr_schedule: ScheduleFactory | None = None,
        seed: int = 42,
        placement: ReferencePlacement | None = None,
        process: DiffusionProcess | None = None,
        prompt_dropout: float = 0.1,
        reference_dropout: float = 0.1,
        reference_dropout_per: str = "batch",
        reference_noise: Sequence[float] = (-3.0, 0.5),
        gradient_checkpointing: bool = False,
        lora: LoRA | None = None,
        trained: Sequence[str] | None = None,
    ):
        super().__init__(
            denoiser=denoiser,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            seed=seed,
            lora=lora,
            trained=trained,
        )
        built = ["denoiser", "autoencoder", "text_encoder", "optimizer", "lr_schedule", "placement", "process", "lora"]
        self.save_hyperparameters(ignore=built, logger=False)
        if reference_dropout_per not in ("batch", "sample"):
            raise ValueError(
                f"reference_dropout_per={reference_dropout_per!r} is not one of batch, sample: "
                "model.reference_dropout_per"
            )
        self.placement = CogVideoXPlacement() if placement is None else placement
        self.process = ZeroSNRVelocity() if process is None else process
        self.prompt_dropout, self.reference_noise = prompt_dropout, reference_noise
        self.reference_dropout, self.reference_dropout_per = reference_dropout, reference_dropout_per
        self.placement.prepare(denoiser, autoencoder, text_encoder)
        if gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()

    @torch.no_grad()
    def condition(self, batch: Batch, draws: Draws, *, augment: bool) -> ConcatIDConditioning:
        """`batch`: `caption` (b strings) or `prompt_embeds`; `reference_pixel_values` (b c k h w) in [-1, 1]."""
        prompt_embeds = self.encode_prompts(batch)
        images = batch["reference_pixel_values"]
        if augment:
            images = self._add_pixel_noise(images, draws)
        reference_latents = self._encode_references(images, draws)
        if augment:
            keep = draws.uniform("prompt_dropout") >= self.prompt_dropout
            prompt_embeds = prompt_embeds * expand_like(keep, prompt_embeds)
            keep = draws.uniform("reference_dropout") >= self.reference_dropout
            if self.reference_dropout_per == "batch":
                keep = keep[:1]  # the first clip's draw holds for all
            reference_latents = reference_latents * expand_like(keep, reference_latents)
        return ConcatIDConditioning(prompt_embeds, reference_latents)

    def draw_timesteps(self, draws: Draws) -> Tensor:
        return self.process.draw_timesteps(draws.uniform("timesteps"), self.global_rank, self.world_size)

    def loss(self, latents: Tensor, conditioning: ConcatIDConditioning, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Squared error of each clip, (b,), unweighted. `latents`, `noise`: (b c f h w); `timesteps`: (b,).

        For v-prediction this is the original's |x0 - x0_hat|^2 / (1 - alphas_cumprod), term by term.
        """
        noisy_latents = self.process.add_noise(latents, noise, timesteps)
        model_output = self.predict(noisy_latents, timesteps, conditioning)
        return mean_per_clip((model_output.float() - self.process.target(latents, noise, timesteps).float()) ** 2)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: ConcatIDConditioning) -> Tensor:
        noisy_latents, reference_latents, prompt_embeds = (
            value.to(self.denoiser.dtype)
            for value in (noisy_latents, conditioning.reference_latents, conditioning.prompt_embeds)
        )
        return self.placement(self.denoiser, noisy_latents, reference_latents, timesteps, prompt_embeds)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        conditioning: ConcatIDConditioning,
        noise: Tensor,
        draws: Draws,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 6.0,
        negative_prompt: str | None = None,
        solver: str | None = None,
        drop_references: bool = False,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents by the process's sampler. Guidance acts on the text alone: both halves see the references.

        `negative_prompt`: what the unconditional half reads; None for zeros, as prompt dropout makes them. At
        `guidance_scale` 1 that half is not computed. `solver`: one of the process's; None for the published recipe's.
        `drop_references` zeroes them, as dropout does in training: the
        same model without identity.
        """
        if drop_references:
            conditioning = replace(conditioning, reference_latents=torch.zeros_like(conditioning.reference_latents))
        if guidance_scale != 1:
            embeds = self._unconditional_embeds(conditioning.prompt_embeds, negative_prompt)
            conditioning = replace(conditioning, prompt_embeds=embeds).beside(conditioning)

        def predict_guided(latents: Tensor, timestep: float) -> Tensor:
            branches = 1 if guidance_scale == 1 else 2
            latents = latents.repeat(branches, *[1] * (latents.ndim - 1))
            timesteps = torch.full((len(latents),), timestep, device=latents.device)
            output = self.predict(latents, timesteps, conditioning).float()
            if branches == 1:
                return output
            unconditional, conditional = output.chunk(2)
            return guide(unconditional, conditional, guidance_scale)

        def step_noise(step: int) -> Tensor:
            return draws.normal(f"sde_noise_{step}", noise.shape[1:])

        return self.process.sample(predict_guided, noise.float(), num_inference_steps, step_noise, on_step, solver)

    def _unconditional_embeds(self, prompt_embeds: Tensor, negative_prompt: str | None) -> Tensor:
        if negative_prompt is None:
            return torch.zeros_like(prompt_embeds)
        return self.text_encoder([negative_prompt]).to(prompt_embeds).expand_as(prompt_embeds)

    def _add_pixel_noise(self, images: Tensor, draws: Draws) -> Tensor:
        """Each reference image gets Gaussian noise of its own log-normal strength, before the autoencoder sees it."""
        mean, std = self.reference_noise
        strength = torch.exp(mean + std * draws.normal("reference_noise_strength", images.shape[2:3]))
        noise = draws.normal("reference_noise", images.shape[1:])
        return images + strength[:, None, :, None, None] * noise

    def _encode_references(self, images: Tensor, draws: Draws) -> Tensor:
        """Encode every image (b c k h w) as a clip of one frame and put the latents behind one another: (b c k h w)."""
        shape = self.autoencoder.latent_shape(1, *images.shape[-2:])
        latents = [
            self.autoencoder.encode(images[:, :, k : k + 1], draws.normal(f"reference_posterior_{k}", shape))
            for k in range(images.shape[2])
        ]
        return torch.cat(latents, dim=2) if latents else images.new_zeros(len(images), shape[0], 0, *shape[2:])
