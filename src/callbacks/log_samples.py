"""Sample clips during validation: what the model makes now, beside what it was shown."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

from ..loggers import log_image, log_videos
from ..media import contact_sheet, to_frames, write_mp4, write_png
from ..memory import tiled
from ..metrics.reference_copy import ReferenceCopy
from ..models.base import VideoDiffusion
from ..models.draws import Draws, mix

log = logging.getLogger(__name__)


class LogSamples(Callback):
    """Generates the first `num_clips` clips of the validation set and writes mp4, reference images and a contact sheet.

    Each clip keeps its noise from one validation to the next (`seed` and its place decide), so that a change in the
    picture is a change of the model. Files go to `folder/step_N`, and to W&B or TensorBoard where configured. Every
    rank makes its share. `every_n_validations`: 0 for never, 1 for each; `num_clips` 0: none. `sampling`: as in
    `sample.py`; `num_inference_steps`: fewer than it says, for speed. Against running out of memory, `batch_size`:
    clips that are made at a time (None: as validation's batches), and `tiling`: decode tile by tile. Clips whose last
    frames become their reference are warned of, and their share is logged as `val/reference_copy`.
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
        num_inference_steps: int | None = None,
        batch_size: int | None = None,
        tiling: bool = False,
    ):
        for name, value, least in (
            ("num_clips", num_clips, 0),
            ("every_n_validations", every_n_validations, 0),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}: callbacks.log_samples.{name}")
        self.folder, self.fps = Path(folder), fps
        self.num_clips, self.every_n_validations, self.seed = num_clips, every_n_validations, seed
        self.sampling = dict(sampling or {})
        if num_inference_steps is not None:
            self.sampling["num_inference_steps"] = num_inference_steps
        self.batch_size, self.tiling = batch_size, tiling
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
        if trainer.sanity_checking or not self.every_n_validations or not self.num_clips:
            return
        self._num_validations += 1
        if (self._num_validations - 1) % self.every_n_validations:
            return
        wanted, rows, paths, index = -(-self.num_clips // trainer.world_size), [], [], 0
        folder = self.folder / f"step_{trainer.global_step:07d}"
        copies = ReferenceCopy()
        for batch in self._parts(wanted):
            clips = self._generate(pl_module, batch, index * trainer.world_size + trainer.global_rank)
            for place, clip in enumerate(clips):
                frames, references = to_frames(clip), reference_pictures(batch, place)
                name = f"{index * trainer.world_size + trainer.global_rank:03d}"
                write_mp4(folder / f"{name}.mp4", frames, self.fps)
                for number, reference in enumerate(references):
                    write_png(folder / f"{name}_reference_{number}.png", reference)
                (folder / f"{name}.txt").write_text(batch["caption"][place] + "\n")
                # Of an image-to-video method's first frame a still clip is a copy, which is another matter.
                copies.update(frames, references if "reference_pixel_values" in batch else [])
                rows.append((references, frames))
                paths.append(folder / f"{name}.mp4")
                index += 1
        self._batches = []
        self._log_copies(trainer, pl_module, copies, paths)
        if not rows:
            return
        sheet = contact_sheet(rows)
        write_png(folder / (f"sheet_{trainer.global_rank}.png" if trainer.global_rank else "sheet.png"), sheet)
        if trainer.is_global_zero:
            log_image(trainer.loggers, "samples/sheet", sheet, trainer.global_step)
            log_videos(
                trainer.loggers, "samples/clips", paths, [frames for _, frames in rows], self.fps, trainer.global_step
            )

    def _parts(self, wanted: int) -> Iterator[dict[str, Any]]:
        """Yield the first `wanted` clips, at most `batch_size` at a time."""
        left = wanted
        for batch in self._batches:
            batch = _slice(batch, 0, left)
            count = len(batch["caption"])
            left -= count
            step = self.batch_size or max(count, 1)
            for start in range(0, count, step):
                yield _slice(batch, start, start + step)

    def _generate(self, pl_module: VideoDiffusion, batch: dict[str, Any], first: int) -> torch.Tensor:
        num_frames, height, width = pl_module.clip_shape(batch)
        trainer = pl_module.trainer
        seeds = [mix(self.seed, first + place * trainer.world_size) for place in range(len(batch["caption"]))]
        # The precision of training: hooks run outside of it, and float32 takes twice the memory.
        with trainer.precision_plugin.val_step_context(), tiled(pl_module.autoencoder, self.tiling):
            return pl_module.generate(
                batch,
                Draws(seeds, pl_module.device),
                num_frames=num_frames,
                height=height,
                width=width,
                **self.sampling,
            )

    def _log_copies(
        self, trainer: Trainer, pl_module: VideoDiffusion, metric: ReferenceCopy, paths: list[Path]
    ) -> None:
        copies = metric.per_clip()["copies_reference"]
        for path, is_copy in zip(paths, copies.tolist(), strict=True):
            if is_copy == 1:
                log.warning("the last frames of %s become its reference picture (val/reference_copy)", path)
        counts = torch.stack([copies.nansum(), (~copies.isnan()).sum()]).to(pl_module.device)
        if trainer.world_size > 1:
            counts = torch.as_tensor(pl_module.all_gather(counts)).sum(dim=0)
        if counts[1]:
            pl_module.log("val/reference_copy", counts[0] / counts[1], batch_size=1)


def reference_pictures(batch: dict[str, Any], place: int) -> list[np.ndarray]:
    """Return the pictures (h w 3 uint8) that one clip of `batch` is made after: references, or its first frame."""
    images = [batch[name][place] for name in ("reference_pixel_values", "image_pixel_values") if name in batch]
    return [frame for image in images for frame in to_frames(image)]


def _slice(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {name: value[start:stop] for name, value in batch.items()}
