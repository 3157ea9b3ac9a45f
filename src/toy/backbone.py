"""What stands in for a pretrained VAE and encoders in the toy world: fixed, tiny, exact and without any weights."""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.autoencoders import VideoAutoencoder
from ..models.image_encoders import ImageEncoder
from ..models.text_encoders import TextEncoder

BLOCK = 4
NUM_LUMA, NUM_CHROMA = 10, 3
# ITU-R BT.601: rows are Y, Cb, Cr of R, G, B, all with the range [-1, 1] for pixels in [-1, 1].
RGB_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


class ToyAutoencoder(VideoAutoencoder):
    """The 16 lowest DCT coefficients of each 4 x 4 block (10 of brightness, 3 of each colour difference), scaled.

    Spatial stride 4, no temporal stride. The factor is global: channels keep their natural variances, as a VAE's do not
    quite, because whitening them makes the toy tasks learn several times more slowly.
    """

    latent_channels = NUM_LUMA + 2 * NUM_CHROMA
    spatial_stride = BLOCK
    temporal_stride = 1
    analysis: Tensor
    synthesis: Tensor

    def __init__(self, *, scaling_factor: float = 0.8):
        super().__init__()
        self.scaling_factor = scaling_factor
        basis = _lowest_dct_filters()
        filters = torch.cat(
            [
                torch.einsum("c,nyx->ncyx", RGB_TO_YCC[plane], basis[:count])
                for plane, count in ((0, NUM_LUMA), (1, NUM_CHROMA), (2, NUM_CHROMA))
            ]
        )
        self.register_buffer("analysis", filters, persistent=False)
        inverse = torch.linalg.inv(RGB_TO_YCC)
        synthesis = torch.cat(
            [
                torch.einsum("c,nyx->ncyx", inverse[:, plane], basis[:count])
                for plane, count in ((0, NUM_LUMA), (1, NUM_CHROMA), (2, NUM_CHROMA))
            ]
        )
        self.register_buffer("synthesis", synthesis, persistent=False)

    def posterior(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        frames = pixel_values.transpose(1, 2).flatten(0, 1).float()
        latents = torch.nn.functional.conv2d(frames, self.analysis, stride=BLOCK) * self.scaling_factor
        latents = latents.unflatten(0, (len(pixel_values), -1)).transpose(1, 2)
        return latents, torch.zeros_like(latents)

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents.transpose(1, 2).flatten(0, 1).float() / self.scaling_factor
        pixels = torch.nn.functional.conv_transpose2d(frames, self.synthesis, stride=BLOCK)
        return pixels.unflatten(0, (len(latents), -1)).transpose(1, 2).clamp(-1, 1)


class ToyTextEncoder(TextEncoder):
    """One fixed random vector a word (seeded by its spelling), plus a sinusoidal code of its place; then zeros."""

    def __init__(self, *, embed_dim: int = 64, max_length: int = 24):
        super().__init__()
        self.embed_dim, self.max_length = embed_dim, max_length
        self.register_buffer("device_marker", torch.zeros(()), persistent=False)
        self.device_marker: Tensor
        self._words: dict[str, Tensor] = {}
        rates = 10.0 ** -torch.linspace(0, 2, embed_dim // 2)
        angles = torch.arange(max_length)[:, None] * rates
        self._places = torch.cat([angles.sin(), angles.cos()], dim=1)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        embeds = torch.zeros(len(prompts), self.max_length, self.embed_dim)
        for row, prompt in zip(embeds, prompts, strict=True):
            for place, word in enumerate(re.findall(r"[a-z0-9]+", prompt.lower())[: self.max_length]):
                row[place] = self._vector(word) + self._places[place]
        return embeds.to(self.device_marker.device)

    def _vector(self, word: str) -> Tensor:
        if word not in self._words:
            generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
            self._words[word] = torch.randn(self.embed_dim, generator=generator)
        return self._words[word]


class ToyImageEncoder(ImageEncoder):
    """One token: the picture at 4 x 4 pixels, in fixed random directions of `embed_dim` numbers."""

    directions: Tensor

    def __init__(self, *, embed_dim: int = 64):
        super().__init__()
        self.embed_dim = embed_dim
        directions = torch.randn(3 * 16, embed_dim, generator=torch.Generator().manual_seed(0)) / embed_dim**0.5
        self.register_buffer("directions", directions, persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        thumbnails = torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1)
        return (thumbnails @ self.directions)[:, None]


def _lowest_dct_filters() -> Tensor:
    """Return the orthonormal 4 x 4 DCT-II basis images (16 4 4), ordered by frequency along diagonals."""
    place, frequency = np.meshgrid(np.arange(BLOCK), np.arange(BLOCK))
    rows = np.cos(np.pi * (place + 0.5) * frequency / BLOCK) * np.where(
        frequency == 0, (1 / BLOCK) ** 0.5, (2 / BLOCK) ** 0.5
    )
    order = sorted(((u, v) for u in range(BLOCK) for v in range(BLOCK)), key=lambda uv: (uv[0] + uv[1], uv))
    return torch.from_numpy(np.stack([np.outer(rows[u], rows[v]) for u, v in order])).float()
