"""What is refused before anything heavy is imported: missing weights, missing data, a device that is not there."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def check_sources(config: DictConfig) -> None:
    """Raise ValueError where the backbone's weights or the data are not here, with the command to get them."""
    backbone = config.backbone
    if backbone.weights is not None and not Path(backbone.weights).is_dir():
        raise ValueError(
            f"the weights of backbone={_choice(config, 'backbone')} are not at {backbone.weights}. Get them with\n  "
            f"{backbone.download}\n"
            f"or point to a copy: backbone.weights=FOLDER (or the environment variable LIKENESS_WEIGHTS). "
            f"Without weights, any experiment runs with debug=tiny."
        )
    for split in ("train", "val"):
        for place in _places(OmegaConf.select(config, f"datamodule.{split}", throw_on_missing=False)):
            if _is_plain_path(place) and not Path(place).exists():
                raise ValueError(
                    f"datamodule.{split}={place} does not exist. Make shards of your videos with\n"
                    f"  python prepare.py source=video_folder source.folder=VIDEOS output={place}\nor use the toy "
                    "world: datamodule=toy"
                )
    if OmegaConf.is_missing(config.datamodule, "train"):
        raise ValueError(
            "datamodule.train must name the training shards. Make them of your videos with\n"
            "  python prepare.py source=video_folder source.folder=VIDEOS output=SHARDS\n"
            "and give datamodule.train=SHARDS, or use the toy world: datamodule=toy"
        )


def check_start(config: DictConfig) -> None:
    """Raise ValueError where `init_from` cannot be what the run starts from."""
    if config.init_weights not in ("ema", "raw"):
        raise ValueError(f"init_weights={config.init_weights} is not one of ema, raw")
    if config.init_from is not None:
        if config.ckpt not in (None, "last"):
            raise ValueError(
                f"ckpt={config.ckpt} goes on with a run, init_from={config.init_from} starts one: give one of them"
            )
        if not Path(config.init_from).exists():
            raise ValueError(f"there is no checkpoint at init_from={config.init_from}: give a .ckpt file or a run")


def check_machine(config: DictConfig) -> None:
    """Raise ValueError where the trainer asks for a GPU that is not there."""
    accelerator = OmegaConf.select(config, "trainer.accelerator")
    if accelerator in ("gpu", "cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                f"trainer.accelerator={accelerator}, but torch {torch.__version__} sees no GPU: use "
                "trainer.accelerator=cpu, or install "
                "a CUDA build of torch and check nvidia-smi"
            )


def _places(source: Any) -> list[str]:
    """Return the places of shards in a setting that may be one, a list, or a mixture of data sets by name."""
    if isinstance(source, str):
        return [source]
    if OmegaConf.is_dict(source):
        parts = source.values()
        return [place for part in parts for place in _places(part.get("shards") if OmegaConf.is_dict(part) else part)]
    return [place for part in source or [] for place in _places(part)]


def _choice(config: DictConfig, group: str) -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else group


def _is_plain_path(place: str) -> bool:
    return "://" not in place and not place.startswith("pipe:") and not any(symbol in place for symbol in "*?{[")
