"""Stages of a recipe within one run: a setting of the method that changes at given steps."""

import logging
from collections.abc import Sequence
from typing import Any

from lightning import Callback, Trainer

from ..models.base import VideoDiffusion

log = logging.getLogger(__name__)


class SettingSchedule(Callback):
    """Gives the method's `setting` the i-th of `values` from the i-th of `steps` on.

    It depends on the step alone, so that a resumed run does what an uninterrupted one does. Before the first of the
    steps the method's own value holds.
    """

    def __init__(self, *, setting: str, steps: Sequence[int], values: Sequence[Any]):
        if len(steps) != len(values) or not steps or min(steps) < 0 or list(steps) != sorted(set(steps)):
            raise ValueError(f"steps={list(steps)} must rise from 0 or more, one for each of {len(values)} values")
        self.setting, self.values = setting, dict(zip(steps, values, strict=True))
        self._current: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        if not hasattr(pl_module, self.setting):
            raise ValueError(f"{type(pl_module).__name__} has no setting {self.setting} that could change: callbacks")

    def on_train_batch_start(self, trainer: Trainer, pl_module: VideoDiffusion, batch: Any, batch_idx: int) -> None:
        due = [step for step in self.values if step <= trainer.global_step]
        if due and due[-1] != self._current:
            self._current = due[-1]
            setattr(pl_module, self.setting, self.values[due[-1]])
            log.info("step %d: %s=%s", trainer.global_step, self.setting, self.values[due[-1]])
