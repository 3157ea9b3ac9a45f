"""Between pixels and latents: one interface over the library's VAEs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .frozen import FrozenPart
from .loading import load_frozen

FRAMES_OF_A_SLICE = 4  # that Stable Video Diffusion's autoencoder decodes together where memory is short


class VideoAutoencoder(FrozenPart, ABC):
    """Frozen map between clips (b 3 f h w) in [-1, 1] and latents (b c f h w) scaled to about unit variance."""

    latent_channels: int
    spatial_stride: int
    temporal_stride: int
    scaling_factor: float  # where one factor is all that lies between the library's latents and these

    @abstractmethod
    def posterior(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (b c f h w) of the latents of `pixel_values`."""

    def encode(self, pixel_values: Tensor, noise: Tensor) -> Tensor:
        """Return latents, a sample of the posterior made with standard normal `noise` of the latents' shape."""
        return self.sample_posterior(*self.posterior(pixel_values), noise)

    @staticmethod
    def sample_posterior(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Return a sample of a posterior. All (b c f h w)."""
        return mean + std * noise.to(mean.dtype)

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return the pixels of `latents`, clamped to [-1, 1]."""

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (c, f, h, w) of the latents of a clip. Raises ValueError where the strides do not fit."""
        if (num_frames - 1) % self.temporal_stride:
            lower = (num_frames - 1) // self.temporal_stride * self.temporal_stride + 1
            raise ValueError(
                f"num_frames={num_frames} does not fit the autoencoder's temporal stride {self.temporal_stride}: use "
                f"{self.temporal_stride} * n + 1 ({lower} or {lower + self.temporal_stride}), datamodule.num_frames"
            )
        for name, size in (("height", height), ("width", width)):
            if size % self.spatial_stride:
                raise ValueError(
                    f"{name}={size} is not a multiple of the autoencoder's spatial stride {self.spatial_stride}: "
                    f"datamodule.{name}"
                )
        frames = (num_frames - 1) // self.temporal_stride + 1
        return self.latent_channels, frames, height // self.spatial_stride, width // self.spatial_stride

    def clip_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return frames, height and width of the clip that latents (b c f h w) of this size stand for."""
        return (num_frames - 1) * self.temporal_stride + 1, height * self.spatial_stride, width * self.spatial_stride


class CogVideoXAutoencoder(VideoAutoencoder):
    """`AutoencoderKLCogVideoX`: temporal stride 4, spatial stride 8 at full size.

    `pretrained`: a folder in diffusers layout, or `config`: keyword arguments of the class, for random weights made
    with `seed`. `num_frames_per_encode`: how many frames go through the encoder at once; GroupNorm sees all frames of
    such a chunk, so this changes the latents: Concat-ID encodes whole clips in one pass, diffusers' default is 8.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
        num_frames_per_encode: int = 49,
        tiling: bool = False,
        slicing: bool = False,
    ):
        super().__init__()
        from diffusers import AutoencoderKLCogVideoX

        self.vae = load_frozen(AutoencoderKLCogVideoX, pretrained=pretrained, config=config, seed=seed, dtype=dtype)
        self.vae.num_sample_frames_batch_size = num_frames_per_encode
        if tiling:
            self.vae.enable_tiling()
        if slicing:
            self.vae.enable_slicing()
        settings = self.vae.config
        self.latent_channels = settings.latent_channels
        self.spatial_stride = 2 ** (len(settings.block_out_channels) - 1)
        self.temporal_stride = int(settings.temporal_compression_ratio)
        self.scaling_factor = float(settings.scaling_factor)

    def posterior(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixel_values.to(self.vae.dtype)).latent_dist
        return posterior.mean * self.scaling_factor, posterior.std * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        latents, num_frames = latents.to(self.vae.dtype) / self.scaling_factor, latents.shape[2]
        if num_frames > 1 and num_frames % 2 == 0:
            # The decoder's time upsampling keeps the first frame single only where the count is odd: an even number of
            # latent frames gives four pixel frames each. One more, cut off afterwards, changes nothing before it.
            latents = torch.cat([latents, latents[:, :, -1:]], dim=2)
        pixel_values = self.vae.decode(latents).sample
        return pixel_values[:, :, : (num_frames - 1) * self.temporal_stride + 1].clamp(-1, 1)


class WanAutoencoder(VideoAutoencoder):
    """`AutoencoderKLWan`: temporal stride 4, spatial stride 8, every channel normalised by its own mean and deviation.

    Its posterior is the mean alone, without deviation: so do Wan's own code and DiffSynth, on which Concat-ID's Wan
    variant was trained. `pretrained`, `config`, `seed`: as in `CogVideoXAutoencoder`.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
        tiling: bool = False,
        slicing: bool = False,
    ):
        super().__init__()
        from diffusers import AutoencoderKLWan

        self.vae = load_frozen(AutoencoderKLWan, pretrained=pretrained, config=config, seed=seed, dtype=dtype)
        if tiling:
            self.vae.enable_tiling()
        if slicing:
            self.vae.enable_slicing()
        settings = self.vae.config
        self.latent_channels = settings.z_dim
        self.spatial_stride, self.temporal_stride = settings.scale_factor_spatial, settings.scale_factor_temporal
        for name in ("latents_mean", "latents_std"):
            if len(settings[name]) != settings.z_dim:
                raise ValueError(
                    f"backbone.autoencoder.config.{name} has {len(settings[name])} values, z_dim={settings.z_dim} "
                    "needs one a channel"
                )
            self.register_buffer(name, torch.tensor(settings[name]).reshape(1, -1, 1, 1, 1), persistent=False)

    def posterior(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.vae.encode(pixel_values.to(self.vae.dtype)).latent_dist.mode()
        mean = (mean.float() - self.latents_mean) / self.latents_std
        return mean, torch.zeros_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.float() * self.latents_std + self.latents_mean
        return self.vae.decode(latents.to(self.vae.dtype)).sample.clamp(-1, 1)


class TemporalDecoderAutoencoder(VideoAutoencoder):
    """`AutoencoderKLTemporalDecoder` of Stable Video Diffusion: spatial stride 8, every frame encoded by itself.

    Its decoder looks at neighbouring frames. `pretrained`, `config`, `seed`: as in `CogVideoXAutoencoder`.
    `num_frames_per_encode`: how many frames go through the encoder at once, None for all of a batch: less memory, the
    same latents. Autocast has no effect on it: in 16 bits of floats its activations overflow.
    """

    temporal_stride = 1

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
        num_frames_per_encode: int | None = None,
    ):
        super().__init__()
        from diffusers import AutoencoderKLTemporalDecoder

        if num_frames_per_encode is not None and num_frames_per_encode < 1:
            raise ValueError(
                f"num_frames_per_encode={num_frames_per_encode} must be at least 1: "
                "backbone.autoencoder.num_frames_per_encode"
            )
        self.vae: Any = load_frozen(
            AutoencoderKLTemporalDecoder, pretrained=pretrained, config=config, seed=seed, dtype=dtype
        )
        self.num_frames_per_encode = num_frames_per_encode
        self.use_tiling = self.use_slicing = False  # as the library's other autoencoders have it; this one has no tiles
        settings = self.vae.config
        self.latent_channels = settings.latent_channels
        self.spatial_stride = 2 ** (len(settings.block_out_channels) - 1)
        self.scaling_factor = float(settings.scaling_factor)

    def posterior(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        frames = pixel_values.transpose(1, 2).flatten(0, 1).to(self.vae.dtype)
        with torch.autocast(frames.device.type, enabled=False):
            parts = [
                self.vae.encode(part).latent_dist for part in frames.split(self.num_frames_per_encode or len(frames))
            ]
        mean, std = (
            torch.cat([getattr(part, name) for part in parts]).unflatten(0, (len(pixel_values), -1)).transpose(1, 2)
            for name in ("mean", "std")
        )
        return mean * self.scaling_factor, std * self.scaling_factor

    def decode(self, latents: Tensor, *, decode_chunk_size: int | None = None) -> Tensor:
        """`decode_chunk_size`: frames decoded together; less memory, slightly other pixels at their borders. None: all,
        or FRAMES_OF_A_SLICE where memory is short (`use_slicing`).
        """
        size = decode_chunk_size or (FRAMES_OF_A_SLICE if self.use_slicing else latents.shape[2])
        scaled = (1 / self.scaling_factor * latents).to(self.vae.dtype).transpose(1, 2)  # the library wants b f c h w
        with torch.autocast(latents.device.type, enabled=False):
            clips = [
                torch.cat([self.vae.decode(part, num_frames=len(part)).sample for part in clip.split(size)])
                for clip in scaled
            ]
        return torch.stack(clips).transpose(1, 2).float().clamp(-1, 1)
