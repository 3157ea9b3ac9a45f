"""Low-rank adapters: out of a run's tensors, into diffusers' file of adapters, or folded into the weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .lazy import LazyTensor

_LAYER = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?P<adapter>\w+)\.weight")


@dataclass(frozen=True)
class Lora:
    """Adapters W + alpha / rank * B @ A. `layers`: `MODULE.lora_A.weight` (rank, in), `MODULE.lora_B.weight`."""

    rank: int
    alpha: float
    layers: dict[str, LazyTensor]

    @property
    def modules(self) -> list[str]:
        return [name.removesuffix(".lora_A.weight") for name in self.layers if name.endswith(".lora_A.weight")]


def find_lora(path: Path, tensors: Mapping[str, LazyTensor], settings: Mapping[str, Any]) -> Lora | None:
    """Return the adapters among `tensors`, named as peft names them; None where there are none.

    `settings`: `rank` and `alpha` of the run. Raises ValueError where the tensors do not agree with them.
    """
    found = {name: match for name in tensors if (match := _LAYER.fullmatch(name))}
    if not found:
        return None
    if not {"rank", "alpha"} <= settings.keys():
        raise ValueError(f"{path} holds a LoRA, but its configuration has no model.lora.rank and model.lora.alpha")
    layers = {f"{match['module']}.lora_{match['side']}.weight": tensors[name] for name, match in found.items()}
    if len(layers) != len(found):
        raise ValueError(f"{path} holds several LoRA adapters: only a run with one can be exported")
    rank = int(settings["rank"])
    for name, tensor in layers.items():
        partner = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
        if partner not in layers:
            raise ValueError(f"{path}: {partner} is missing beside {name}")
        if tensor.meta.shape[0 if ".lora_A." in name else 1] != rank:
            raise ValueError(f"{path}: {name} has shape {tuple(tensor.meta.shape)}, which is not of rank {rank}")
    return Lora(rank, float(settings["alpha"]), layers)


def others_than_lora(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Return what was trained beside adapters, under the names that it has without them."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if not _LAYER.fullmatch(name)}


def merge_lora(
    lora: Lora, tensors: Mapping[str, LazyTensor], place: Path, dtype: torch.dtype | None = None
) -> dict[str, LazyTensor]:
    """Return `tensors`, read from `place`, with the adapters folded in: W + alpha / rank * B @ A.

    The sum is taken in float32 and rounded once, to `dtype`; None: W's own. Raises ValueError where a module is not
    there or of another shape.
    """
    merged = dict(tensors)
    for module in lora.modules:
        name = f"{module}.weight"
        down, up = lora.layers[f"{module}.lora_A.weight"], lora.layers[f"{module}.lora_B.weight"]
        if name not in merged or merged[name].meta.shape != (up.meta.shape[0], down.meta.shape[1]):
            found = tuple(merged[name].meta.shape) if name in merged else "missing"
            raise ValueError(
                f"the LoRA does not fit {place}: {name} must be {(up.meta.shape[0], down.meta.shape[1])}, it is {found}"
            )

        def fold(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
            return (weight.float() + lora.alpha / lora.rank * (up.float() @ down.float())).to(dtype or weight.dtype)

        merged[name] = LazyTensor.made_by(fold, merged[name], down, up)
    return merged


def write_lora(folder: Path, lora: Lora, model_class: Any, dtype: torch.dtype | None) -> None:
    """Write `pytorch_lora_weights.safetensors`, which the stock pipeline's `load_lora_weights` reads.

    Rank and alpha go into the file's metadata, so that the library applies alpha / rank by itself. Of a UNet: see
    `unet_lora`.
    """
    from diffusers import UNetSpatioTemporalConditionModel
    from diffusers.loaders import lora_pipeline
    from safetensors.torch import save_file

    if issubclass(model_class, UNetSpatioTemporalConditionModel):
        tensors = {name: tensor.to(dtype).load().contiguous() for name, tensor in unet_lora(lora).items()}
        save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})
        return

    names = [f"{base.__name__.removesuffix('Transformer3DModel')}LoraLoaderMixin" for base in model_class.__mro__]
    loader: Any = next((getattr(lora_pipeline, name) for name in names if hasattr(lora_pipeline, name)), None)
    if loader is None:
        raise ValueError(f"diffusers has no file of adapters for {model_class.__name__}: fold them in, merge_lora=true")
    loader.save_lora_weights(
        folder,
        transformer_lora_layers={name: tensor.to(dtype).load().contiguous() for name, tensor in lora.layers.items()},
        transformer_lora_adapter_metadata={"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": lora.modules},
    )


def unet_lora(lora: Lora) -> dict[str, LazyTensor]:
    """Return the adapters under the names of SVD Xtend's files: `unet.MODULE.lora.down.weight` and `.lora.up.weight`.

    Such a file knows no alpha, and its readers apply B @ A as it is: the factor alpha / rank goes into B.
    """

    def scaled(up: Tensor) -> Tensor:
        return (up.float() * (lora.alpha / lora.rank)).to(up.dtype)

    tensors = {}
    for module in lora.modules:
        tensors[f"unet.{module}.lora.down.weight"] = lora.layers[f"{module}.lora_A.weight"]
        tensors[f"unet.{module}.lora.up.weight"] = LazyTensor.made_by(scaled, lora.layers[f"{module}.lora_B.weight"])
    return tensors
