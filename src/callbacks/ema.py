"""Exponential moving average of the trained weights, used for validation and sampling."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from ..models.base import VideoDiffusion


def ema_decay(num_updates: int, limit: float) -> float:
    """Return the decay of update `num_updates` (from 1): min(limit, (1 + k) / (10 + k)).

    Source: Concat-ID code (SAT `ema`).
    """
    return min(limit, (1 + num_updates) / (10 + num_updates))


class EMA(Callback):
    """Keeps a float32 average of every trained tensor, swaps it in for validation, and saves it in the checkpoint.

    The average starts as a copy of the start weights. Only trained tensors are copied: a frozen text encoder costs
    nothing.
    """

    def __init__(self, *, decay: float = 0.9999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must lie in [0, 1): callbacks.ema.decay")
        self.decay = decay
        self.num_updates = 0
        self.average: dict[str, Tensor] = {}
        self._is_swapped = False

    def on_fit_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        trained = pl_module.trained_parameters()
        if not self.average:
            self.average = {name: value.detach().float().clone() for name, value in trained.items()}
        self.average = {name: value.to(trained[name].device) for name, value in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: VideoDiffusion, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The optimizer steps less often than batches end where gradients are accumulated.
        if trainer.global_step == self.num_updates:
            return
        self.num_updates = trainer.global_step
        trained = [value.detach().float() for value in pl_module.trained_parameters().values()]
        torch._foreach_lerp_(list(self.average.values()), trained, 1 - ema_decay(self.num_updates, self.decay))

    def on_validation_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        if self.num_updates:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        if self._is_swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: VideoDiffusion, exception: BaseException) -> None:
        if self._is_swapped:
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: VideoDiffusion, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {"num_updates": self.num_updates, "state_dict": self.average}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: VideoDiffusion, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("ema")
        if saved is None:
            raise ValueError(
                "the checkpoint has no weight average: resume with '~callbacks.ema', or from another checkpoint"
            )
        self.num_updates = saved["num_updates"]
        self.average = {name: value.float() for name, value in saved["state_dict"].items()}

    @torch.no_grad()
    def _swap(self, pl_module: VideoDiffusion) -> None:
        self._is_swapped = not self._is_swapped
        for name, parameter in pl_module.trained_parameters().items():
            current = parameter.detach().float().clone()
            parameter.copy_(self.average[name])
            self.average[name] = current
