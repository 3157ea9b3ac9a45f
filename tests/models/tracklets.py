"""A tiny network with boxes, and what it is told."""

import torch

from likeness.models.denoisers.tracklet_unet import TrackletUNet, load_tracklet_unet

STOCK = {
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    "block_out_channels": [32, 64],
    "num_attention_heads": [2, 4],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
}


def tiny(gate: float = 0.0, seed: int = 0, stock: dict | None = None, **settings) -> TrackletUNet:
    """A network of random weights. `gate`: of fusers and injectors, before tanh; every other new tensor is random."""
    denoiser = load_tracklet_unet(config={**STOCK, **(stock or {})}, seed=seed, initial_gate=gate, **settings)
    generator = torch.Generator().manual_seed(seed)
    for name, value in denoiser.named_parameters():
        if "null_" in name or "instance_embedding" in name:
            value.data = torch.randn(value.shape, generator=generator)
    return denoiser.eval()


def inputs_of(count: int = 2, num_frames: int = 3, size: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(count, num_frames, 8, size, size, generator=generator),
        "timestep": torch.tensor([0.4, -0.3])[:count],
        "encoder_hidden_states": torch.randn(count, 1, 32, generator=generator),
        "added_time_ids": torch.tensor([[6.0, 127, 0.02], [24.0, 40, 0.1]])[:count],
    }


def boxes_of(count: int = 2, num_frames: int = 3, num_slots: int = 4, box_dim: int = 7) -> dict[str, torch.Tensor]:
    """Boxes of each slot in each frame; the last slot is free in all, others now and then."""
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(count, num_frames, num_slots, 2, 2, generator=generator).sort(dim=-2).values.flatten(-2)
    others = torch.rand(count, num_frames, num_slots, box_dim - 4, generator=generator)
    masks = (torch.rand(count, num_frames, num_slots, generator=generator) < 0.7).float()
    masks[..., :1], masks[..., -1:] = 1, 0
    return {"boxes": torch.cat([corners, others], dim=-1), "masks": masks}
