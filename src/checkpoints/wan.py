"""Wan's original names for the tensors of its transformer, to and from diffusers' names, as pure functions.

Every rule is a renaming, so both directions are exact. The references' own modulation (Concat-ID's AdaLN variant) is
expected as `blocks.N.modulation_ref` and `time_projection_ref.1`: the released files were not at hand, their names
follow from the tensors that these are copies of. Any other key is refused. Source: Wan2.1 repository, `model.py`.
"""

import re
from collections.abc import Mapping

from torch import Tensor

# What tools put before the names: ComfyUI and the DiffSynth trainer.
PREFIXES = ("model.diffusion_model.", "pipe.dit.")

_LAYERS = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
_BLOCK_LAYERS = {
    **{
        f"{ours}.{name}": f"{stock}.{stock_name}"
        for ours, stock in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for name, stock_name in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    },
    "norm3": "norm2",  # of cross-attention; the other norms have no weights
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
_BLOCK_TENSORS = {
    **{
        f"{ours}.norm_{name}.weight": f"{stock}.norm_{name}.weight"
        for ours, stock in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for name in "qk"
    },
    "modulation": "scale_shift_table",
}


def transformer_from_wan(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `ReferenceWanTransformer`.

    Raises ValueError for a key that is none of the format's, and where one is missing.
    """
    named = {_without_prefix(key): value for key, value in state_dict.items()}
    return _renamed(named, _names(named), "Wan's original format")


def transformer_to_wan(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Wan transformer in diffusers layout under their original names. Raises as above."""
    names = _names(state_dict)
    return _renamed(state_dict, {stock: ours for ours, stock in names.items()}, "diffusers' format")


def _names(state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """Return diffusers' name for every original one of a transformer with the blocks of `state_dict`."""
    blocks = sorted({int(found[1]) for key in state_dict if (found := re.match(r"blocks\.(\d+)\.", key))})
    layers, block_tensors = dict(_LAYERS), dict(_BLOCK_TENSORS)
    names = {"head.modulation": "scale_shift_table"}
    if any("_ref" in key for key in state_dict):
        layers["time_projection_ref.1"] = "time_proj_ref"
        block_tensors["modulation_ref"] = "scale_shift_table_ref"
    for block in blocks:
        layers |= {f"blocks.{block}.{ours}": f"blocks.{block}.{stock}" for ours, stock in _BLOCK_LAYERS.items()}
        names |= {f"blocks.{block}.{ours}": f"blocks.{block}.{stock}" for ours, stock in block_tensors.items()}
    for kind in ("weight", "bias"):
        names |= {f"{ours}.{kind}": f"{stock}.{kind}" for ours, stock in layers.items()}
    return names


def _renamed(state_dict: Mapping[str, Tensor], names: Mapping[str, str], format_name: str) -> dict[str, Tensor]:
    for problem, keys in (
        ("is not a tensor of", state_dict.keys() - names.keys()),
        ("is missing from", names.keys() - state_dict.keys()),
    ):
        if keys:
            raise ValueError(
                f"{min(keys)} {problem} a text-to-video Wan transformer in {format_name} ({len(keys)} such keys)"
            )
    return {names[key]: value for key, value in state_dict.items()}


def _without_prefix(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key
