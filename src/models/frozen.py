"""Frozen parts of a model: what they compute can be stored, and what it depends on can be named exactly."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from ..recipes import Recipe, canonical, describe, describe_class, tensor_hash

# Where weights come from says nothing about them: they are hashed themselves.
_NOT_IN_RECIPE = ("pretrained",)
_NOT_IN_LIBRARY_CONFIG = ("transformers_version", "architectures", "dtype", "torch_dtype")


class FrozenPart(nn.Module):
    """A network that is never trained. It remembers what it was built with, for `part_recipe`.

    A class raises its `version` when its code makes something else of the same weights and settings.
    """

    version: int = 1
    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(made, *args, **kwargs)
        bound.apply_defaults()
        made.__dict__["arguments"] = {name: value for name, value in bound.arguments.items() if name != "self"}
        return made


@dataclass(frozen=True)
class Cacheable:
    """What frozen parts always make the same of a clip, so that it can be stored beside it.

    `parts`: their names, as arguments and attributes of the method. `inputs`: what of a batch they see.
    `compute(*parts, *inputs)` returns tensors (b ...) by the names that they then have in a batch. `version` is raised
    when `compute` changes.
    """

    parts: tuple[str, ...]
    inputs: tuple[str, ...]
    compute: Callable[..., dict[str, Tensor]]
    version: int = 1


def posterior_tensors(autoencoder: Any, pixel_values: Tensor) -> dict[str, Tensor]:
    """Return `latents` and `latents_std`: mean and deviation of the posterior, so that each epoch draws its sample."""
    mean, std = autoencoder.posterior(pixel_values)
    return {"latents": mean, "latents_std": std} if std.any() else {"latents": mean}


def prompt_tensors(text_encoder: Any, captions: Sequence[str]) -> dict[str, Tensor]:
    """Return `prompt_embeds` (b n d)."""
    return {"prompt_embeds": text_encoder(captions)}


def cache_recipe(cacheable: Cacheable, parts: Mapping[str, nn.Module], precision: str) -> Recipe:
    """Return what the tensors of `cacheable` depend on beside its inputs. `precision`: the trainer's.

    The device is no part of it: two devices round differently, as two runs do. Nor is anything that is trained.
    """
    return {
        "compute": f"{cacheable.compute.__name__} {cacheable.version}",
        "precision": precision,
        "parts": {name: part_recipe(parts[name]) for name in cacheable.parts},
    }


def part_recipe(part: nn.Module) -> Recipe:
    """Return class, settings, library configuration, tokenizer and a hash of all weights of a frozen part."""
    if not isinstance(part, FrozenPart):
        raise ValueError(f"{type(part).__name__} must derive from FrozenPart for its results to be stored")
    settings = {name: value for name, value in part.arguments.items() if name not in _NOT_IN_RECIPE}
    configs = {name: _library_config(child) for name, child in part.named_children() if hasattr(child, "config")}
    recipe = {**describe_class(type(part)), "settings": describe(settings), "config": configs}
    if hasattr(part, "tokenizer"):
        recipe["tokenizer"] = tokenizer_hash(part.tokenizer)
    return recipe | {"weights": content_hash(part)}


def content_hash(module: nn.Module) -> str:
    """Return the sha256 of every value of a module: parameters and buffers, also those that are not saved.

    Unlike `fingerprint`, it sees a change of any one value; 10 GB take a few seconds, since large tensors are hashed
    side by side.
    """
    tensors = sorted([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(tensor_hash, [tensor for _, tensor in tensors]))
    listed = [
        [name, list(tensor.shape), str(tensor.dtype), one] for (name, tensor), one in zip(tensors, hashes, strict=True)
    ]
    return hashlib.sha256(canonical(listed)).hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the sha256 of what a transformers tokenizer does: its vocabulary, rules and special tokens."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if hasattr(tokenizer, "backend_tokenizer") else {}
    for state in ("truncation", "padding"):  # left behind by the last call
        rules.pop(state, None)
    tokens = describe({name: str(token) for name, token in tokenizer.special_tokens_map.items()})
    content = [type(tokenizer).__name__, tokenizer.get_vocab(), tokens, rules]
    return hashlib.sha256(canonical(content)).hexdigest()


def unused_parts(cacheables: Mapping[str, Cacheable], cached: Iterable[str]) -> set[str]:
    """Return the parts that have nothing left to compute where the tensors `cached` are read instead."""
    left = {part for name, one in cacheables.items() if name not in set(cached) for part in one.parts}
    return {part for name in cached for part in cacheables[name].parts} - left


def _library_config(model: Any) -> Recipe:
    """Return the settings of a diffusers or transformers model, without what names its file or library version."""
    config = model.config.to_diff_dict() if hasattr(model.config, "to_diff_dict") else dict(model.config)
    return {
        name: describe(value)
        for name, value in config.items()
        if not name.startswith("_") and name not in _NOT_IN_LIBRARY_CONFIG
    }
