"""`export.py`: checkpoints in and out, between our runs, SAT's files and diffusers' folders."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from .config import command

if TYPE_CHECKING:
    import torch

    from .checkpoints.sources import Source

log = logging.getLogger(__name__)

_VARIANTS = {"fp16": "float16", "bf16": "bfloat16"}

# What can be written of what a place holds.
_FORMATS = {
    "lora": ["lora"],
    "vae": ["vae", "sat"],
    "transformer": ["transformer", "diffusers", "sat"],
    "unet": ["unet", "diffusers"],
}


@command("export")
def main(config: DictConfig) -> None:
    for name, example in (("from", "from=outputs/concat_id/RUN"), ("to", "to=weights/mine")):
        if OmegaConf.is_missing(config, name):
            raise ValueError(f"{name} must be given, e.g. {example}")
    from .checkpoints.sources import read_source
    from .checkpoints.writing import check_shard_size
    from .run import quiet_libraries

    quiet_libraries()
    check_shard_size(config.max_shard_size)
    dtype = _dtype(config)
    source = read_source(config["from"], config.weights, config.paths)
    if source.lora is not None:
        source = replace(source, lora=replace(source.lora, alpha=source.lora.alpha * config.lora_scale))
    elif config.lora_scale != 1:
        raise ValueError(f"lora_scale={config.lora_scale}, but {source.path} holds no LoRA")
    if config.merge_lora:
        source = _merged(source, config.base, dtype)
    chosen = _choose_format(source, config)
    _write(chosen, source, config, dtype)
    log.info("%s of %s in %s", chosen, source.path, config.to)


def _dtype(config: DictConfig) -> torch.dtype | None:
    """Return the precision to write in, that of the variant where one is given; None: as it is."""
    from .models.loading import parse_dtype

    if config.variant is None:
        return None if config.dtype is None else parse_dtype(config.dtype)
    if config.variant not in _VARIANTS:
        raise ValueError(f"variant={config.variant} is not one of {', '.join(_VARIANTS)}")
    if config.dtype not in (None, _VARIANTS[config.variant]):
        raise ValueError(f"variant={config.variant} names files in {_VARIANTS[config.variant]}: dtype={config.dtype}")
    return parse_dtype(_VARIANTS[config.variant])


def _merged(source: Source, base: str | None, dtype: torch.dtype | None) -> Source:
    """Return `source` with its LoRA folded into the transformer of `base`, or into the one that it was trained on."""
    from .checkpoints.lora import merge_lora
    from .checkpoints.sources import checked, read_source

    if source.lora is None:
        raise ValueError(f"merge_lora=true, but {source.path} holds no LoRA")
    is_in_base = base is not None and (Path(base) / source.part).is_dir()
    below = read_source(base) if base is not None and is_in_base else source.start
    if below is None:
        raise ValueError(
            "merge_lora=true needs the weights that the LoRA was trained on, which are not here: base=FOLDER"
        )
    if below.model_class is not source.model_class:
        raise ValueError(
            f"{below.path} holds a {below.model_class.__name__}, the LoRA is of a {source.model_class.__name__}"
        )
    log.info("folding the LoRA into %s", below.path)
    tensors = merge_lora(source.lora, {**below.tensors, **source.tensors}, below.path, dtype)
    return checked(replace(source, config=below.config, tensors=tensors, lora=None, pipeline=below.pipeline))


def _choose_format(source: Source, config: DictConfig) -> str:
    """Return the format to write: the one asked for, if it fits, or the one that fits what `from` and `base` are."""
    from .checkpoints.sources import DENOISERS

    kind = "lora" if source.lora is not None else source.part
    if config.format is None:
        is_in_diffusers_layout = not source.is_sat and source.step is None
        if kind in DENOISERS and config.base is not None:
            chosen, reason = "diffusers", "base is given"
        elif "sat" in _FORMATS[kind] and is_in_diffusers_layout:
            chosen, reason = "sat", f"{source.path} is in diffusers layout"
        else:
            chosen, reason = kind, f"{source.path} holds a {kind}"
        log.info("format=%s, since %s", chosen, reason)
    elif config.format in _FORMATS[kind]:
        chosen = config.format
    else:
        hint = ", or fold it into the weights: merge_lora=true" if kind == "lora" else ""
        raise ValueError(
            f"format={config.format}, but {source.path} holds a {kind}: use {' or '.join(_FORMATS[kind])}{hint}"
        )
    if chosen == "lora" and source.tensors:
        raise ValueError(
            f"{source.path} trained {next(iter(source.tensors))} beside its LoRA, which no file of adapters holds: "
            "fold all of it into the weights, merge_lora=true"
        )
    for name, has_effect in (
        ("vae", chosen == "diffusers"),
        ("base", chosen == "diffusers" or config.merge_lora),
        ("variant", chosen not in ("sat", "lora")),
    ):
        if config[name] is not None and not has_effect:
            raise ValueError(
                f"{name}={config[name]} has no effect with format={chosen}: leave it out, or format=diffusers"
            )
    return chosen


def _write(chosen: str, source: Source, config: DictConfig, dtype: torch.dtype | None) -> None:
    from .checkpoints.lora import write_lora
    from .checkpoints.pipelines import write_pipeline
    from .checkpoints.sources import read_source
    from .checkpoints.writing import whole_folder, write_network, write_sat, written_bytes

    vae = None if config.vae is None else read_source(config.vae)
    if vae is not None and not vae.is_vae:
        raise ValueError(f"vae={config.vae} holds a {vae.model_class.__name__}")
    base = source.pipeline if config.base is None else Path(config.base)
    if chosen == "diffusers" and base is None:
        raise ValueError("format=diffusers writes a whole pipeline: base=FOLDER must hold its other parts")
    with whole_folder(Path(config.to), written_bytes(source, dtype)) as folder:
        if chosen == "diffusers" and base is not None:
            write_pipeline(folder, source, base, vae, dtype, config.max_shard_size, config.variant)
        elif source.lora is not None:
            write_lora(folder, source.lora, source.model_class, dtype)
        elif chosen == "sat":
            write_sat(folder, source, dtype)
        else:
            write_network(folder, source, dtype, config.max_shard_size, config.variant)


if __name__ == "__main__":
    main()
