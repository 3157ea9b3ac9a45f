"""Checkpoints while training, one of the last step whatever the interval, and the best by any logged value."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..models.base import VideoDiffusion

log = logging.getLogger(__name__)


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


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, for values that are not defined at every validation, such as those of faces.

    Validations without `monitor` are passed over, with a warning that says what was logged.
    """

    _has_warned = False

    def on_validation_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        if trainer.sanity_checking or self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
        elif not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s is not logged yet, so no best checkpoint is kept; logged are %s",
                self.monitor,
                ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/"))),
            )

    def on_fit_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        if self.best_model_path:
            log.info("the best checkpoint by %s is %s", self.monitor, self.best_model_path)
        elif trainer.global_step:
            log.warning("there is no best checkpoint: %s was never logged", self.monitor)
