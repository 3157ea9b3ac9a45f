"""Sample clips during validation: what the model makes now, beside what it was shown."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer

from ..datamodules.boxes import TrackedBoxes
from ..datamodules.drawing import overlaid
from ..datamodules.video import get_reader
from ..loggers import log_image, log_videos
from ..media import contact_sheet, to_frames, write_mp4, write_png
from ..memory import tiled
from ..metrics.reference_copy import ReferenceCopy
from ..metrics.states import evenly_spaced
from ..models.base import VideoDiffusion
from ..models.draws import Draws, mix

log = logging.getLogger(__name__)

NUM_SHEET_FRAMES = 6


class ClipListener(Callback):
    """A callback that is shown every clip that `LogSamples` generates, so that nobody generates clips twice.

    `num_clips`: how many it wants to see, of all ranks together.
    """

    num_clips = 0

    def on_clip_sampled(
        self,
        place: int,
        frames: np.ndarray,
        references: list[np.ndarray],
        prompt: str,
        boxes: TrackedBoxes | None = None,
    ) -> None:
        """Take clip `place` of all: `frames` (f h w 3), its `references` (h w 3), uint8, and `boxes`, as the model saw
        them.
        """

    def on_clips_sampled(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        """All clips of this validation have been shown, on every rank."""


class LogSamples(Callback):
    """Generates the first `num_clips` clips of the validation set and writes mp4, reference images and a contact sheet.

    Each clip keeps its noise from one validation to the next (`seed` and its place decide), so that a change in the
    picture is a change of the model. Files go to `folder/step_N`, and to W&B or TensorBoard where configured. Every
    rank makes its share. `every_n_validations`: 0 for never, 1 for each; `num_clips` 0: none. `sampling`: as in
    `sample.py`; `num_inference_steps`: fewer than it says, for speed. Against running out of memory, `batch_size`:
    clips that are made at a time (None: as validation's batches), and `tiling`: decode tile by tile. Where clips have
    boxes, these are drawn into a second file and row of the sheet, and into the real clip in a third. Clips whose last
    frames become their reference are warned of, and their share is logged as `val/reference_copy`. Other callbacks see
    the clips too (`ClipListener`); where one wants more than `num_clips`, more are made, and not written. After
    `time_budget_s` seconds no further batch is begun; how many clips there were is logged as `val/num_sampled`.
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
        time_budget_s: float | None = None,
    ):
        for name, value, least in (
            ("num_clips", num_clips, 0),
            ("every_n_validations", every_n_validations, 0),
            ("batch_size", batch_size, 1),
            ("time_budget_s", time_budget_s, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}: callbacks.log_samples.{name}")
        self.folder, self.fps = Path(folder), fps
        self.num_clips, self.every_n_validations, self.seed = num_clips, every_n_validations, seed
        self.sampling = dict(sampling or {})
        if num_inference_steps is not None:
            self.sampling["num_inference_steps"] = num_inference_steps
        self.batch_size, self.tiling, self.time_budget_s = batch_size, tiling, time_budget_s
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
        seen = sum(len(kept["caption"]) for kept in self._batches)
        if seen < self._wanted(trainer):
            # Without the clip itself, unless the method needs it: one clip at a time is enough in memory.
            large = {"pixel_values", "drawn_pixel_values"} - set(pl_module.reads)
            self._batches.append({name: value for name, value in batch.items() if name not in large})
            self._batches[-1]["shape"] = [pl_module.clip_shape(batch)] * len(batch["caption"])
            if seen < self._num_written(trainer) and "boxes" in batch and "pixel_values" in batch:
                self._batches[-1]["real"] = [to_frames(clip) for clip in batch["pixel_values"]]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        # Before `on_validation_end`, where the weight average is swapped out again.
        if trainer.sanity_checking or not self.every_n_validations or not self._wanted(trainer):
            return
        self._num_validations += 1
        if (self._num_validations - 1) % self.every_n_validations:
            return
        folder = self.folder / f"step_{trainer.global_step:07d}"
        listeners, num_written = _listeners(trainer), self._num_written(trainer)
        copies, names, rows, paths = ReferenceCopy(), [], [], []
        for index, (batch, place, clip) in enumerate(self._clips(trainer, pl_module)):
            frames, references, boxes = to_frames(clip), reference_pictures(batch, place), given_boxes(batch, place)
            number = index * trainer.world_size + trainer.global_rank
            # Of an image-to-video method's first frame a still clip is a copy, which is another matter.
            copies.update(frames, references if "reference_pixel_values" in batch else [])
            for listener in listeners:
                listener.on_clip_sampled(number, frames, references, batch["caption"][place], boxes)
            names.append(str(folder / f"{number:03d}.mp4") if index < num_written else f"clip {number}")
            if index < num_written:
                views = {"": frames}
                if boxes is not None:
                    real = {"_real_boxes": batch["real"][place]} if "real" in batch else {}
                    views |= {name: overlaid(one, boxes) for name, one in ({"_boxes": frames} | real).items()}
                paths += self._write(folder, number, views, references, batch["caption"][place])
                rows += [(references, one[evenly_spaced(len(one), NUM_SHEET_FRAMES)]) for one in views.values()]
        self._batches = []
        self._log_copies(trainer, pl_module, copies, names)
        for listener in listeners:
            listener.on_clips_sampled(trainer, pl_module)
        if rows:
            self._log_clips(trainer, folder, rows, paths)

    def _wanted(self, trainer: Trainer) -> int:
        """Return how many clips this rank makes."""
        total = max([self.num_clips, *(listener.num_clips for listener in _listeners(trainer))])
        return -(-total // trainer.world_size)

    def _num_written(self, trainer: Trainer) -> int:
        return -(-self.num_clips // trainer.world_size)

    def _clips(self, trainer: Trainer, pl_module: VideoDiffusion) -> Iterator[tuple[dict[str, Any], int, torch.Tensor]]:
        """Yield (batch, place in it, clip) until enough are made, or the time is over."""
        parts, start, first = list(self._parts(self._wanted(trainer))), time.monotonic(), 0
        num_parts = torch.tensor(len(parts), device=pl_module.device)
        # Ranks may have different numbers of batches, and must stop together.
        for step in range(int(trainer.strategy.reduce(num_parts, reduce_op="max"))):
            if step and self._is_over(trainer, start):
                break
            if step >= len(parts):
                continue
            clips = self._generate(pl_module, parts[step], first * trainer.world_size + trainer.global_rank)
            for place, clip in enumerate(clips):
                yield parts[step], place, clip
            first += len(clips)
        if self.time_budget_s is not None:
            counts = torch.tensor([first, sum(len(part["caption"]) for part in parts)], device=pl_module.device)
            made, planned = torch.as_tensor(trainer.strategy.reduce(counts, reduce_op="sum")).tolist()
            if made < planned:
                log.info("time_budget_s=%g was over after %d of %d clips", self.time_budget_s, made, planned)
            pl_module.log("val/num_sampled", float(made), batch_size=1)

    def _is_over(self, trainer: Trainer, start: float) -> bool:
        if self.time_budget_s is None:
            return False
        return trainer.strategy.reduce_boolean_decision(time.monotonic() - start > self.time_budget_s, all=False)

    def _write(
        self, folder: Path, number: int, views: dict[str, np.ndarray], references: list[np.ndarray], prompt: str
    ) -> list[Path]:
        """Write a clip's `views`, frames (f h w 3) by what is added to its name; return their files."""
        paths = [folder / f"{number:03d}{name}.mp4" for name in views]
        for path, frames in zip(paths, views.values(), strict=True):
            write_mp4(path, frames, self.fps)
        for place, reference in enumerate(references):
            write_png(folder / f"{number:03d}_reference_{place}.png", reference)
        (folder / f"{number:03d}.txt").write_text(prompt + "\n")
        return paths

    def _log_clips(self, trainer: Trainer, folder: Path, rows: list[Any], paths: list[Path]) -> None:
        sheet = contact_sheet(rows, NUM_SHEET_FRAMES)
        write_png(folder / (f"sheet_{trainer.global_rank}.png" if trainer.global_rank else "sheet.png"), sheet)
        if trainer.is_global_zero:
            log_image(trainer.loggers, "samples/sheet", sheet, trainer.global_step)
            frames = (get_reader("pyav").read_all(path.read_bytes())[0] for path in paths)
            log_videos(trainer.loggers, "samples/clips", paths, frames, self.fps, trainer.global_step)

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
        num_frames, height, width = batch["shape"][0]
        batch = {name: value for name, value in batch.items() if name not in ("shape", "real")}
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

    def _log_copies(self, trainer: Trainer, pl_module: VideoDiffusion, metric: ReferenceCopy, names: list[str]) -> None:
        copies = metric.per_clip()["copies_reference"]
        for name, is_copy in zip(names, copies.tolist(), strict=True):
            if is_copy == 1:
                log.warning("the last frames of %s become its reference picture (val/reference_copy)", name)
        counts = torch.stack([copies.nansum(), (~copies.isnan()).sum()]).to(pl_module.device)
        if trainer.world_size > 1:
            counts = torch.as_tensor(pl_module.all_gather(counts)).sum(dim=0)
        if counts[1]:
            pl_module.log("val/reference_copy", counts[0] / counts[1], batch_size=1)


def _listeners(trainer: Any) -> list[ClipListener]:
    return [callback for callback in trainer.callbacks if isinstance(callback, ClipListener)]


def reference_pictures(batch: dict[str, Any], place: int) -> list[np.ndarray]:
    """Return the pictures (h w 3 uint8) that one clip of `batch` is made after: references, or its first frame."""
    images = [batch[name][place] for name in ("reference_pixel_values", "image_pixel_values") if name in batch]
    return [frame for image in images for frame in to_frames(image)]


def given_boxes(batch: dict[str, Any], place: int) -> TrackedBoxes | None:
    """Return where things are to be in one clip of `batch`, of those slots that have any."""
    if "boxes" not in batch:
        return None
    places = "object_boxes" if "object_boxes" in batch else "boxes"
    names = (places, "track_masks", "track_colours", "track_ids")
    boxes, masks, colours, ids = (batch[name][place].cpu().numpy() for name in names)
    used = masks.any(axis=0)
    soft = batch["box_hardness"][place].cpu().numpy() == 0 if "box_hardness" in batch else np.zeros(masks.shape, bool)
    return TrackedBoxes(
        boxes=boxes[:, used].astype(np.float64),
        present=masks[:, used] > 0,
        colours=(colours[used] * 255).round().astype(int),
        soft=soft[:, used],
        ids=tuple(map(str, ids[used])),
        labels=("",) * int(used.sum()),
    )


def _slice(batch: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {name: value[start:stop] for name, value in batch.items()}
