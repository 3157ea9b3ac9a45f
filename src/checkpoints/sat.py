"""SwissArmyTransformer's CogVideoX checkpoints to and from diffusers, as pure functions on state dicts.

Source: Concat-ID and CogVideo repositories (`tools/convert_weight_sat2hf.py`); every rule is a renaming or a split, so
both directions are exact.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

TRANSFORMER_PREFIX = "model.diffusion_model."
# What a file may hold besides the transformer: text encoder, VAE, position tables that are computed.
IGNORED_PREFIXES = ("conditioner.", "first_stage_model.", "model.diffusion_model.mixins.pos_embed.freqs_")
UNUSED_TABLE = "transformer.position_embeddings.weight"

_RENAMED = [
    (r"mixins\.patch_embed\.proj", "patch_embed.proj"),
    (r"mixins\.patch_embed\.text_proj", "patch_embed.text_proj"),
    (r"time_embed\.0", "time_embedding.linear_1"),
    (r"time_embed\.2", "time_embedding.linear_2"),
    (r"mixins\.adaln_layer\.query_layernorm_list\.(\d+)", r"transformer_blocks.\1.attn1.norm_q"),
    (r"mixins\.adaln_layer\.key_layernorm_list\.(\d+)", r"transformer_blocks.\1.attn1.norm_k"),
    (r"transformer\.layers\.(\d+)\.input_layernorm", r"transformer_blocks.\1.norm1.norm"),
    (r"transformer\.layers\.(\d+)\.attention\.dense", r"transformer_blocks.\1.attn1.to_out.0"),
    (r"transformer\.layers\.(\d+)\.post_attention_layernorm", r"transformer_blocks.\1.norm2.norm"),
    (r"transformer\.layers\.(\d+)\.mlp\.dense_h_to_4h", r"transformer_blocks.\1.ff.net.0.proj"),
    (r"transformer\.layers\.(\d+)\.mlp\.dense_4h_to_h", r"transformer_blocks.\1.ff.net.2"),
    (r"transformer\.final_layernorm", "norm_final"),
    (r"mixins\.final_layer\.norm_final", "norm_out.norm"),
    (r"mixins\.final_layer\.adaLN_modulation\.1", "norm_out.linear"),
    (r"mixins\.final_layer\.linear", "proj_out"),
]
# Chunks of the 12-fold modulation: shift, scale, gate for attention and for the feed-forward of video, then of text.
_ATTENTION_CHUNKS, _FEED_FORWARD_CHUNKS = (0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)


def transformer_from_sat(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of diffusers' `CogVideoXTransformer3DModel`.

    Raises ValueError for a key that is none of the format's.
    """
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if key.startswith(IGNORED_PREFIXES):
            continue
        name = key.removeprefix(TRANSFORMER_PREFIX)
        if name != UNUSED_TABLE:
            converted |= _tensor_from_sat(name, value)
    return converted


def transformer_to_sat(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the SAT tensors of a diffusers transformer, with zeros for SAT's unused table."""
    converted: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name, _, kind = key.rpartition(".")
        if found := re.fullmatch(r"transformer_blocks\.(\d+)\.norm1\.linear", name):
            second = state_dict[f"transformer_blocks.{found[1]}.norm2.linear.{kind}"]
            chunks = dict(zip(_ATTENTION_CHUNKS, value.chunk(6), strict=True)) | dict(
                zip(_FEED_FORWARD_CHUNKS, second.chunk(6), strict=True)
            )
            sat, value = f"mixins.adaln_layer.adaLN_modulations.{found[1]}.1", torch.cat([chunks[i] for i in range(12)])
        elif found := re.fullmatch(r"transformer_blocks\.(\d+)\.attn1\.to_q", name):
            parts = [state_dict[f"transformer_blocks.{found[1]}.attn1.to_{part}.{kind}"] for part in "qkv"]
            sat, value = f"transformer.layers.{found[1]}.attention.query_key_value", torch.cat(parts)
        elif re.fullmatch(r"transformer_blocks\.\d+\.(norm2\.linear|attn1\.to_[kv])", name):
            continue
        else:
            sat = _rename(name, [(_as_pattern(new), _as_template(old)) for old, new in _RENAMED], "diffusers")
        converted[f"{TRANSFORMER_PREFIX}{sat}.{kind}"] = value
    width = state_dict["patch_embed.proj.weight"].shape[0]
    converted[TRANSFORMER_PREFIX + UNUSED_TABLE] = torch.zeros(
        64, width, dtype=state_dict["patch_embed.proj.weight"].dtype
    )
    return converted


def vae_from_sat(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `AutoencoderKLCogVideoX` for those of SAT's `3d-vae.pt` (its `loss.*` are left out)."""
    num_levels = 1 + max(int(found[1]) for key in state_dict if (found := re.match(r"decoder\.up\.(\d+)\.", key)))

    def rename(key: str) -> str:
        key = re.sub(r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2.", key)
        key = re.sub(r"^encoder\.down\.(\d+)\.downsample\.conv\.", r"encoder.down_blocks.\1.downsamplers.0.conv.", key)
        key = re.sub(
            r"^decoder\.up\.(\d+)\.block\.(\d+)\.",
            lambda m: f"decoder.up_blocks.{num_levels - 1 - int(m[1])}.resnets.{m[2]}.",
            key,
        )
        key = re.sub(
            r"^decoder\.up\.(\d+)\.upsample\.conv\.",
            lambda m: f"decoder.up_blocks.{num_levels - 1 - int(m[1])}.upsamplers.0.conv.",
            key,
        )
        key = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", key)
        return key.replace(".nin_shortcut.", ".conv_shortcut.")

    return {rename(key): value for key, value in state_dict.items() if not key.startswith("loss.")}


def _tensor_from_sat(key: str, value: Tensor) -> dict[str, Tensor]:
    name, _, kind = key.rpartition(".")
    if found := re.fullmatch(r"mixins\.adaln_layer\.adaLN_modulations\.(\d+)\.1", name):
        chunks, block = value.chunk(12), f"transformer_blocks.{found[1]}"
        return {
            f"{block}.norm1.linear.{kind}": torch.cat([chunks[i] for i in _ATTENTION_CHUNKS]),
            f"{block}.norm2.linear.{kind}": torch.cat([chunks[i] for i in _FEED_FORWARD_CHUNKS]),
        }
    if found := re.fullmatch(r"transformer\.layers\.(\d+)\.attention\.query_key_value", name):
        return {
            f"transformer_blocks.{found[1]}.attn1.to_{part}.{kind}": tensor
            for part, tensor in zip("qkv", value.chunk(3), strict=True)
        }
    return {f"{_rename(name, _RENAMED, 'SAT CogVideoX')}.{kind}": value}


def _rename(name: str, rules: list[tuple[str, str]], format_name: str) -> str:
    for pattern, template in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(template)
    raise ValueError(f"{name} is not a tensor of a {format_name} transformer")


def _as_pattern(template: str) -> str:
    return re.escape(template).replace(r"\\1", r"(\d+)")


def _as_template(pattern: str) -> str:
    return pattern.replace(r"(\d+)", r"\1").replace(r"\.", ".")
