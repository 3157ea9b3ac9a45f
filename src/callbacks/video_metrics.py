"""Metrics of generated clips during validation: identity, FVD to the validation set, and what else is configured."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import Trainer

from ..datamodules.boxes import TrackedBoxes
from ..media import to_frames
from ..metrics.building import arguments, build_metrics, update
from ..metrics.increments import Increment, add_increment, increment
from ..models.base import VideoDiffusion
from .log_samples import ClipListener, LogSamples

log = logging.getLogger(__name__)

BOUNDS = ("_low", "_high", "_num_real", "_num_generated")


class VideoMetrics(ClipListener):
    """Measures the clips that `LogSamples` generates, and logs `val/NAME` for every value of `metrics`.

    `metrics`: settings by name, as in `conf/metrics`; `num_clips`: clips that are measured, and made where `LogSamples`
    makes fewer; `num_real`: clips of the validation set that distances compare with (None: all). A metric without its
    model is disabled with a warning, or refused at the start where it is one of `required`.

    One clip at a time is measured, by the rank that made it; what it adds to a metric is all that is kept. Ranks then
    exchange that, so that the values do not depend on their number. With the noise of each clip always the same and the
    weight average in place (see `LogSamples`), curves show the model and nothing else.
    """

    def __init__(
        self,
        *,
        metrics: Mapping[str, Any],
        num_clips: int = 16,
        num_real: int | None = None,
        required: Sequence[str] = (),
    ):
        for name, value in (("num_clips", num_clips), ("num_real", num_real)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1: callbacks.video_metrics.{name}")
        if unknown := sorted(set(required) - set(metrics)):
            raise ValueError(f"callbacks.video_metrics.required: {unknown[0]} is not one of {', '.join(metrics)}")
        self.num_clips, self.num_real = num_clips, num_real
        self._fps = 8.0
        self._metrics, disabled = build_metrics(metrics, required)
        for name, reason in disabled.items():
            log.warning("validation goes without %s: %s", name, reason)
        self._comparing = [name for name, metric in self._metrics.items() if "real" in arguments(metric)]
        self._generated: list[tuple[int, str, Increment]] = []
        self._real: list[tuple[int, str, Increment]] = []
        self._num_seen = 0  # real clips, by this rank
        self._has_real = self._has_warned = False
        self._refused: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: VideoDiffusion, stage: str) -> None:
        callbacks: list[Any] = getattr(trainer, "callbacks")  # noqa: B009, Lightning sets it by name
        maker = next((one for one in callbacks if isinstance(one, LogSamples)), None)
        if maker is None or not maker.every_n_validations:
            raise ValueError(
                "callbacks.video_metrics measures the clips that callbacks.log_samples makes: keep that, with "
                "callbacks.log_samples.every_n_validations=1 (num_clips=0 writes none)"
            )
        self._fps = maker.fps

    def on_validation_start(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        self._generated = []
        if not self._has_real:
            self._real, self._num_seen = [], 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: VideoDiffusion,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._has_real or trainer.sanity_checking or not self._comparing:
            return
        if "pixel_values" not in batch:
            if not self._has_warned:
                log.warning("validation clips are cached latents: %s have nothing to compare with", self._comparing)
            self._has_warned = True
            return
        for clip in batch["pixel_values"]:
            number = self._num_seen * trainer.world_size + trainer.global_rank
            self._num_seen += 1
            if self.num_real is None or number < self.num_real:
                self._measure(self._real, self._comparing, number, to_frames(clip), real=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        # The validation set is the same every time: its clips are measured once.
        self._has_real = self._has_real or not trainer.sanity_checking

    def on_clip_sampled(
        self,
        place: int,
        frames: np.ndarray,
        references: list[np.ndarray],
        prompt: str,
        boxes: TrackedBoxes | None = None,
    ) -> None:
        if place < self.num_clips:
            lacking = {name for name, value in (("references", references), ("boxes", boxes)) if not value}
            names = [name for name in self._metrics if not lacking & arguments(self._metrics[name])]
            given = {"references": references, "prompt": prompt, "fps": self._fps, "boxes": boxes}
            self._measure(self._generated, names, place, frames, **given)

    def on_clips_sampled(self, trainer: Trainer, pl_module: VideoDiffusion) -> None:
        everyones = [_gathered(one) for one in (self._real, self._generated)]
        for name, metric in self._metrics.items():
            metric.reset()
            # What all ranks have measured is in it already; `compute` would gather it from all of them once more.
            metric.distributed_available_fn = lambda: False
            added = [one for part in everyones for _, of, one in sorted(part, key=lambda entry: entry[0]) if of == name]
            for one in added:
                add_increment(metric, one)
            if any(of == name for _, of, _ in everyones[1]):
                _log_values(pl_module, metric)

    def _measure(
        self,
        found: list[tuple[int, str, Increment]],
        names: Sequence[str],
        place: int,
        frames: np.ndarray,
        **given: Any,
    ) -> None:
        for name in names:
            try:
                added = increment(self._metrics[name], lambda probe: update(probe, frames, **given))
            except ValueError as error:  # as evaluate.py does: a clip that a metric cannot take is left out of it
                if name not in self._refused:
                    log.warning("validation: %s leaves out clip %d and others like it: %s", name, place, error)
                self._refused.add(name)
                continue
            found.append((place, name, added))


def _log_values(pl_module: VideoDiffusion, metric: Any) -> None:
    for name, value in metric.compute().items():
        if torch.isfinite(value) and not name.endswith(BOUNDS):
            pl_module.log(f"val/{name}", value.float().to(pl_module.device), batch_size=1)
    for note in metric.notes():
        log.info("validation: %s", note)


def _gathered(found: list[Any]) -> list[Any]:
    """Return what all ranks have found."""
    if not dist.is_available() or not dist.is_initialized():
        return found
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return [one for part in parts for one in part]
