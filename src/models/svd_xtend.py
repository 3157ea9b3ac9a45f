"""SVD Xtend: fine-tuning of Stable Video Diffusion, image to video. Source: arXiv 2311.15127 and the authors' code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.attention import TemporalBasicTransformerBlock
from torch import Tensor

from .base import Batch, Conditioning, OnStep, OptimizerFactory, ScheduleFactory, VideoDiffusion
from .checkpointing import checkpoint_blocks
from .diffusion.edm import (
    add_noise_at,
    cosine_sigmas,
    dropout_bands,
    edm_scalings,
    euler,
    karras_sigmas,
    latents_from_output,
    lognormal_sigmas,
    velocity_at,
)
from .diffusion.guidance import guide
from .diffusion.parameterization import expand_like, mean_per_clip
from .draws import Draws
from .frozen import Cacheable, image_tensors
from .image_encoders import ImageEncoder
from .lora import LoRA

ORIGINAL_FPS_ID, ORIGINAL_MOTION_BUCKET = 7.0, 127.0  # the authors' code, whatever the clip
SVD_CHANNELS, SVD_HEADS = [320, 640, 1280, 1280], [5, 10, 20, 20]


@dataclass(frozen=True)
class SVDConditioning(Conditioning):
    """`image_embeds` (b 1 d), `image_latents` (b c 1 h w), `time_ids` (b 3): fps - 1, motion bucket, noise of image."""

    image_embeds: Tensor
    image_latents: Tensor
    time_ids: Tensor


class SVDXtend(VideoDiffusion):
    """The first frame's latents stand beside those of every noisy frame; attention reads its CLIP embedding.

    Noise levels are continuous, preconditioning is EDM's with sigma_data = 1. The picture gets noise of its own before
    the autoencoder sees it, so that the clip follows it loosely; the network is told how much.

    `sigmas`: mean and deviation of the logarithm of the noise level: 0.7 and 1.6 at 320 x 576, 1.0 and 1.6 at
    576 x 1024 (paper). `sigma_sampler`: lognormal, or cosine (the authors' runs before 2024). `image_noise`: likewise,
    of the picture's noise. `conditioning_dropout`: q, or None for none; with that probability the embedding alone,
    both, or the latents alone are zeroed. `loss_form`: v or x0, the same loss written twice; x0 loses digits at little
    noise. `gradient_checkpointing`: diffusers' own, of residual blocks and spatial transformers; `checkpoint_temporal`:
    of the temporal transformers too.

    `compat=original` repeats what the authors' code does otherwise: the picture's latents are a sample of the posterior
    instead of its mean, every clip is told the first one's noise on the picture, 7 for the frame rate (the network was
    trained on fps - 1) and motion bucket 127; the loss has the x0 form, and biases and norms decay like matrices.
    """

    reads = ("image_pixel_values",)
    image_encoder: ImageEncoder

    def __init__(
        self,
        *,
        denoiser: Any,
        autoencoder: Any,
        image_encoder: ImageEncoder,
        optimizer: OptimizerFactory,
        lr_schedule: ScheduleFactory | None = None,
        seed: int = 42,
        sigmas: Sequence[float] = (0.7, 1.6),
        sigma_sampler: str = "lognormal",
        image_noise: Sequence[float] = (-3.0, 0.5),
        conditioning_dropout: float | None = 0.1,
        loss_form: str = "v",
        compat: str = "corrected",
        gradient_checkpointing: bool = False,
        checkpoint_temporal: bool = False,
        lora: LoRA | None = None,
        trained: Sequence[str] | None = None,
    ):
        super().__init__(
            denoiser=denoiser,
            autoencoder=autoencoder,
            encoders={"image_encoder": image_encoder},
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            seed=seed,
            lora=lora,
            trained=trained,
        )
        built = ["denoiser", "autoencoder", "image_encoder", "optimizer", "lr_schedule", "lora"]
        self.save_hyperparameters(ignore=built, logger=False)
        for name, pair in (("sigmas", sigmas), ("image_noise", image_noise)):
            if len(pair) != 2 or pair[1] <= 0:
                raise ValueError(f"{name}={list(pair)} must be a mean and a deviation above 0: model.{name}")
        for name, value, allowed in (
            ("sigma_sampler", sigma_sampler, ("lognormal", "cosine")),
            ("loss_form", loss_form, ("v", "x0")),
            ("compat", compat, ("corrected", "original")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}: model.{name}")
        conditioning_dropout = conditioning_dropout or 0.0
        if not 0 <= conditioning_dropout <= 1 / 3:
            raise ValueError(
                f"conditioning_dropout={conditioning_dropout} must lie in [0, 1/3], the bands are three times as wide: "
                "model.conditioning_dropout"
            )
        check_parts_fit(denoiser, autoencoder, image_encoder)
        self.sigmas, self.sigma_sampler, self.image_noise = sigmas, sigma_sampler, image_noise
        self.conditioning_dropout, self.is_original = conditioning_dropout, compat == "original"
        self.loss_form = "x0" if self.is_original else loss_form
        if gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        if checkpoint_temporal:
            checkpoint_blocks(denoiser, TemporalBasicTransformerBlock)

    @classmethod
    def cacheable(cls) -> dict[str, Cacheable]:
        return super().cacheable() | {"image_embeds": Cacheable(("image_encoder",), cls.reads, image_tensors)}

    @torch.no_grad()
    def condition(
        self,
        batch: Batch,
        draws: Draws,
        *,
        augment: bool,
        fps: float | None = None,
        motion_bucket_id: float | None = None,
        noise_aug_strength: float = 0.02,
    ) -> SVDConditioning:
        """`batch`: `image_pixel_values` (b c 1 h w) in [-1, 1], `fps` and `motion_bucket_id` (b,).

        `clip_pixel_values` (b c h w): the same picture for the image encoder, if it is to see another size. Settings
        are those of diffusers' pipeline: they take the place of what the batch says, without `augment`.
        """
        images = batch["image_pixel_values"]
        strength = torch.full((len(images),), noise_aug_strength, device=images.device)
        if augment:
            strength = lognormal_sigmas(draws.uniform("image_noise_strength"), *self.image_noise)
        clip_pixels = batch.get("clip_pixel_values", images[:, :, 0])
        image_embeds = batch["image_embeds"] if "image_embeds" in batch else self.image_encoder(clip_pixels)
        image_latents = self._encode_image(images, strength, draws, augment)
        if augment:
            drop_embeds, drop_latents = dropout_bands(draws.uniform("dropout"), self.conditioning_dropout)
            image_embeds = image_embeds * expand_like(~drop_embeds, image_embeds)
            image_latents = image_latents * expand_like(~drop_latents, image_latents)
        ids = [batch["fps"] if fps is None else torch.full_like(strength, fps)]
        ids.append(
            batch["motion_bucket_id"] if motion_bucket_id is None else torch.full_like(strength, motion_bucket_id)
        )
        time_ids = torch.stack([ids[0] - 1, ids[1], strength], dim=1)  # the network was pretrained on fps - 1
        if augment and self.is_original:
            time_ids = time_ids.new_tensor([ORIGINAL_FPS_ID, ORIGINAL_MOTION_BUCKET, 0]).repeat(len(images), 1)
            time_ids[:, 2] = strength[0]
        return SVDConditioning(image_embeds, image_latents, time_ids)

    def draw_timesteps(self, draws: Draws) -> Tensor:
        uniform = draws.uniform("sigmas")
        return cosine_sigmas(uniform) if self.sigma_sampler == "cosine" else lognormal_sigmas(uniform, *self.sigmas)

    def draw_noise(self, draws: Draws, shape: Sequence[int]) -> Tensor:
        """As diffusers' pipeline: of the generator that made the noise on the picture, frames before channels."""
        _, frames, height, width = shape
        _, noise = draws.sequence(
            (3, *self.autoencoder.clip_shape(1, height, width)[1:]), (frames, *shape[:1], *shape[2:])
        )
        return noise.transpose(1, 2)

    def loss(self, latents: Tensor, conditioning: SVDConditioning, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Squared error of each clip, (b,). `latents`, `noise`: (b c f h w); `timesteps`: noise levels s (b,).

        x0 form: (1 + s^2) / s^2 |D - x0|^2; v form: |F - v|^2, which is the same number.
        """
        noisy_latents = add_noise_at(latents, noise, timesteps)
        output = self.predict(noisy_latents, timesteps, conditioning).float()
        if self.loss_form == "v":
            return mean_per_clip(self.emphasize((output - velocity_at(latents, noise, timesteps)) ** 2, conditioning))
        error = (latents_from_output(noisy_latents, output, timesteps) - latents) ** 2
        error = expand_like(edm_scalings(timesteps).weight, error) * error
        return mean_per_clip(self.emphasize(error, conditioning))

    def emphasize(self, error: Tensor, conditioning: Any) -> Tensor:
        """Return the squared error (b c f h w) as it enters the loss. A method that cares more about some places
        overrides it."""
        return error

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: SVDConditioning) -> Tensor:
        scalings, dtype = edm_scalings(timesteps), self.denoiser.dtype
        scaled = expand_like(scalings.input, noisy_latents) * noisy_latents
        image_latents = conditioning.image_latents.expand(-1, -1, noisy_latents.shape[2], -1, -1)
        output = self.denoiser(
            sample=torch.cat([scaled, image_latents], dim=1).transpose(1, 2).to(dtype),  # the library wants b f c h w
            timestep=scalings.noise,
            **self.told(conditioning),
            return_dict=False,
        )[0]
        return output.transpose(1, 2)

    def told(self, conditioning: Any) -> dict[str, Tensor]:
        """Return what the denoiser is told, by the names of its arguments."""
        return {
            "encoder_hidden_states": conditioning.image_embeds.to(self.denoiser.dtype),
            "added_time_ids": conditioning.time_ids,
        }

    def without_image(self, conditioning: Any) -> Any:
        return replace(
            conditioning,
            image_embeds=torch.zeros_like(conditioning.image_embeds),
            image_latents=torch.zeros_like(conditioning.image_latents),
        )

    def unconditional(self, conditioning: Any) -> Any:
        """Return what guidance's other half is told."""
        return self.without_image(conditioning)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        conditioning: SVDConditioning,
        noise: Tensor,
        draws: Draws,
        *,
        num_inference_steps: int = 25,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        drop_image: bool = False,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents by Euler steps over Karras' noise levels from 700 to 0.002, as diffusers' pipeline.

        Guidance rises from the first frame to the last; its unconditional half sees neither embedding nor latents of
        the picture, and is computed only where `max_guidance_scale` is above 1. `drop_image`: the whole clip without.
        """
        conditioning = self.without_image(conditioning) if drop_image else conditioning
        branches = 2 if max_guidance_scale > 1 else 1
        if branches == 2:
            conditioning = self.unconditional(conditioning).beside(conditioning)
        scales = torch.linspace(min_guidance_scale, max_guidance_scale, noise.shape[2], device=noise.device)

        def predict_clean(latents: Tensor, sigma: Tensor) -> Tensor:
            levels = sigma.to(latents.device).expand(branches * len(latents))
            output = self.predict(latents.repeat(branches, 1, 1, 1, 1), levels, conditioning).float()
            if branches == 2:
                unconditional, conditional = output.chunk(2)
                output = guide(unconditional, conditional, scales.reshape(-1, 1, 1))
            return latents_from_output(latents, output, levels[: len(latents)])

        return euler(predict_clean, noise.float(), karras_sigmas(num_inference_steps), on_step)

    def _encode_image(self, images: Tensor, strength: Tensor, draws: Draws, augment: bool) -> Tensor:
        """Return the latents (b c 1 h w) of noised `images`, not scaled: so the network was pretrained."""
        (noise,) = draws.sequence((images.shape[1], *images.shape[-2:]))
        mean, std = self.autoencoder.posterior(images + expand_like(strength, images) * noise[:, :, None])
        if augment and self.is_original:
            mean = self.autoencoder.sample_posterior(mean, std, draws.normal("image_posterior", mean.shape[1:]))
        return mean.float() / self.autoencoder.scaling_factor

    def optimizer_groups(self) -> list[dict[str, Any]]:
        groups = super().optimizer_groups()
        return [{"params": [value for group in groups for value in group["params"]]}] if self.is_original else groups


def check_parts_fit(denoiser: Any, autoencoder: Any, image_encoder: ImageEncoder) -> None:
    """Raise ValueError where the denoiser is none of SVD's, or its widths are not those of its companions."""
    settings, channels = denoiser.config, autoencoder.latent_channels
    if "addition_time_embed_dim" not in settings or not hasattr(autoencoder, "scaling_factor"):
        raise ValueError(f"SVDXtend cannot train a {type(denoiser).__name__}: choose backbone=svd_xt")
    pairs = {
        "in_channels": ("twice the autoencoder's latent channels", 2 * channels),
        "out_channels": ("the autoencoder's latent channels", channels),
        "cross_attention_dim": ("the image encoder's width", image_encoder.embed_dim),
        "projection_class_embeddings_input_dim": (
            "3 * addition_time_embed_dim",
            3 * settings["addition_time_embed_dim"],
        ),
    }
    for name, (what, value) in pairs.items():
        if settings[name] != value:
            raise ValueError(f"backbone.denoiser.{name}={settings[name]} must equal {what}, {value}")
    channels, heads = (settings[name] for name in ("block_out_channels", "num_attention_heads"))
    if [*channels] == SVD_CHANNELS and heads not in (SVD_HEADS, tuple(SVD_HEADS)):
        # No tensor's shape tells: the weights would load, and every attention layer of two levels compute nonsense.
        raise ValueError(
            f"backbone.denoiser.num_attention_heads={heads}: Stable Video Diffusion was trained with {SVD_HEADS}. Old "
            "diffusers wrote another number: correct config.json of the denoiser"
        )
