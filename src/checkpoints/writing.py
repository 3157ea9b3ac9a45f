"""Writing networks for others, one tensor or shard in memory at a time, whole or not at all."""

import json
import mmap
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from .files import WEIGHTS_NAME
from .lazy import LazyTensor, apply_rules_lazily, total_bytes
from .networks import TRANSFORMER, VAE, empty_model
from .sat import rules_to_sat, vae_to_sat
from .sources import SAT_FILE, SAT_VAE_FILE, Source


@contextmanager
def whole_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """Yield a folder to write to, which becomes `target` when the block ends well and vanishes when it does not.

    Raises ValueError where `target` holds something already, or where `num_bytes` do not fit its disk.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"to={target} exists: name another folder, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if num_bytes > free:
        raise ValueError(
            f"to={target} needs {num_bytes / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB: nothing was written"
        )
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
        for path in [folder, *folder.rglob("*")]:
            _synchronize(path)
        os.rename(folder, target)
        _synchronize(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_network(
    folder: Path, source: Source, dtype: torch.dtype | None, max_shard_size: str, variant: str | None = None
) -> None:
    """Write the folder of one network in diffusers layout: configuration, and safetensors in shards with an index.

    `variant`: a word in the names of the files, for `from_pretrained(..., variant=...)`.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    check_shard_size(max_shard_size)
    infix = "" if variant is None else f".{variant}"
    tensors = {name: tensor.to(dtype) for name, tensor in source.tensors.items()}
    model = empty_model(source.model_class, source.config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    plan = split_torch_state_dict_into_shards(
        {name: tensor.meta for name, tensor in tensors.items()},
        filename_pattern=f"{WEIGHTS_NAME}{infix}{{suffix}}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file, names in plan.filename_to_tensors.items():
        shard = {name: tensors[name].load().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{WEIGHTS_NAME}.safetensors.index{infix}.json").write_text(text)


def write_sat(folder: Path, source: Source, dtype: torch.dtype | None) -> None:
    """Write a transformer as a SAT folder, or a VAE as `3d-vae.pt`."""
    tensors = {name: tensor.to(dtype) for name, tensor in source.tensors.items()}
    if source.model_class.__name__ not in (TRANSFORMER, VAE):
        raise ValueError(f"format=sat holds CogVideoX networks only: {source.path} is a {source.model_class.__name__}")
    if source.is_vae:
        save_torch_file(folder / SAT_VAE_FILE, "state_dict", vae_to_sat(tensors))
        return
    try:
        if not source.config.get("use_rotary_positional_embeddings"):
            raise ValueError("its positions are not rotary")
        rules = rules_to_sat(tensors)
    except ValueError as error:
        raise ValueError(
            f"format=sat holds CogVideoX transformers with rotary positions, not {source.path}: {error}"
        ) from error
    iteration = str(source.step or 1)
    (folder / iteration).mkdir(parents=True)
    save_torch_file(folder / iteration / SAT_FILE, "module", apply_rules_lazily(rules, tensors))
    (folder / "latest").write_text(iteration)


def save_torch_file(path: Path, key: str, tensors: Mapping[str, LazyTensor]) -> None:
    """Write what `torch.save({key: tensors}, path)` would, one tensor in memory at a time.

    First the file with room for the values, then the values into the mapped file.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        room = {name: torch.empty(tensor.meta.shape, dtype=tensor.meta.dtype) for name, tensor in tensors.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({key: room}, path)
    with open(path, "r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)  # a full disk is an error here, a crash below
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        mapped = torch.load(path, mmap=True, weights_only=True)[key]
    for name, tensor in tensors.items():
        mapped[name].copy_(tensor.load())


def written_bytes(source: Source, dtype: torch.dtype | None) -> int:
    """Return the size of the tensors of `source` in `dtype`."""
    tensors = source.tensors if source.lora is None else source.lora.layers
    return total_bytes(tensor.to(dtype) for tensor in tensors.values())


def check_shard_size(size: str) -> None:
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]B", size):
        raise ValueError(f"max_shard_size={size} is not a size such as 5GB or 500MB")


def _synchronize(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
