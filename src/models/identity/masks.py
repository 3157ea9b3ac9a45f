"""Masks of the face on the grid of the latents."""

import torch.nn.functional as F
from torch import Tensor


def latent_mask(mask: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Return `mask` (b 1 f h w), 0 and 1, at the `size` (frames, height, width) of the latents, values in [0, 1].

    Trilinear over all frames at once, without antialiasing and not made 0 and 1 again: each latent cell reads its
    centre. Source: ConsisID's released code, dynamic mask loss (arXiv 2411.17440, section 3.3).
    """
    return F.interpolate(mask.float(), size=size, mode="trilinear", align_corners=False)
