"""Lightning checkpoints on disk: written atomically, read without unpickling objects, found again after a kill."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

if TYPE_CHECKING:
    from ..models.base import VideoDiffusion

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file, forces it to disk, renames it: a kill or a full disk leaves the previous file usable."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return _load(Path(path))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU. Raises ValueError for a truncated or a foreign file."""
    checkpoint = _load(Path(path))
    missing = [name for name in ("state_dict", "config", "global_step") if name not in checkpoint]
    if missing:
        raise ValueError(
            f"{path} was not written by train.py (no {', '.join(missing)}): ckpt must name a checkpoint of a run"
        )
    return checkpoint


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: set ckpt to a .ckpt file or to the folder of a run")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a checkpoint, or it is cut off: use an earlier one, or ckpt=FOLDER for the newest whole one"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({_first_line(error)}): ckpt must name one that train.py wrote"
        ) from error


def find_checkpoint(place: str | Path) -> Path:
    """Return the checkpoint that `place` names: a file, or the newest whole one in a folder or its `checkpoints`.

    Raises ValueError where there is none; a damaged one in a folder is passed over with a warning.
    """
    place = Path(place)
    if place.is_file():
        read_checkpoint(place)
        return place
    if not place.is_dir():
        raise ValueError(f"there is no checkpoint at {place}: set ckpt to a .ckpt file or to the folder of a run")
    candidates = sorted([*place.glob("*.ckpt"), *place.glob("checkpoints/*.ckpt")], key=_newest_first)
    for candidate in candidates:
        try:
            read_checkpoint(candidate)
        except ValueError as error:
            log.warning("passing over a damaged checkpoint: %s", error)
        else:
            return candidate
    raise ValueError(f"no whole checkpoint in {place} ({len(candidates)} damaged): set ckpt to another run")


def load_initial_weights(model: VideoDiffusion, place: str | Path, weights: str = "ema") -> None:
    """Give `model` the trained tensors of the checkpoint at `place` (as in `find_checkpoint`), and nothing else of it.

    `weights`: `ema` or `raw`. Raises ValueError, naming the first one, where trained tensors differ in name or shape,
    and where the checkpoint was trained with other frozen parts.
    """
    path = find_checkpoint(place)
    checkpoint = read_checkpoint(path)
    if weights == "ema" and "ema" not in checkpoint:
        raise ValueError(f"{path} has no weight average: give init_weights=raw")
    state_dict = checkpoint["ema"]["state_dict"] if weights == "ema" else checkpoint["state_dict"]
    found = {name: tuple(value.shape) for name, value in state_dict.items()}
    wanted = {name: tuple(value.shape) for name, value in model.trained_parameters().items()}
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"init_from={place} does not fit: {len(different)} trained tensors differ, the first is {name}, "
            f"{found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here. Use the model and the backbone "
            "that it was trained with"
        )
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(state_dict, strict=False)
    log.info("starting from the %s weights of step %d of %s", weights, checkpoint["global_step"], path)


def _newest_first(path: Path) -> tuple[float, str]:
    return -path.stat().st_mtime, path.name


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
