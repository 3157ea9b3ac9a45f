"""Image encoders: pictures in, `image_embeds` (b n d) out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .frozen import FrozenPart
from .loading import load_frozen

CLIP_SIZE = 224  # fixed in diffusers' pipeline, too
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(FrozenPart, ABC):
    """Frozen map from pictures to embeddings of a fixed number of tokens."""

    embed_dim: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return `image_embeds` (b n d) of `images` (b 3 h w) in [-1, 1]."""


class CLIPImageEncoder(ImageEncoder):
    """`CLIPVisionModelWithProjection` as Stable Video Diffusion uses it: the projected embedding, one token.

    Pictures of any size are squeezed into 224 x 224; one that has that size already is not changed. `pretrained`: a
    folder in diffusers layout, or `config`: of random weights made with `seed`.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        dtype: str = "float32",
    ):
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        self.encoder = load_frozen(
            CLIPVisionModelWithProjection, pretrained=pretrained, config=config, seed=seed, dtype=dtype
        )
        self.embed_dim = self.encoder.config.projection_dim

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        pixels = clip_normalised(antialiased_resize(images.float(), (CLIP_SIZE, CLIP_SIZE)))
        return self.encoder(pixels.to(self.encoder.dtype)).image_embeds[:, None]


def clip_normalised(images: Tensor) -> Tensor:
    """Return `images` (b 3 h w) in [-1, 1] with CLIP's mean and deviation."""
    mean, std = (torch.tensor(values, device=images.device).reshape(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((images + 1) / 2 - mean) / std


def antialiased_resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `images` (b c h w) at `size` (height, width): a Gaussian against aliases, then bicubic interpolation.

    Corners are aligned, nothing is clamped. Source: `_resize_with_antialiasing` of diffusers and SVD Xtend.
    """
    for axis in (-1, -2):
        images = _blurred(images, axis, images.shape[axis] / size[axis])
    return F.interpolate(images, size=size, mode="bicubic", align_corners=True)


def _blurred(images: Tensor, axis: int, factor: float) -> Tensor:
    """Smooth one axis for a reduction by `factor`: sigma = (factor - 1) / 2, mirrored at the edges."""
    sigma = max((factor - 1) / 2, 0.001)
    num_taps = int(max(4 * sigma, 3)) // 2 * 2 + 1
    places = torch.arange(num_taps, device=images.device, dtype=images.dtype) - num_taps // 2
    taps = torch.exp(-(places**2) / (2 * torch.tensor(sigma, dtype=images.dtype) ** 2))
    shape, half = (1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1), num_taps // 2
    edges = (0, 0, half, half) if axis == -2 else (half, half, 0, 0)
    padded = F.pad(images, edges, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, (taps / taps.sum()).reshape(shape)).reshape(images.shape)
