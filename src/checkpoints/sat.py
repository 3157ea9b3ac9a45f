"""SwissArmyTransformer's CogVideoX checkpoints to and from diffusers, as pure functions on state dicts.

Source: Concat-ID and CogVideo repositories (`tools/convert_weight_sat2hf.py`); every rule is a renaming or a split, so
both directions are exact.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from .lazy import Rule, apply_rules

T = TypeVar("T")

TRANSFORMER_PREFIX = "model.diffusion_model."
UNUSED_TABLE = "transformer.position_embeddings.weight"

# What a file may hold besides the transformer: text encoder, VAE, noise levels, and position tables that are computed.
_OTHER_PARTS = ("conditioner.", "first_stage_model.", "denoiser.")
_COMPUTED_TABLES = "mixins.pos_embed.freqs_"
_LEARNED_TABLE = "mixins.pos_embed.pos_embedding"

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
# One SAT tensor that diffusers has in several, each made of these chunks of its rows. The modulation's twelve are
# shift, scale, gate for attention and for the feed-forward of video, then of text.
_FUSED: list[tuple[str, dict[str, tuple[int, ...]]]] = [
    (
        r"mixins\.adaln_layer\.adaLN_modulations\.(\d+)\.1",
        {
            r"transformer_blocks.\1.norm1.linear": (0, 1, 2, 6, 7, 8),
            r"transformer_blocks.\1.norm2.linear": (3, 4, 5, 9, 10, 11),
        },
    ),
    (
        r"transformer\.layers\.(\d+)\.attention\.query_key_value",
        {
            r"transformer_blocks.\1.attn1.to_q": (0,),
            r"transformer_blocks.\1.attn1.to_k": (1,),
            r"transformer_blocks.\1.attn1.to_v": (2,),
        },
    ),
]
_MIDDLE_BLOCK = re.compile(r"\.mid\.block_(\d)\."), re.compile(r"\.mid_block\.resnets\.(\d)\.")


def transformer_from_sat(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of diffusers' `CogVideoXTransformer3DModel`.

    Raises ValueError for a key that is none of the format's.
    """
    return apply_rules(rules_from_sat(state_dict), state_dict)


def transformer_to_sat(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the SAT tensors of a diffusers transformer, with zeros for SAT's unused table.

    Raises ValueError for a key that is none of the format's, and for a missing part of a fused tensor.
    """
    return apply_rules(rules_to_sat(state_dict), state_dict)


def rules_from_sat(keys: Iterable[str]) -> dict[str, Rule]:
    """Return how each diffusers tensor of a transformer is made of the tensors `keys` of a SAT file."""
    rules: dict[str, Rule] = {}
    for key in transformer_keys(keys):
        name, _, kind = key.removeprefix(TRANSFORMER_PREFIX).rpartition(".")
        for pattern, parts in _FUSED:
            if found := re.fullmatch(pattern, name):
                for part, places in parts.items():
                    take = partial(_take, key=key, places=places, count=sum(map(len, parts.values())))
                    rules[f"{found.expand(part)}.{kind}"] = (key,), take
                break
        else:
            rules[f"{_rename(name, _RENAMED, 'SAT CogVideoX')}.{kind}"] = (key,), _unchanged
    return rules


def rules_to_sat(names: Iterable[str]) -> dict[str, Rule]:
    """Return how each SAT tensor, under its name with the prefix, is made of the diffusers tensors `names`."""
    known, rules = dict.fromkeys(names), dict[str, Rule]()
    for full_name in known:
        name, _, kind = full_name.rpartition(".")
        sat, parts = f"{TRANSFORMER_PREFIX}{sat_name(name)}.{kind}", _parts_beside(name)
        sources = tuple(f"{part}.{kind}" for part in parts or {name: ()})
        if missing := [source for source in sources if source not in known]:
            raise ValueError(f"{missing[0]} is missing beside {full_name}: SAT holds both in one tensor")
        rules[sat] = sources, (partial(_fuse, places=list(parts.values())) if parts else _unchanged)
    rules[TRANSFORMER_PREFIX + UNUSED_TABLE] = ("patch_embed.proj.weight",), _unused_table
    return rules


def transformer_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys of a SAT file that belong to its transformer and are read."""
    kept = []
    for key in keys:
        name = key.removeprefix(TRANSFORMER_PREFIX)
        if name == _LEARNED_TABLE:
            raise ValueError(
                f"{key} is a table of learned or sin-cos positions, of CogVideoX-2B or an image-to-video model: only "
                "checkpoints with rotary positions (CogVideoX-5B text-to-video, Concat-ID) are read"
            )
        if not key.startswith(_OTHER_PARTS) and name != UNUSED_TABLE and not name.startswith(_COMPUTED_TABLES):
            kept.append(key)
    return kept


def sat_name(name: str) -> str:
    """Return the SAT name, without prefix, of the tensor that holds diffusers' module `name`."""
    fused = [(_as_pattern(part), _as_template(pattern)) for pattern, parts in _FUSED for part in parts]
    return _rename(name, [*fused, *((_as_pattern(new), _as_template(old)) for old, new in _RENAMED)], "diffusers")


def vae_from_sat(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of `AutoencoderKLCogVideoX` for those of SAT's `3d-vae.pt` (its `loss.*` are left out)."""
    last_level = max(int(found[1]) for key in state_dict if (found := re.match(r"decoder\.up\.(\d+)\.", key)))

    def rename(key: str) -> str:
        key = re.sub(r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", key)
        key = re.sub(r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", key)
        key = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{last_level - int(found[1])}.", key)
        key = re.sub(r"^decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.\1.resnets.", key)
        key = re.sub(r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0.", key)
        key = _MIDDLE_BLOCK[0].sub(lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", key)
        return key.replace(".nin_shortcut.", ".conv_shortcut.")

    return {rename(key): value for key, value in state_dict.items() if not key.startswith("loss.")}


def vae_to_sat(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of SAT's `3d-vae.pt` for those of `AutoencoderKLCogVideoX`."""
    last_level = max(int(found[1]) for key in state_dict if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", key)))

    def rename(key: str) -> str:
        key = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", key)
        key = re.sub(r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", key)
        key = re.sub(r"^decoder\.up_blocks\.(\d+)\.", lambda found: f"decoder.up.{last_level - int(found[1])}.", key)
        key = re.sub(r"^decoder\.up\.(\d+)\.resnets\.", r"decoder.up.\1.block.", key)
        key = re.sub(r"^decoder\.up\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample.", key)
        key = _MIDDLE_BLOCK[1].sub(lambda found: f".mid.block_{int(found[1]) + 1}.", key)
        return key.replace(".conv_shortcut.", ".nin_shortcut.")

    return {rename(key): value for key, value in state_dict.items()}


def _parts_beside(name: str) -> dict[str, tuple[int, ...]]:
    """Return the diffusers modules that share SAT's tensor with module `name`, with the chunks that each one fills."""
    for _, parts in _FUSED:
        for part in parts:
            if found := re.fullmatch(_as_pattern(part), name):
                return {found.expand(other): places for other, places in parts.items()}
    return {}


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _take(tensor: Tensor, key: str, places: tuple[int, ...], count: int) -> Tensor:
    if tensor.ndim == 0 or len(tensor) % count:
        raise ValueError(f"{key} has shape {tuple(tensor.shape)}: its rows must be {count} parts of one size")
    chunks = tensor.chunk(count)
    return chunks[places[0]] if len(places) == 1 else torch.cat([chunks[place] for place in places])


def _fuse(*parts: Tensor, places: list[tuple[int, ...]]) -> Tensor:
    chunks = {
        place: chunk
        for part, taken in zip(parts, places, strict=True)
        for place, chunk in zip(taken, part.chunk(len(taken)), strict=True)
    }
    return torch.cat([chunks[place] for place in range(len(chunks))])


def _unused_table(patch_weight: Tensor) -> Tensor:
    return patch_weight.new_zeros(64, patch_weight.shape[0])


def _rename(name: str, rules: Iterable[tuple[str, str]], format_name: str) -> str:
    for pattern, template in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(template)
    raise ValueError(f"{name} is not a tensor of a {format_name} transformer")


def _as_pattern(template: str) -> str:
    return re.escape(template).replace(r"\\1", r"(\d+)")


def _as_template(pattern: str) -> str:
    return pattern.replace(r"(\d+)", r"\1").replace(r"\.", ".")
