"""Sample clips during validation: what the model makes now, beside what it was shown."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

from ..loggers import log_image, log_videos
from ..media import contact_sheet, to_frames, write_mp4, write_png
from ..models.base import VideoDiffusion
from ..models.draws import Draws, mix

log = logging.getLogger(__name__)


class LogSamples(Callback):
    """Generates the first `num_clips` clips of the validation set and writes mp4, reference images and a contact sheet.

    Each clip keeps its noise from one validation to the next (`seed` and its place decide), so that a change in the
    picture is a change of the model. Files go to `folder/step_N`, and to W&B or TensorBoard where configured. Every
    rank makes its share. `every_n_validations`: 0 for never, 1 for each. `sampling`: as in `sample.py`.
    """

    def __init__(
        self,
        *,
        folder: str,
        fps: float,
        num_clips: int = 8,
        every_n_validations: int = 1,
        seed: int = 0,
        sampling: Mapping[str, Any] | None = None,
    ):
        self.folder, self.fps = Path(folder), fps
        self.num_clips, self.every_n_validations, self.seed = num_clips, every_n_validations, seed
        self.sampling = dict(sampling or {})
        self._num_validations = 0
        self._batches: list[dict[str, Any]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        self._batches = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: VideoDiffusion,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if sum(len(kept["caption"]) for kept in self._batches) * trainer.world_size < self.num_clips:
            self._batches.append(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        # Before `on_validation_end`, where the weight average is swapped out again.
        if trainer.sanity_checking or not self.every_n_validations or not self._batches:
            return
        self._num_validations += 1
        if (self._num_validations - 1) % self.every_n_validations:
            return
        wanted, rows, paths, index = -(-self.num_clips // trainer.world_size), [], [], 0
        folder = self.folder / f"step_{trainer.global_step:07d}"
        for batch in self._batches:
            batch = _take(batch, wanted - index)
            clips = self._generate(pl_module, batch, index * trainer.world_size + trainer.global_rank)
            for place, clip in enumerate(clips):
                frames, references = to_frames(clip), reference_pictures(batch, place)
                name = f"{index * trainer.world_size + trainer.global_rank:03d}"
                write_mp4(folder / f"{name}.mp4", frames, self.fps)
                for number, reference in enumerate(references):
                    write_png(folder / f"{name}_reference_{number}.png", reference)
                (folder / f"{name}.txt").write_text(batch["caption"][place] + "\n")
                rows.append((references, frames))
                paths.append(folder / f"{name}.mp4")
                index += 1
        self._batches = []
        sheet = contact_sheet(rows)
        write_png(folder / (f"sheet_{trainer.global_rank}.png" if trainer.global_rank else "sheet.png"), sheet)
        if trainer.is_global_zero:
            log_image(trainer.loggers, "samples/sheet", sheet, trainer.global_step)
            log_videos(
                trainer.loggers, "samples/clips", paths, [frames for _, frames in rows], self.fps, trainer.global_step
            )

    def _generate(self, pl_module: VideoDiffusion, batch: dict[str, Any], first: int) -> torch.Tensor:
        num_frames, height, width = batch["pixel_values"].shape[2:]
        world_size = pl_module.trainer.world_size
        seeds = [mix(self.seed, first + place * world_size) for place in range(len(batch["caption"]))]
        return pl_module.generate(
            batch, Draws(seeds, pl_module.device), num_frames=num_frames, height=height, width=width, **self.sampling
        )


def reference_pictures(batch: dict[str, Any], place: int) -> list[np.ndarray]:
    """Return the reference images (h w 3 uint8) of one clip of `batch`; none where the method has none."""
    images = batch.get("reference_pixel_values")
    return [] if images is None else list(to_frames(images[place]))


def _take(batch: dict[str, Any], count: int) -> dict[str, Any]:
    return {name: value[:count] for name, value in batch.items()}
