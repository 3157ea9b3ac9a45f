"""A pipeline's folder in diffusers layout: one network of ours, the other parts from a base."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from .files import read_json
from .networks import TRANSFORMER, VAE
from .sources import Source
from .writing import write_network

# Of CogVideoX, whose noise levels Concat-ID is trained on. sample.py has the original's solver, this is the closest.
_SCHEDULER = "CogVideoXDPMScheduler"
_SCHEDULER_SETTINGS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
_COGVIDEOX = {
    "scheduler": ["diffusers", _SCHEDULER],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", TRANSFORMER],
    "vae": ["diffusers", VAE],
}
# What conditions a denoiser: the part, its setting for its width, and the denoiser's setting that must equal it.
_ENCODERS = {
    "transformer": ("text_encoder", "d_model", "text_embed_dim"),
    "unet": ("image_encoder", "projection_dim", "cross_attention_dim"),
}
_LINKED_FROM = 1 << 20


def read_index(base: Path, transformer: Source) -> dict[str, Any]:
    """Return the content of `model_index.json` of the pipeline of `transformer` and the other parts of `base`.

    That of `base` where it has one, with a scheduler if it lacks that. Raises ValueError where `base` is the pipeline
    of another network.
    """
    if not base.is_dir():
        raise ValueError(f"base={base} is no folder: name one in diffusers layout, as hf download zai-org/CogVideoX-5b")
    path, network = base / "model_index.json", transformer.model_class.__name__
    if network == "TrackletUNet":
        raise ValueError(
            f"{transformer.path} has boxes, which no stock pipeline knows: write the network alone, format=unet and no "
            "base. backbone.denoiser.pretrained and TrackDiffusion read it"
        )
    if path.is_file():
        index = read_json(path)
        if index.get(transformer.part, [None, None])[1] != network:
            raise ValueError(f"{path} is of a {index.get('_class_name')}, which has no {network}: name another base")
    elif network == TRANSFORMER:
        index = {"_class_name": "CogVideoXPipeline", **_COGVIDEOX}
    else:
        raise ValueError(f"base={base} has no model_index.json: it is not a pipeline in diffusers layout")
    if network == TRANSFORMER and not _has_scheduler(base):
        index["scheduler"] = _COGVIDEOX["scheduler"]
    return index


def linked_parts(index: dict[str, Any], transformer: Source, base: Path, vae: Source | None) -> list[str]:
    """Return the parts that come from `base` as they are. Raises ValueError where one is not there."""
    written = {transformer.part, *(["vae"] if vae is not None else [])}
    if index.get("scheduler") == _COGVIDEOX["scheduler"] and not _has_scheduler(base):
        written.add("scheduler")
    parts = [
        name
        for name, value in index.items()
        if isinstance(value, list) and value[0] is not None and name not in written
    ]
    if missing := [name for name in parts if not (base / name).is_dir()]:
        raise ValueError(f"base={base} has no {', '.join(missing)}: name a whole pipeline in diffusers layout")
    return parts


def check_parts_fit(transformer: Source, base: Path, vae: Source | None) -> None:
    """Raise ValueError where encoder or VAE have other widths than the denoiser takes."""
    settings = transformer.config
    encoder, width, setting = _ENCODERS[transformer.part]
    found = read_json(base / encoder / "config.json").get(width)
    if found is not None and setting in settings and found != settings[setting]:
        raise ValueError(
            f"the {encoder.replace('_', ' ')} of base={base} has {found} channels, {transformer.path} takes "
            f"{settings[setting]}"
        )
    latents = (vae.config if vae is not None else read_json(base / "vae" / "config.json")).get("latent_channels")
    if latents is not None and latents != settings.get("out_channels", latents):
        place = vae.path if vae is not None else base
        raise ValueError(f"the VAE of {place} has {latents} channels, {transformer.path} {settings['out_channels']}")


def write_pipeline(
    folder: Path,
    transformer: Source,
    base: Path,
    vae: Source | None,
    dtype: torch.dtype | None,
    max_shard_size: str,
    variant: str | None = None,
) -> None:
    """Write the folder that the stock pipeline's `from_pretrained` loads. `vae`: in place of that of `base`.

    `variant`: what the names of our files say; the library takes the parts of `base` as they are beside them.
    """
    from diffusers import CogVideoXDPMScheduler, __version__

    index = read_index(base, transformer)
    parts = linked_parts(index, transformer, base, vae)
    check_parts_fit(transformer, base, vae)
    for name in parts:
        shutil.copytree(base / name, folder / name, copy_function=_link_or_copy)
    write_network(folder / transformer.part, transformer, dtype, max_shard_size, variant)
    if vae is not None:
        write_network(folder / "vae", vae, dtype, max_shard_size, variant)
    if "scheduler" not in parts:
        # Rotary positions tell the 5B model from the 2B one, whose noise levels are shifted.
        shift = 1.0 if transformer.config["use_rotary_positional_embeddings"] else 3.0
        scheduler: Any = CogVideoXDPMScheduler(**_SCHEDULER_SETTINGS, snr_shift_scale=shift)
        scheduler.save_pretrained(folder / "scheduler")
    index = {**index, "_diffusers_version": __version__}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _has_scheduler(base: Path) -> bool:
    return (base / "scheduler" / "scheduler_config.json").is_file()


def _link_or_copy(source: str, target: str) -> None:
    """Give large files a second name on the same disk; copy the others, which people edit."""
    if os.path.getsize(source) >= _LINKED_FROM:
        try:
            os.link(os.path.realpath(source), target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)
