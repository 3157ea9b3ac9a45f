"""Tensors in files and folders, as they lie there: mapped, not read, and nothing unpickled but tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct
from torch import Tensor

from .lazy import LazyTensor

WEIGHTS_NAME = "diffusion_pytorch_model"

_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9c"  # how torch.save begins a file: now, and before torch 1.6
# A fine-tuned SAT file also holds numpy's random state, an array of uint32: plain numbers, under two module names.
_PLAIN_ARRAYS: list[Any] = [
    _reconstruct,
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
]
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_torch_file(path: Path) -> dict[str, Any]:
    """Return the dictionary that `torch.save` wrote to `path`, its tensors mapped from the file.

    Raises ValueError for a truncated or foreign file and for one that holds objects of other kinds.
    """
    with open(path, "rb") as stream:
        start = stream.read(8)
    if not start.startswith((_ZIP, _LEGACY)):
        raise ValueError(f"{path} is neither a file of torch.save nor .safetensors")
    try:
        with torch.serialization.safe_globals(_PLAIN_ARRAYS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP))
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if "Weights only load failed" in reason:
            refused = str(error).partition("WeightsUnpickler error: ")[2].split("\n")[0]
            raise ValueError(
                f"{path} holds more than tensors and numbers ({refused or reason}), and objects are never unpickled: "
                "save its state dict alone"
            ) from error
        raise ValueError(f"{path} is cut off or damaged ({reason}): copy or download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def lazy_tensors(path: Path, tensors: Any) -> dict[str, LazyTensor]:
    """Return `tensors`, a mapping in `path`, as lazy ones. Raises ValueError where it holds anything else."""
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(f"{path} holds no tensors")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} holds no state dict: {name} is a {type(value).__name__}")
    return {name: LazyTensor.of(value.detach()) for name, value in tensors.items()}


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a .safetensors file. Raises ValueError for a truncated or foreign file."""
    from safetensors import SafetensorError, safe_open

    try:
        stream = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is cut off, or no .safetensors file ({error}): copy or download it again") from error

    def tensor(name: str) -> LazyTensor:
        entry = stream.get_slice(name)
        if entry.get_dtype() not in _DTYPES:
            raise ValueError(f"{path}: {name} is {entry.get_dtype()}: allowed are {', '.join(_DTYPES)}")
        meta = torch.empty(entry.get_shape(), dtype=_DTYPES[entry.get_dtype()], device="meta")
        return LazyTensor(meta, lambda: stream.get_tensor(name))

    return {name: tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)


def read_weights_folder(folder: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a model's folder in diffusers layout, in one file or in shards with an index.

    Raises ValueError where there is no .safetensors file, or where one of the shards is missing.
    """
    index, whole = folder / f"{WEIGHTS_NAME}.safetensors.index.json", folder / f"{WEIGHTS_NAME}.safetensors"
    files, variants = sorted(folder.glob("*.safetensors")), list(folder.glob(f"{index.stem}.*.json"))
    if not index.is_file() and not whole.is_file() and len(variants) == 1:
        index = variants[0]  # of a variant alone, such as fp16
    if index.is_file():
        places = read_json(index).get("weight_map", {})
        tensors: dict[str, LazyTensor] = {}
        for name in sorted(set(places.values())):
            if not (folder / name).is_file():
                raise ValueError(f"{index} names {name}, which is not there: download it again")
            tensors |= read_safetensors(folder / name)
        if missing := sorted(places.keys() - tensors.keys()):
            raise ValueError(f"{index} names {missing[0]}, which none of its files holds")
        return tensors
    if whole.is_file() or len(files) == 1:
        return read_safetensors(whole if whole.is_file() else files[0])
    if files:
        raise ValueError(f"{folder} holds several .safetensors files and no {index.name}: name one of them")
    if pickles := sorted(folder.glob("*.bin")):
        raise ValueError(f"{pickles[0]} is a pickle, which is not read: get or write the folder with .safetensors")
    raise ValueError(f"{folder} holds no .safetensors file")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content
