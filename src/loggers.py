"""Where numbers, pictures and clips go: a CSV file always, W&B or TensorBoard where configured."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Appends one row a logged step to `path`: `epoch`, `step`, then a column a metric.

    A row is written when the next step begins, so that a kill loses one step at most. A resumed run appends to it and
    drops the rows that it is about to repeat. A metric that appears for the first time adds a column.
    """

    def __init__(self, *, path: str):
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] = []
        self._has_started = False
        self._row: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCSV":
        return self

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # the resolved config lies beside the file

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._row.get("step") != step:
            self.save()
            self._row = {"epoch": "", "step": step}
        self._row |= metrics

    @rank_zero_only
    def save(self) -> None:
        """Write the current step's row."""
        if not self._row:
            return
        if not self._has_started:
            self._start(int(self._row["step"] or 0))
        new = [name for name in self._row if name not in self._columns]
        if new:
            self._rewrite(read_metrics(self.path), [*self._columns, *new])
        with open(self.path, "a", newline="") as stream:
            csv.DictWriter(stream, self._columns).writerow(self._row)
        self._row = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _start(self, step: int) -> None:
        self._has_started = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = read_metrics(self.path)
        if rows:
            self._rewrite([row for row in rows if int(row["step"]) < step], list(rows[0]))

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        from .datamodules.shards import write_atomically

        self._columns = columns
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `metrics.csv`; an empty list where there is none."""
    if not path.is_file():
        return []
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def end_runs(loggers: Iterable[Any], failed: bool) -> None:
    """End the run of W&B, which otherwise ends with the process: the next job of a sweep would go on writing to it."""
    from lightning.pytorch.loggers import WandbLogger

    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=int(failed))


def log_image(loggers: Iterable[Any], name: str, image: np.ndarray, step: int) -> None:
    """Send a picture (h w 3 uint8) to every logger that shows pictures."""
    for logger in loggers:
        kind = type(logger).__name__
        if kind == "WandbLogger":
            logger.log_image(name, [image], step=step)
        elif kind == "TensorBoardLogger":
            logger.experiment.add_image(name, image, step, dataformats="HWC")


def log_videos(
    loggers: Iterable[Any], name: str, paths: Sequence[Path], frames: Iterable[np.ndarray], fps: float, step: int
) -> None:
    """Send clips to every logger that plays them: W&B gets `paths`, TensorBoard animated `frames` (f h w 3)."""
    for logger in loggers:
        kind = type(logger).__name__
        if kind == "WandbLogger":
            logger.log_video(
                name, [str(path) for path in paths], step=step, format=["mp4"] * len(paths), fps=[int(fps)] * len(paths)
            )
        elif kind == "TensorBoardLogger":
            for index, clip in enumerate(frames):
                _add_animation(logger.experiment, f"{name}/{index}", clip, fps, step)


def _add_animation(writer: Any, name: str, frames: np.ndarray, fps: float, step: int) -> None:
    """Write an animated GIF as a TensorBoard image: its own video call needs moviepy."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    buffer = io.BytesIO()
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0
    )
    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
