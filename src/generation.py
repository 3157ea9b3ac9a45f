"""From a checkpoint to a model that can sample."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from .checkpoints.lightning import find_checkpoint, read_checkpoint
from .config import nearest
from .models.loading import parse_dtype

if TYPE_CHECKING:
    from .datamodules.conditions import Condition
    from .models.base import VideoDiffusion

log = logging.getLogger(__name__)


def load_run(
    ckpt: str, paths: Mapping[str, Any], weights: str = "ema", size: Mapping[str, int] | None = None
) -> tuple[VideoDiffusion, dict[str, Condition], DictConfig]:
    """Return the model of a checkpoint, the conditions that it was trained with, and its configuration.

    `ckpt`: a file or the folder of a run. `paths`: this machine's, in place of the training machine's. `weights`: `ema`
    or `raw`. `size`: num_frames, height or width in place of the training's, for clips and conditions alike.
    """
    from hydra.utils import instantiate

    from .datamodules.conditions import given_conditions

    if weights not in ("ema", "raw"):
        raise ValueError(f"weights={weights} is not one of ema, raw")
    path = find_checkpoint(ckpt)
    checkpoint = read_checkpoint(path)
    config = OmegaConf.create(checkpoint["config"])
    config.paths = OmegaConf.create(dict(paths))
    for name, value in (size or {}).items():
        config.datamodule[name] = value
    check_backbone(config)
    model: VideoDiffusion = instantiate(config.model, _convert_="all")
    model.on_load_checkpoint(checkpoint)
    if weights == "ema" and "ema" not in checkpoint:
        raise ValueError(f"{path} has no weight average: give weights=raw")
    state_dict = checkpoint["ema"]["state_dict"] if weights == "ema" else checkpoint["state_dict"]
    model.load_state_dict(state_dict, strict=False)
    conditions = given_conditions(instantiate(config.datamodule.conditions, _convert_="all"))
    log.info("%s weights of step %d from %s", weights, checkpoint["global_step"], path)
    return model.eval(), conditions, config


def check_backbone(config: DictConfig) -> None:
    """Raise ValueError where the frozen weights that the checkpoint needs are not on this machine."""
    folder = config.backbone.weights
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"the checkpoint needs the weights at {folder}. Get them with\n  {config.backbone.download}")


def check_sampling(model: VideoDiffusion, sampling: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that the method does not take."""
    allowed = [name for names in model.sampling_settings().values() for name in names]
    for name in sampling:
        if name not in allowed:
            raise ValueError(
                f"sampling.{name} is not a setting of {type(model).__name__}.sample{nearest(str(name), allowed)}"
            )


def num_steps(model: VideoDiffusion, sampling: Mapping[str, Any]) -> int:
    """Return how many steps the method's `sample` takes with these settings."""
    default = inspect.signature(model.sample).parameters["num_inference_steps"].default
    return int(sampling.get("num_inference_steps", default))


def choose_device(device: str, dtype: str, local_index: int = 0) -> tuple[torch.device, torch.dtype]:
    """Return device and dtype of the denoiser. `auto`: a GPU with bfloat16, else the CPU with float32.

    Of several GPUs, the process with that `local_index` takes its own.
    """
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        raise ValueError(f"device={device} is not one of auto, cpu, cuda, cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device}, but torch {torch.__version__} sees no GPU: use device=cpu")
    if device == "auto":
        has_gpu = torch.cuda.is_available()
        device = f"cuda:{local_index % torch.cuda.device_count()}" if has_gpu else "cpu"
    chosen = torch.device(device)
    if dtype == "auto":
        return chosen, torch.bfloat16 if chosen.type == "cuda" else torch.float32
    return chosen, parse_dtype(dtype)
