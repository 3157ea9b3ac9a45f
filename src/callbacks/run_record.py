"""What a run leaves so that it can be repeated: its configuration, in the folder, the loggers and every checkpoint."""

from pathlib import Path
from typing import Any, cast

from lightning import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

from ..datamodules.shards import write_atomically
from ..models.base import VideoDiffusion


class RunRecord(Callback):
    """Saves `config` as `config.yaml` (resolved) and in checkpoints as a plain dict whose interpolations stay open.

    Open ones let another machine read the same checkpoint with its own paths.
    """

    def __init__(self, config: DictConfig):
        self.config = config

    def setup(self, trainer: Trainer, pl_module: VideoDiffusion, stage: str) -> None:
        if trainer.is_global_zero:
            folder = Path(self.config.paths.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "config.yaml", OmegaConf.to_yaml(self.config, resolve=True).encode())
        for logger in trainer.loggers:
            logger.log_hyperparams(cast(dict[str, Any], OmegaConf.to_container(self.config, resolve=True)))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: VideoDiffusion, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = OmegaConf.to_container(self.config, resolve=False)
