"""Building the library's models: from a folder in diffusers layout, or from a configuration with random weights."""

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import nearest


def load_model(
    model_class: Any,
    *,
    pretrained: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    dtype: str = "float32",
) -> Any:
    """Return a model of a diffusers or transformers class.

    From the folder `pretrained`, or, where `config` is given instead, with random weights (made with `seed`, if one is
    given, and then without touching the global generator). `dtype`: float32, bfloat16 or float16. Raises ValueError for
    neither or both.
    """
    if (pretrained is None) == (config is None):
        raise ValueError(f"{model_class.__name__} needs either `pretrained` (a folder) or `config` (random weights)")
    torch_dtype = parse_dtype(dtype)
    if pretrained is not None:
        if not Path(pretrained).is_dir():
            raise ValueError(f"{model_class.__name__}: there is no folder {pretrained}")
        keyword = "dtype" if model_class.__module__.startswith("transformers") else "torch_dtype"
        settings = {keyword: torch_dtype, "variant": _only_variant(Path(pretrained))}
        return model_class.from_pretrained(pretrained, local_files_only=True, **settings)
    if seed is None:
        return _from_config(model_class, config or {}, torch_dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _from_config(model_class, config or {}, torch_dtype)


def _only_variant(folder: Path) -> str | None:
    """Return which precision the names of the files in `folder` speak of, where there is one only; else None."""
    middles = {file.name.split(".")[1].partition("-")[0] for file in folder.glob("*.safetensors")}
    return middles.pop() if len(middles) == 1 and middles != {"safetensors"} else None


def load_frozen(model_class: Any, **source: Any) -> Any:
    """Return `load_model(model_class, **source)` without gradients, in evaluation mode."""
    return load_model(model_class, **source).requires_grad_(False).eval()


def load_denoiser(
    *,
    architecture: str,
    pretrained: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> nn.Module:
    """Return a denoiser.

    `architecture`: the dotted name of a diffusers class; the rest as in `load_model`. `pretrained` may also be anything
    else that `export.py` reads: a SAT folder or file, a .safetensors file, a run. A `dtype` of 16 bits is for one whose
    weights are frozen.
    """
    module, _, name = architecture.rpartition(".")
    model_class = getattr(importlib.import_module(module), name, None)
    if model_class is None:
        raise ValueError(f"backbone.denoiser.architecture={architecture} does not exist")
    is_folder = pretrained is not None and (Path(pretrained) / "config.json").is_file()
    if is_folder and model_class.__name__ == "UNetSpatioTemporalConditionModel":
        _check_has_no_boxes(str(pretrained))
    if pretrained is not None and Path(pretrained).exists() and not is_folder:
        return _load_published(model_class, pretrained, config, parse_dtype(dtype))
    return load_model(model_class, pretrained=pretrained, config=config, seed=seed, dtype=dtype)


def parse_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of that name. Raises ValueError for anything but the three floating-point types in use."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ValueError(f"dtype={name!r} is not one of {', '.join(dtypes)}")
    return dtypes[name]


def fingerprint(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Return a short hash of names, shapes, dtypes and the first values of every tensor of a module, or of a mapping.

    It tells apart any two sets of weights that anyone trains, without reading gigabytes.
    """
    digest = hashlib.sha256()
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().flatten()[:8].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_has_no_boxes(folder: str) -> None:
    """Raise ValueError where `folder` holds a network with boxes, which the stock class would load without them."""
    from ..checkpoints.sources import read_source

    if read_source(folder).model_class.__name__ == "TrackletUNet":
        raise ValueError(
            f"backbone.denoiser.pretrained={folder} holds a network with boxes, which this method would leave out: "
            "choose experiment=tracklet2video, or backbone=svd_tracklets with model=tracklet2video"
        )


def _load_published(
    model_class: Any, pretrained: str, config: Mapping[str, Any] | None, dtype: torch.dtype
) -> nn.Module:
    from ..checkpoints.sources import read_source

    source = read_source(pretrained)
    if config is not None or source.model_class is not model_class:
        raise ValueError(
            f"backbone.denoiser.pretrained={pretrained} holds a {source.model_class.__name__} with its own settings: "
            f"backbone.denoiser.architecture must be that class, and config be left out"
        )
    return source.load(dtype)


def _from_config(model_class: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    config_class = getattr(
        model_class, "config_class", None
    )  # transformers; diffusers classes take the settings themselves
    settings = inspect.signature(config_class or model_class.__init__).parameters
    for name in config:
        if name not in settings:
            raise ValueError(f"{name} is not a setting of {model_class.__name__}{nearest(name, settings)}")
    model = model_class(config_class(**config)) if config_class is not None else model_class(**config)
    return model if dtype == torch.float32 else cast_weights(model, dtype)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `model`, its floating-point tensors in `dtype`."""
    # Not `model.to`: diffusers' own warns about the empty list of tensors that are to stay in float32.
    return nn.Module.to(model, dtype)
