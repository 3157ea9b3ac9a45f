"""Tiny networks of the stock classes, and files of theirs as SAT and DeepSpeed write them."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from likeness.checkpoints.sat import TRANSFORMER_PREFIX, transformer_to_sat, vae_to_sat


def tiny_transformer(seed: int = 0, **settings) -> CogVideoXTransformer3DModel:
    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "num_layers": 3}
    return CogVideoXTransformer3DModel(
        **{**sizes, "time_embed_dim": 8, "text_embed_dim": 16, "use_rotary_positional_embeddings": True, **settings}
    )


def tiny_vae(seed: int = 0) -> AutoencoderKLCogVideoX:
    torch.manual_seed(seed)
    return AutoencoderKLCogVideoX(
        latent_channels=4, block_out_channels=[32, 32, 32, 32], layers_per_block=1, scaling_factor=0.7
    )


def write_sat(folder: Path, model, iteration: str = "1", latest: str | None = "1") -> Path:
    """Write a folder as SAT publishes it; return it."""
    (folder / iteration).mkdir(parents=True)
    torch.save({"module": transformer_to_sat(model.state_dict())}, folder / iteration / "mp_rank_00_model_states.pt")
    if latest is not None:
        (folder / "latest").write_text(latest)
    return folder


def write_fine_tuned_sat(path: Path, model) -> Path:
    """Write a file as fine-tuning leaves it: text encoder, VAE, computed tables, random states beside the network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    others = {
        "conditioner.embedders.0.transformer.shared.weight": torch.zeros(2, 2),
        "first_stage_model.encoder.conv_in.conv.weight": torch.zeros(2, 2),
        f"{TRANSFORMER_PREFIX}mixins.pos_embed.freqs_sin": torch.zeros(2, 2),
    }
    states = {
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),  # noqa: NPY002 (what SAT writes)
        "torch_rng_state": torch.get_rng_state(),
        "client_lr_scheduler": {"num_iters": 5},
        "iteration": 5,
    }
    torch.save({"module": transformer_to_sat(model.state_dict()) | others, **states}, path)
    return path


def write_sat_vae(path: Path, vae) -> Path:
    torch.save({"state_dict": vae_to_sat(vae.state_dict()) | {"loss.logvar": torch.zeros(1)}}, path)
    return path


def same(first, second) -> bool:
    """Return whether two mappings hold the same tensors, bit for bit."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def loaded(source) -> dict[str, torch.Tensor]:
    return {name: tensor.load() for name, tensor in source.tensors.items()}
