"""Recognising what a place holds: a run of ours, SAT's or diffusers' files, whole or one network of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from .files import lazy_tensors, read_json, read_safetensors, read_torch_file, read_weights_folder
from .lazy import LazyTensor, apply_rules_lazily
from .lightning import find_checkpoint
from .lora import Lora, find_lora, others_than_lora
from .networks import TRANSFORMER, VAE, check_fit, empty_model, find_class, transformer_config, vae_config
from .sat import (
    TRANSFORMER_PREFIX,
    UNUSED_TABLE,
    rules_from_sat,
    sat_name,
    transformer_keys,
    transformer_to_sat,
    vae_from_sat,
    vae_to_sat,
)
from .tracklets import TRACKLET_UNET, has_fusers, tracklet_settings

log = logging.getLogger(__name__)

DENOISERS = ("transformer", "unet")  # what pipelines call them
SAT_FILE, SAT_VAE_FILE = "mp_rank_00_model_states.pt", "3d-vae.pt"

READ = (
    "read are: a run of train.py or its .ckpt; a SAT folder, its mp_rank_00_model_states.pt or a 3d-vae.pt; a "
    "pipeline, transformer, unet or vae folder in diffusers layout; a .safetensors file of a transformer or VAE"
)
_NETWORKS = re.compile(
    r"\w+Transformer3DModel|UNetSpatioTemporalConditionModel|TrackletUNet|"
    r"AutoencoderKL(CogVideoX|Wan|TemporalDecoder)"
)


@dataclass(frozen=True)
class Source:
    """One network: its class, its settings and its tensors under the class's names, not read yet.

    `path`: what messages name. `is_sat`: whether it came in SAT's names. `step`: of a run of ours. `lora`: of a
    run that trained adapters; `tensors` then are what it trained beside them, and `start` is the network that they
    adapt, if its weights are here.
    `pipeline`: the folder of the whole pipeline, where `path` is part of one.
    """

    path: Path
    model_class: Any
    config: dict[str, Any]
    tensors: dict[str, LazyTensor] = field(default_factory=dict, repr=False)
    is_sat: bool = False
    step: int | None = None
    lora: Lora | None = None
    start: Source | None = None
    pipeline: Path | None = None

    @property
    def is_vae(self) -> bool:
        return str(self.model_class.__name__).startswith("Autoencoder")

    @property
    def part(self) -> str:
        """What a pipeline calls this network: transformer, unet or vae."""
        return "vae" if self.is_vae else "unet" if "UNet" in self.model_class.__name__ else "transformer"

    def load(self, dtype: torch.dtype) -> Any:
        """Return the model with its weights in `dtype`. Raises ValueError for a run that trained a LoRA."""
        if self.lora is not None:
            raise ValueError(
                f"{self.path} holds a LoRA, not a whole network: fold it in first, export.py merge_lora=true, and name "
                "that folder"
            )
        model = empty_model(self.model_class, self.config)
        # One tensor at a time, and a copy: a tensor mapped from the file would change or slow down with it.
        state_dict = {name: tensor.load().to(dtype, copy=True) for name, tensor in self.tensors.items()}
        model.load_state_dict(state_dict, assign=True)
        if any(buffer.is_meta for buffer in model.buffers()):
            raise ValueError(f"{self.path} cannot be loaded as it is: export it with format=transformer first")
        return model


def read_source(place: str | Path, weights: str | None = None, paths: Mapping[str, Any] | None = None) -> Source:
    """Return what `place` holds.

    `weights`: `ema` or `raw`, where `place` holds both; None: the average, where there is one. `paths`: this machine's,
    for the configuration of a run. Raises ValueError for what is missing, truncated, foreign or does not fit together.
    """
    place = Path(place)
    path = _find(place, weights)
    if path.is_dir():
        source = _read_model_folder(path)
    elif path.suffix == ".safetensors":
        source = _read_state_dict(path, read_safetensors(path))
    else:
        content = read_torch_file(path)
        if {"state_dict", "config", "global_step"} <= content.keys():
            return _read_run(path, content, weights, paths)
        source = _read_state_dict(path, lazy_tensors(path, content.get("module", content.get("state_dict", content))))
    if weights is not None and not _is_sat_folder(place) and not _is_sat_folder(place / "transformer"):
        raise ValueError(f"weights={weights} chooses between average and raw weights, but {place} holds one set only")
    return source


def _find(place: Path, weights: str | None) -> Path:
    """Return the file, or the folder of one network in diffusers layout, that `place` stands for."""
    if weights not in (None, "ema", "raw"):
        raise ValueError(f"weights={weights} is not one of ema, raw")
    if place.is_file():
        if place.suffix == ".bin":
            raise ValueError(f"{place} is a pickle of diffusers or transformers, which is not read; {READ}")
        return place
    if not place.is_dir():
        raise ValueError(f"there is no {place}; {READ}")
    if _is_sat_folder(place):
        return _find_sat_file(place, weights)
    if (place / "config.json").is_file():
        return place
    for name in (SAT_FILE, SAT_VAE_FILE):
        if (place / name).is_file():
            return place / name
    for part in DENOISERS:
        if (place / part).is_dir():
            return _find(place / part, weights)
    if any(place.glob("*.ckpt")) or any(place.glob("checkpoints/*.ckpt")):
        return find_checkpoint(place)
    raise ValueError(f"{place} is none of the folders that are known ({', '.join(_content(place))}); {READ}")


def _is_sat_folder(folder: Path) -> bool:
    return (folder / "latest").is_file()


def _find_sat_file(folder: Path, weights: str | None) -> Path:
    iteration = (folder / "latest").read_text().strip()
    if not re.fullmatch(r"\d+|release", iteration):
        raise ValueError(f"{folder / 'latest'} must hold the number of an iteration or `release`, not {iteration!r}")
    average = folder / f"{iteration}-ema" / SAT_FILE
    if weights == "ema" and not average.is_file():
        raise ValueError(f"there is no {average}: give weights=raw, or name the folder of an iteration")
    path = folder / iteration / SAT_FILE if weights == "raw" or not average.is_file() else average
    if not path.is_file():
        raise ValueError(f"{folder / 'latest'} names {iteration}, but there is no {path}")
    return path


def _read_run(path: Path, content: dict[str, Any], weights: str | None, paths: Mapping[str, Any] | None) -> Source:
    if weights == "ema" and "ema" not in content:
        raise ValueError(f"{path} has no weight average: give weights=raw")
    chosen = "raw" if weights == "raw" or "ema" not in content else "ema"
    log.info("%s weights of step %d from %s", chosen, content["global_step"], path)
    state_dict = content["ema"]["state_dict"] if chosen == "ema" else content["state_dict"]
    if others := [name for name in state_dict if not name.startswith("denoiser.")]:
        raise ValueError(f"{path} trained {others[0]}, which is not part of the denoiser: no other format holds it")
    tensors = {name.removeprefix("denoiser."): LazyTensor.of(value) for name, value in state_dict.items()}
    config = OmegaConf.create(content["config"])
    if paths is not None:
        config.paths = OmegaConf.create(dict(paths))
    start, step = _start(path, config), int(content["global_step"])
    denoiser: Any = OmegaConf.to_container(config.backbone.denoiser, resolve=True)
    model_class = find_class(denoiser["architecture"]) if start is None else start.model_class
    lora = find_lora(path, tensors, OmegaConf.select(config, "model.lora") or {})
    if lora is not None:
        return Source(path, model_class, {}, others_than_lora(tensors), step=step, lora=lora, start=start)
    if start is not None:
        settings, tensors = start.config, {**start.tensors, **tensors}  # frozen parts are not in the checkpoint
    else:
        log.warning("%s is not here: the settings of the denoiser are taken from its shapes", denoiser["pretrained"])
        settings = _settings(path, transformer_config, tensors)
    return checked(Source(path, model_class, settings, tensors, step=step))


def _start(path: Path, config: Any) -> Source | None:
    """Return the denoiser that a run started from, or None where its weights are not here."""
    from hydra.utils import instantiate

    denoiser = config.backbone.denoiser
    # Random weights are made as in training, from their seed; a network of our own only its own function knows.
    if denoiser.get("config") is not None or "architecture" not in denoiser:
        model = instantiate(denoiser, _convert_="all")
        tensors = {name: LazyTensor.of(tensor) for name, tensor in model.state_dict().items()}
        # Without the library's list of settings at their default, which is as old as the model.
        settings = {name: value for name, value in model.config.items() if not name.startswith("_")}
        return Source(path, type(model), settings, tensors)
    pretrained = denoiser.get("pretrained")
    return read_source(pretrained) if pretrained is not None and Path(pretrained).exists() else None


def _read_model_folder(folder: Path) -> Source:
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if not _NETWORKS.fullmatch(name):
        raise ValueError(f"{folder} holds a {name}; {READ}")
    pipeline = folder.parent if (folder.parent / "model_index.json").is_file() else None
    tensors = read_weights_folder(folder)
    if name == "TrackletUNet" or has_fusers(tensors):  # TrackDiffusion's is called as the stock class
        name, config = TRACKLET_UNET, config | _tracklet_settings(folder, tensors)
    return checked(Source(folder, find_class(name), config, tensors, pipeline=pipeline))


def _tracklet_settings(folder: Path, tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    try:
        return tracklet_settings({name: tuple(tensor.meta.shape) for name, tensor in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{folder} does not hold a whole TrackletUNet: {error}") from error


def _read_state_dict(path: Path, tensors: dict[str, LazyTensor]) -> Source:
    """Return the network that `tensors` belong to, by their names."""
    names = [name.removeprefix(TRANSFORMER_PREFIX) for name in tensors]

    def any_begins(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if any_begins("mixins.", "transformer.layers."):
        return _read_sat_transformer(path, tensors)
    if any_begins("decoder.up.") and any_begins("encoder.down."):
        vae = {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}
        converted = vae_from_sat(vae)
        source = Source(path, find_class(VAE), _settings(path, vae_config, converted), converted, is_sat=True)
        return checked(source, vae, vae_to_sat)
    if any_begins("transformer_blocks.") and any_begins("patch_embed."):
        settings = _settings(path, transformer_config, tensors)
        return checked(Source(path, find_class(TRANSFORMER), settings, tensors))
    if any_begins("decoder.up_blocks.") and any_begins("encoder.down_blocks."):
        return checked(Source(path, find_class(VAE), _settings(path, vae_config, tensors), tensors))
    raise ValueError(f"{path} holds neither a CogVideoX transformer nor its VAE (first tensor: {min(tensors)}); {READ}")


def _read_sat_transformer(path: Path, tensors: dict[str, LazyTensor]) -> Source:
    try:
        own = {
            TRANSFORMER_PREFIX + key.removeprefix(TRANSFORMER_PREFIX): tensors[key] for key in transformer_keys(tensors)
        }
        converted = apply_rules_lazily(rules_from_sat(own), own)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {READ}") from error

    def original(name: str) -> str:
        module, _, kind = name.rpartition(".")
        return f"{TRANSFORMER_PREFIX}{sat_name(module)}.{kind}"

    settings = _settings(path, transformer_config, converted, original)
    source = Source(path, find_class(TRANSFORMER), settings, converted, is_sat=True)
    return checked(source, own, _without_unused_table)


def _without_unused_table(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in transformer_to_sat(expected).items() if not key.endswith(UNUSED_TABLE)}


def checked(
    source: Source,
    found: Mapping[str, LazyTensor] | None = None,
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> Source:
    """Return `source` if its tensors are those of its class and settings.

    `found`, `rename`: its tensors in the file's own names and how to get there, so that an error speaks these.
    """
    expected = rename(empty_model(source.model_class, source.config).state_dict())
    metas = {name: tensor.meta for name, tensor in (source.tensors if found is None else found).items()}
    check_fit(source.path, source.model_class.__name__, metas, expected)
    return source


def _settings(
    path: Path, derive: Callable[..., dict[str, Any]], tensors: Mapping[str, LazyTensor], original: Any = str
) -> dict[str, Any]:
    """Return the settings that `derive` finds in the shapes of `tensors`, which the file calls `original(name)`."""

    def shape_of(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"{original(name)} is missing")
        return tuple(tensors[name].meta.shape)

    try:
        return derive(tensors, shape_of)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a CogVideoX network: {error}") from error


def _content(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir())
    return [*names[:5], *(["..."] if len(names) > 5 else [])] or ["empty"]
