"""Where clean reference frames stand in the sequence of a denoiser, and how that denoiser is called."""

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from ..autoencoders import VideoAutoencoder
from ..text_encoders import TextEncoder


class ReferencePlacement(ABC):
    """One kind of denoiser, seen as: noisy clip and clean references in, prediction for the clip out. No weights."""

    # The denoiser's setting for the width of text embeddings, and one that only this kind of denoiser has.
    text_width_setting: str
    distinctive_setting: str

    @abstractmethod
    def __call__(
        self, denoiser: Any, noisy_latents: Tensor, reference_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """Return the output (b c f h w) for the clip alone.

        `noisy_latents`: (b c f h w); `reference_latents`: (b c k h w), k = 0 for none; `timesteps`: (b,);
        `prompt_embeds`: (b n d). All in the denoiser's dtype but the timesteps.
        """

    def prepare(self, denoiser: Any, autoencoder: VideoAutoencoder, text_encoder: TextEncoder) -> None:
        """Make `denoiser` ready. Raises ValueError where it is of another kind or does not fit its companions."""
        config = denoiser.config
        if self.distinctive_setting not in config:
            raise ValueError(
                f"{type(self).__name__} cannot place references in a {type(denoiser).__name__}: choose backbone and "
                "model of one family, e.g. model=concat_id for CogVideoX, model=concat_id_wan for Wan"
            )
        pairs = {
            "in_channels": ("the autoencoder's latent channels", autoencoder.latent_channels),
            "out_channels": ("the autoencoder's latent channels", autoencoder.latent_channels),
            self.text_width_setting: ("the text encoder's width", text_encoder.embed_dim),
        }
        for name, (what, value) in pairs.items():
            if config[name] != value:
                raise ValueError(f"backbone.denoiser.{name}={config[name]} must equal {what}, {value}")


class CogVideoXPlacement(ReferencePlacement):
    """`CogVideoXTransformer3DModel`: references are further frames of the clip, with the times that follow it.

    The 5B network is given rotary tables of those times, the 2B one adds tables of its own for as many frames.
    """

    text_width_setting = "text_embed_dim"
    distinctive_setting = "use_rotary_positional_embeddings"

    def prepare(self, denoiser: Any, autoencoder: VideoAutoencoder, text_encoder: TextEncoder) -> None:
        super().prepare(denoiser, autoencoder, text_encoder)
        config = denoiser.config
        if not config.use_rotary_positional_embeddings and config.max_text_seq_length != text_encoder.max_length:
            raise ValueError(
                f"backbone.denoiser.max_text_seq_length={config.max_text_seq_length} must equal the text encoder's "
                f"max_length, {text_encoder.max_length}: the positions of the 2B network start behind the text"
            )
        # The original's final norm has 1e-6, the stock class gives it the blocks' 1e-5: 1.5e-5 on the output.
        denoiser.norm_out.norm.eps = 1e-6

    def __call__(
        self, denoiser: Any, noisy_latents: Tensor, reference_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        sequence = torch.cat([noisy_latents, reference_latents], dim=2)
        check_patches(sequence, denoiser.config.patch_size)
        output = denoiser(
            hidden_states=sequence.transpose(1, 2),  # the library wants b f c h w
            encoder_hidden_states=prompt_embeds,
            timestep=timesteps,
            image_rotary_emb=self.positions(denoiser, sequence),
            return_dict=False,
        )[0]
        return output.transpose(1, 2)[:, :, : noisy_latents.shape[2]]

    def positions(self, denoiser: Any, sequence: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the rotary tables of integer (t, y, x), one row a token of `sequence` (b c f h w).

        None for the 2B network: it adds tables of the same (t, y, x) itself, for as many frames as it is given.
        """
        config = denoiser.config
        if not config.use_rotary_positional_embeddings:
            return None
        grid = (sequence.shape[-2] // config.patch_size, sequence.shape[-1] // config.patch_size)
        tables = get_3d_rotary_pos_embed(
            config.attention_head_dim, ((0, 0), grid), grid, sequence.shape[2], device=sequence.device
        )
        return cast(tuple[Tensor, Tensor], tables)


def check_patches(latents: Tensor, patch_size: int) -> None:
    """Raise ValueError where `latents` (b c f h w) do not divide into patches: the denoiser would cut the rest off."""
    height, width = latents.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"latents of {height} x {width} do not divide into the denoiser's patches of {patch_size} x {patch_size}: "
            f"datamodule.height and datamodule.width must be multiples of {patch_size} times the autoencoder's stride"
        )
