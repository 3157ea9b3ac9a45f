"""Boxes as tokens: Fourier features of place and identity through a small network.

Source: GLIGEN, arXiv 2301.07093, section 3, as TrackDiffusion has it (branch SVD; instances: branch main).
"""

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

NUM_FREQUENCIES, TEMPERATURE = 8, 100.0
HIDDEN = 512
TRACK_DIM, TRACK_HEADS = 128, 4
FEATURES_PER_NUMBER = 2 * NUM_FREQUENCIES


def fourier(values: Tensor) -> Tensor:
    """Return features (... 16 d) of `values` (... d): for f = 100^(i / 8), i = 0..7, all sin(f v), then all cos(f v).

    Always float32: 16 bits do not tell neighbouring pixels apart.
    """
    exponents = torch.arange(NUM_FREQUENCIES, device=values.device, dtype=torch.float32) / NUM_FREQUENCIES
    angles = values.float()[..., None, :] * (TEMPERATURE**exponents)[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class PositionNet(nn.Module):
    """One token of `out_dim` numbers a slot. A masked slot has a learned token, whatever its box says.

    `box_dim`: numbers of a box; `label_dim`: of what a slot is, beside where it is; 0: nothing is said.
    """

    def __init__(self, *, out_dim: int, box_dim: int, label_dim: int = 0):
        super().__init__()
        self.out_dim, self.feature_dim = out_dim, FEATURES_PER_NUMBER * box_dim
        self.null_position_feature = nn.Parameter(torch.zeros(self.feature_dim))
        self.null_positive_feature = nn.Parameter(torch.zeros(label_dim)) if label_dim else None
        self.linears = nn.Sequential(
            nn.Linear(label_dim + self.feature_dim, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, out_dim),
        )
        self.instance_embedding: nn.Embedding | None = None

    def add_instances(self, num_slots: int) -> None:
        """Add what the instance enhancer needs: an embedding of each slot, zero at first, and of each slot's path."""
        self.instance_embedding = nn.Embedding(num_slots, self.out_dim)
        nn.init.zeros_(self.instance_embedding.weight)
        self.tracklet_norm = nn.LayerNorm(self.feature_dim)
        self.tracklet_attn = Attention(self.feature_dim, heads=TRACK_HEADS, dim_head=TRACK_DIM // TRACK_HEADS)
        self.tracklet_linears = nn.Sequential(
            nn.Linear(self.feature_dim, TRACK_DIM), nn.SiLU(), nn.Linear(TRACK_DIM, TRACK_DIM)
        )

    def forward(self, boxes: Tensor, masks: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return tokens (b f k d) and, with instances, embeddings of paths (b f k 128).

        `boxes` (b f k n); `masks` (b f k): 1 where a slot has a box; `labels` (b f k l).
        """
        masks = masks[..., None].float()
        places = torch.lerp(self.null_position_feature.float(), fourier(boxes), masks)
        features = places
        if self.null_positive_feature is not None:
            if labels is None:
                raise ValueError("the position net was made for labels (label_dim), none were given")
            features = torch.cat(
                [torch.lerp(self.null_positive_feature.float(), labels.float(), masks), places], dim=-1
            )
        dtype = self.null_position_feature.dtype
        tokens = self.linears(features.to(dtype))
        if self.instance_embedding is None:
            return tokens, None
        num_slots = boxes.shape[2]
        if num_slots > self.instance_embedding.num_embeddings:
            raise ValueError(
                f"{num_slots} slots were given, the instance enhancer has {self.instance_embedding.num_embeddings}: "
                "backbone.denoiser.num_slots"
            )
        return tokens + self.instance_embedding.weight[:num_slots], self._paths(places.to(dtype))

    def _paths(self, places: Tensor) -> Tensor:
        """Return an embedding (b f k 128) of each slot's features (b f k p), which look at those of other frames."""
        batch_size = len(places)
        places = places.transpose(1, 2).flatten(0, 1)  # b k, then f p
        places = places + self.tracklet_attn(self.tracklet_norm(places))
        return self.tracklet_linears(places).unflatten(0, (batch_size, -1)).transpose(1, 2)
