"""Concat-ID: identity-preserving text-to-video by concatenation. Source: arXiv 2503.14151 and the authors' code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from .autoencoders import VideoAutoencoder
from .base import Batch, Conditioning, OnStep, OptimizerFactory, ScheduleFactory, VideoDiffusion
from .diffusion.guidance import guide
from .diffusion.parameterization import add_noise, expand_like, latents_from_velocity, mean_per_clip, velocity
from .diffusion.samplers import sde_dpm_solver_pp_2m, sde_schedule
from .diffusion.schedules import (
    rescale_zero_terminal_snr,
    scaled_linear_alphas_cumprod,
    shift_snr,
    stratified_timesteps,
)
from .draws import Draws
from .lora import LoRA
from .text_encoders import TextEncoder


@dataclass(frozen=True)
class ConcatIDConditioning(Conditioning):
    """`prompt_embeds` (b n d), `reference_latents` (b c k h w)."""

    reference_latents: Tensor


class ConcatID(VideoDiffusion):
    """Clean reference latents follow the video latents on the frame axis; attention carries the identity.

    v-prediction on CogVideoX, zero terminal SNR. References share the clip's timestep, are seen by every layer, and
    what the network says about them is thrown away: they carry no loss. Source: arXiv 2503.14151, section 3.

    `denoiser`: a `CogVideoXTransformer3DModel`. `prompt_dropout`: share of clips whose prompt embeddings are zeroed.
    `reference_dropout`: probability that all references of a batch are zeroed (they keep their place in the sequence).
    `reference_noise`: mean and standard deviation of the logarithm of the pixel noise on references. `snr_shift_scale`:
    1 for the 5B backbone, 3 for the 2B one.
    """

    unrescaled_alphas_cumprod: Tensor
    alphas_cumprod: Tensor

    def __init__(
        self,
        *,
        denoiser: Any,
        autoencoder: VideoAutoencoder,
        text_encoder: TextEncoder,
        optimizer: OptimizerFactory,
        lr_schedule: ScheduleFactory | None = None,
        seed: int = 42,
        snr_shift_scale: float = 1.0,
        prompt_dropout: float = 0.1,
        reference_dropout: float = 0.1,
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
        self.save_hyperparameters(
            ignore=["denoiser", "autoencoder", "text_encoder", "optimizer", "lr_schedule", "lora"], logger=False
        )
        _check_fit(denoiser, autoencoder, text_encoder)
        self.prompt_dropout, self.reference_dropout, self.reference_noise = (
            prompt_dropout,
            reference_dropout,
            reference_noise,
        )
        # The original's final norm has 1e-6, the stock class gives it the blocks' 1e-5: 1.5e-5 on the output.
        denoiser.norm_out.norm.eps = 1e-6
        if gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        unrescaled = shift_snr(scaled_linear_alphas_cumprod(), snr_shift_scale)
        self.register_buffer("unrescaled_alphas_cumprod", unrescaled, persistent=False)
        self.register_buffer("alphas_cumprod", rescale_zero_terminal_snr(unrescaled), persistent=False)

    @torch.no_grad()
    def condition(self, batch: Batch, draws: Draws, *, augment: bool) -> ConcatIDConditioning:
        """`batch`: `caption` (b strings), `reference_pixel_values` (b c k h w) in [-1, 1]."""
        prompt_embeds = self.text_encoder(batch["caption"])
        images = batch["reference_pixel_values"]
        if augment:
            images = self._add_pixel_noise(images, draws)
        reference_latents = self._encode_references(images, draws)
        if augment:
            keep = draws.uniform("prompt_dropout") >= self.prompt_dropout
            prompt_embeds = prompt_embeds * expand_like(keep, prompt_embeds)
            # One draw for the whole batch, as in the original.
            reference_latents = reference_latents * (draws.uniform("reference_dropout")[0] >= self.reference_dropout)
        return ConcatIDConditioning(prompt_embeds, reference_latents)

    def draw_timesteps(self, draws: Draws) -> Tensor:
        return stratified_timesteps(
            draws.uniform("timesteps"), len(self.alphas_cumprod), self.global_rank, self.world_size
        )

    def loss(self, latents: Tensor, conditioning: ConcatIDConditioning, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Squared velocity error of each clip, (b,).

        `latents`, `noise`: (b c f h w); `timesteps`: (b,) integers in [0, 1000).

        Equals the original's |x0 - x0_hat|^2 / (1 - alphas_cumprod), term by term.
        """
        alphas_cumprod = self.alphas_cumprod[timesteps]
        noisy_latents = add_noise(latents, noise, alphas_cumprod)
        model_output = self.predict(noisy_latents, timesteps, conditioning)
        return mean_per_clip((model_output.float() - velocity(latents, noise, alphas_cumprod).float()) ** 2)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: ConcatIDConditioning) -> Tensor:
        num_frames, dtype = noisy_latents.shape[2], self.denoiser.dtype
        sequence = torch.cat([noisy_latents.to(dtype), conditioning.reference_latents.to(dtype)], dim=2)
        output = self.denoiser(
            hidden_states=sequence.transpose(1, 2),  # the library wants b f c h w
            encoder_hidden_states=conditioning.prompt_embeds.to(dtype),
            timestep=timesteps,
            image_rotary_emb=self._positions(sequence),
            return_dict=False,
        )[0]
        return output.transpose(1, 2)[:, :, :num_frames]

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        conditioning: ConcatIDConditioning,
        noise: Tensor,
        draws: Draws,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 6.0,
        drop_references: bool = False,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents by SDE-DPM-Solver++(2M). Guidance acts on the text alone: both halves see the references.

        At `guidance_scale` 1 the half without text is not computed. `drop_references` zeroes them, as dropout does in
        training: the same model without identity.
        """
        if drop_references:
            conditioning = replace(conditioning, reference_latents=torch.zeros_like(conditioning.reference_latents))
        schedule = sde_schedule(self.unrescaled_alphas_cumprod, self.alphas_cumprod, num_inference_steps)
        without_text = replace(conditioning, prompt_embeds=torch.zeros_like(conditioning.prompt_embeds))
        both = without_text.beside(conditioning)

        def predict_clean(latents: Tensor, step: int) -> Tensor:
            branches = 1 if guidance_scale == 1 else 2
            latents = latents.repeat(branches, *[1] * (latents.ndim - 1))
            timesteps = torch.full((len(latents),), schedule.timesteps[step], device=latents.device)
            output = self.predict(latents, timesteps, conditioning if branches == 1 else both)
            level = self.alphas_cumprod[schedule.table_index[step]].expand(len(latents))
            clean = latents_from_velocity(latents, output, level)
            if branches == 1:
                return clean
            unconditional, conditional = clean.chunk(2)
            return guide(unconditional, conditional, guidance_scale)

        return sde_dpm_solver_pp_2m(
            predict_clean,
            noise.float(),
            schedule.signal,
            lambda step: draws.normal(f"sde_noise_{step}", noise.shape[1:]),
            on_step,
        )

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

    def _positions(self, sequence: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rotary tables of integer (t, y, x): references follow the clip's last frame in time, at the same y and x.

        None for the 2B network: it adds tables of the same (t, y, x) itself, for as many frames as it is given.
        """
        config = self.denoiser.config
        if not config.use_rotary_positional_embeddings:
            return None
        height, width = sequence.shape[-2] // config.patch_size, sequence.shape[-1] // config.patch_size
        grid = (height, width)
        tables = get_3d_rotary_pos_embed(
            config.attention_head_dim, ((0, 0), grid), grid, sequence.shape[2], device=sequence.device
        )
        return cast(tuple[Tensor, Tensor], tables)


def _check_fit(denoiser: Any, autoencoder: VideoAutoencoder, text_encoder: TextEncoder) -> None:
    config = denoiser.config
    pairs = {
        "in_channels": ("the autoencoder's latent channels", autoencoder.latent_channels),
        "out_channels": ("the autoencoder's latent channels", autoencoder.latent_channels),
        "text_embed_dim": ("the text encoder's width", text_encoder.embed_dim),
    }
    if not config.use_rotary_positional_embeddings:
        pairs["max_text_seq_length"] = ("the text encoder's max_length", text_encoder.max_length)
    for name, (what, value) in pairs.items():
        if config[name] != value:
            raise ValueError(f"backbone.denoiser.{name}={config[name]} must equal {what}, {value}")
