"""One progress bar for the whole run: step, loss, clips a second, time left. Plain lines where there is no terminal."""

import logging
import time
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar

from ..models.base import VideoDiffusion, num_clips

log = logging.getLogger(__name__)


class RunProgress(ProgressBar):
    """Shows the run's progress with rich; the loss is the mean since it was last shown.

    Logs `train/data_wait`: the share of the training time, validation apart, that was spent waiting for data.
    Without a terminal (SLURM, CI) one line is logged every `log_every_s` seconds.
    """

    def __init__(self, *, refresh_every_s: float = 0.5, log_every_s: float = 30.0):
        super().__init__()
        self.refresh_every_s, self.log_every_s = refresh_every_s, log_every_s
        self._progress: Any = None
        self._is_enabled = True

    def disable(self) -> None:
        self._is_enabled = False

    def enable(self) -> None:
        self._is_enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        self._total = (
            int(trainer.estimated_stepping_batches) if trainer.estimated_stepping_batches != float("inf") else None
        )
        self._first_step, self._num_clips = trainer.global_step, 0
        self._losses: list[Any] = []
        self._start = self._shown = time.monotonic()
        self._waited_before_s = _wait_s(trainer)
        self._paused_s = 0.0
        if self._is_enabled:
            self._open(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: VideoDiffusion, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._num_clips += num_clips(batch) * trainer.world_size
        if outputs is not None:
            # Kept where it was computed: reading it waits for the device, so that is left for when it is shown.
            self._losses.append(outputs["loss"].detach())
        now = time.monotonic()
        waited = (_wait_s(trainer) - self._waited_before_s) / max(now - self._start - self._paused_s, 1e-9)
        pl_module.log("train/data_wait", waited, batch_size=1)
        interval = self.refresh_every_s if self._progress is not None else self.log_every_s
        if now - self._shown >= interval:
            self._shown = now
            self._show(trainer.global_step, now)

    def on_validation_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        self._validation_start = time.monotonic()
        if self._progress is not None:
            self._progress.update(self._task, description="validating")

    def on_validation_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._paused_s += time.monotonic() - self._validation_start
        values = ", ".join(
            f"{name} {float(value):.4f}" for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        )
        if self._progress is None:
            log.info("step %d: %s", trainer.global_step, values)
        else:
            self._progress.console.print(f"step {trainer.global_step}: {values}")
            self._progress.update(self._task, description="training")

    def on_train_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        self._show(trainer.global_step, time.monotonic())
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: VideoDiffusion, exception: BaseException) -> None:
        self._close()

    def _open(self, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("training", total=self._total, completed=step, numbers="", left="?")
        self._progress.start()

    def _show(self, step: int, now: float) -> None:
        if not self._is_enabled:
            return
        training_s = max(now - self._start - self._paused_s, 1e-9)
        steps = step - self._first_step
        left_s = (self._total - step) * training_s / steps if self._total and steps else None
        left = "?" if left_s is None else f"{int(left_s // 3600)}:{int(left_s % 3600 // 60):02d}:{int(left_s % 60):02d}"
        loss = f"loss {sum(float(loss) for loss in self._losses) / len(self._losses):.4f}  " if self._losses else ""
        self._losses = []
        numbers = f"{loss}{self._num_clips / training_s:.1f} clips/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers=numbers, left=left)
        else:
            log.info("step %d of %s  %s  %s left", step, self._total or "?", numbers, left)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _wait_s(trainer: Trainer) -> float:
    """Return how long this rank has waited for its training data so far."""
    return getattr(trainer.train_dataloader, "wait_s", 0.0)
