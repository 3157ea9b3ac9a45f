"""Checkpoints while training, and one of the last step whatever the interval."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..models.base import VideoDiffusion


class RunCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which also saves the run's last step where the interval does not fall on it."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: VideoDiffusion, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            path = self.format_checkpoint_name({"step": torch.tensor(trainer.global_step)})
            if not Path(path).is_file():
                trainer.save_checkpoint(path)
