"""Which network a set of tensors belongs to: its configuration from the shapes, and whether every tensor fits."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TRANSFORMER, VAE = "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX"

# The VAE of CogVideoX-5B and so of Concat-ID; the class's own default is that of the 2B model, of the same shapes.
_VAE_SCALING_FACTOR = 0.7
_WIDTH_2B = 1920


def find_class(name: str) -> Any:
    """Return the model class of a dotted name, or of a name in diffusers. Raises ValueError where there is none."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "diffusers"), attribute, None)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError(f"there is no model class {name}")
    return found


def empty_model(model_class: Any, config: Mapping[str, Any]) -> Any:
    """Return a model of that configuration without memory for its tensors."""
    with torch.device("meta"):
        return model_class.from_config(dict(config))


def transformer_config(tensors: Mapping[str, Any], shape_of: Callable[[str], tuple[int, ...]]) -> dict[str, Any]:
    """Return the settings of a `CogVideoXTransformer3DModel` with rotary positions that holds `tensors`.

    CogVideoX-2B, whose positions are not rotary and whose tensors have the same names, is refused by its width.

    `shape_of(name)`: the shape of a tensor. Its default settings, those of CogVideoX-5B, stand for what no shape tells:
    the numbers of frames, height, width and text tokens that it was trained with. Raises ValueError where the shapes
    are none of such a network.
    """
    width, in_channels, *patch = _of_rank(shape_of, "patch_embed.proj.weight", 4)
    time_dim, head_dim = (
        shape_of("time_embedding.linear_1.weight")[0],
        shape_of("transformer_blocks.0.attn1.norm_q.weight")[0],
    )
    if patch[0] != patch[1] or width % head_dim:
        raise ValueError(f"patches of {patch} and {width} channels with heads of {head_dim} are not those of CogVideoX")
    if width == _WIDTH_2B:
        raise ValueError(
            f"{width} channels are those of CogVideoX-2B, whose positions are not rotary: name its folder in diffusers "
            "layout, whose config.json says so"
        )
    return {
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": 1 + _last_index(tensors, "transformer_blocks."),
        "in_channels": in_channels,
        "out_channels": shape_of("proj_out.weight")[0] // patch[0] ** 2,
        "time_embed_dim": time_dim,
        "text_embed_dim": _of_rank(shape_of, "patch_embed.text_proj.weight", 2)[1],
        "patch_size": patch[0],
        "use_rotary_positional_embeddings": True,
    }


def vae_config(tensors: Mapping[str, Any], shape_of: Callable[[str], tuple[int, ...]]) -> dict[str, Any]:
    """Return the settings of an `AutoencoderKLCogVideoX` that holds `tensors`. See `transformer_config`."""
    levels = 1 + _last_index(tensors, "encoder.down_blocks.")
    channels = [shape_of(f"encoder.down_blocks.{level}.resnets.0.conv1.conv.weight")[0] for level in range(levels)]
    return {
        "in_channels": _of_rank(shape_of, "encoder.conv_in.conv.weight", 5)[1],
        "out_channels": shape_of("decoder.conv_out.conv.weight")[0],
        "latent_channels": shape_of("encoder.conv_out.conv.weight")[0] // 2,
        "block_out_channels": channels,
        "down_block_types": ["CogVideoXDownBlock3D"] * levels,
        "up_block_types": ["CogVideoXUpBlock3D"] * levels,
        "layers_per_block": 1 + _last_index(tensors, "encoder.down_blocks.0.resnets."),
        "scaling_factor": _VAE_SCALING_FACTOR,
    }


def check_fit(path: Path, network: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the first tensor of `found`, read from `path`, that is missing, foreign or misshapen."""
    for what, names in (
        ("is missing", expected.keys() - found.keys()),
        ("is none of it", found.keys() - expected.keys()),
    ):
        if names:
            first = min(names)
            raise ValueError(f"{path} does not hold a {network}: {first} {what} ({len(names)} such tensors)")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{path} does not hold a {network}: {name} has shape {tuple(found[name].shape)} instead of "
                f"{tuple(tensor.shape)}, which its other tensors or its configuration make it"
            )


def _of_rank(shape_of: Callable[[str], tuple[int, ...]], name: str, rank: int) -> tuple[int, ...]:
    shape = shape_of(name)
    if len(shape) != rank:
        raise ValueError(f"{name} has shape {shape}, where CogVideoX has {rank} dimensions")
    return shape


def _last_index(names: Mapping[str, Any], prefix: str) -> int:
    indices = [name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)]
    return max((int(index) for index in indices if index.isdigit()), default=0)
