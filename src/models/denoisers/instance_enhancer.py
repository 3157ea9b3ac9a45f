"""What objects look like, told to the network again: features under each box, followed over the frames.

Source: TrackDiffusion, arXiv 2312.00651, code of branch main (ModelScope), where it is a part of the decoder.
"""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .position_net import TRACK_DIM


def box_features(feature_map: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean of `feature_map` (b c h w) under each of `boxes` (b k 4), xyxy in [0, 1]: (b k c).

    It is RoIAlign with one bin, without the half-pixel shift (torchvision: `aligned=False`): bilinear values at the
    centres of ceil(width) x ceil(height) cells, where a box has at least one pixel a side. As a bilinear value is a
    product over the axes and the cells are a grid, the mean is one, too: a row and a column of weights a box.
    """
    height, width = feature_map.shape[-2:]
    columns = _axis_weights(boxes[..., 0], boxes[..., 2], width)
    rows = _axis_weights(boxes[..., 1], boxes[..., 3], height)
    return torch.einsum("bchw,bkh,bkw->bkc", feature_map, rows.to(feature_map.dtype), columns.to(feature_map.dtype))


def _axis_weights(first: Tensor, last: Tensor, length: int) -> Tensor:
    """Return how much each of `length` pixels counts in the mean from `first` to `last` (b k) in [0, 1]: (b k n)."""
    start = first.float() * length
    size = (last.float() * length - start).clamp(min=1)
    num_cells = size.ceil()
    cells = torch.arange(int(num_cells.max()) if num_cells.numel() else 0, device=first.device)
    places = start[..., None] + (cells + 0.5) * (size / num_cells)[..., None]
    # A place up to one pixel outside takes the value of the border, one further away none.
    counts = (cells < num_cells[..., None]) & (places >= -1) & (places <= length)
    distances = places.clamp(0, length - 1)[..., None] - torch.arange(length, device=first.device)
    hats = (1 - distances.abs()).clamp(min=0) * counts[..., None]
    return hats.sum(dim=-2) / num_cells[..., None]


class InstanceInjector(nn.Module):
    """Image tokens look at one token an object, made of its features and its path; closed gates at first."""

    def __init__(self, dim: int, num_heads: int, head_dim: int):
        super().__init__()
        self.linears = nn.Sequential(
            nn.Linear(dim + TRACK_DIM, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.attn1 = Attention(dim, heads=num_heads, dim_head=head_dim)
        self.attn2 = Attention(dim, cross_attention_dim=dim, heads=num_heads, dim_head=head_dim)
        self.ff = FeedForward(dim, activation_fn="geglu")
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.alpha_attn, self.alpha_dense = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def forward(self, hidden_states: Tensor, features: Tensor, paths: Tensor) -> Tensor:
        """`hidden_states` (b*f n c); `features` (b*f k c) under the boxes; `paths` (b f k 128)."""
        batch_size = len(paths)
        objects = self.linears(torch.cat([features, paths.flatten(0, 1)], dim=-1))
        over_frames = objects.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(0, 1)  # b k, then f c
        over_frames = over_frames + self.attn1(self.norm1(over_frames))
        objects = over_frames.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(0, 1)
        attention = self.attn2(self.norm2(hidden_states), encoder_hidden_states=objects)
        hidden_states = hidden_states + self.alpha_attn.tanh() * attention
        return hidden_states + self.alpha_dense.tanh() * self.ff(self.norm3(hidden_states))
