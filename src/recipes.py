"""Recipes: plain nested dictionaries of everything that a stored result depends on, and what differs between two."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

Recipe = dict[str, Any]


def describe(value: Any) -> Any:
    """Return `value` as plain data for a recipe: settings of objects by name, arrays by their hash.

    An object is its class, its public attributes and, where the class has one, its `version`, which is raised when its
    code makes something else of the same settings. Raises ValueError for a function: no two versions could be told
    apart.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): describe(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (torch.dtype, torch.device, Path)):
        return str(value)
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": tensor_hash(value)}
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(value.tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": content}
    if isinstance(value, type):
        return describe_class(value)
    if isinstance(value, (FunctionType, BuiltinFunctionType, MethodType, partial)):
        raise ValueError(f"{value!r} cannot be part of a recipe: use an object of a class, with settings")
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        names = [name for name in vars(value) if not name.startswith("_")]
    return describe_class(type(value)) | {name: describe(getattr(value, name)) for name in names}


def describe_class(kind: type) -> Recipe:
    """Return the name of a class, without the modules in between: moving it changes nothing, and its `version`."""
    name = f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
    version = getattr(kind, "version", None)
    return {"class": name} | ({"version": version} if isinstance(version, int) else {})


def canonical(recipe: Any) -> bytes:
    """Return the one JSON text of `recipe`, whatever the order of its keys."""
    return json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Yield `NAME is FOUND, not WANTED` for every place where two recipes differ."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for name in sorted({*found, *wanted}):
            yield from differences(found.get(name), wanted.get(name), f"{path}.{name}" if path else str(name))
    elif canonical(found) != canonical(wanted):
        yield f"{path} is {_short(found)}, not {_short(wanted)}"


def tensor_hash(tensor: torch.Tensor) -> str:
    """Return the sha256 of all values of `tensor`."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (list, Mapping)) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
