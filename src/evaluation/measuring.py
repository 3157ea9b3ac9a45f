"""Measuring clips one after another: each is decoded once, given to every metric, and forgotten."""

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torchmetrics import Metric

from ..datamodules.samples import BadSample
from ..datamodules.video import get_reader
from ..metrics.building import arguments, update
from ..metrics.increments import Increment, add_increment, increment
from .clips import EvaluatedClip
from .models import identify
from .store import Store, key_of

log = logging.getLogger(__name__)

DECODING = "decoding"


@dataclass
class Timing:
    """Seconds and clips of one kind of work. What was measured in an earlier run counts with the time it took then."""

    seconds: float = 0.0
    num_clips: int = 0

    def add(self, seconds: float) -> None:
        self.seconds += seconds
        self.num_clips += 1

    @property
    def clips_per_s(self) -> float:
        return self.num_clips / self.seconds if self.seconds else float("inf")


@dataclass
class Measured:
    """What came of it.

    `clips`: those that could be read; `failed`: the others with what is wrong; `of_metric`: which of `clips` each
    metric has rows of, in that order; `refused`: clips that a metric could not take, with its reason; `num_new`: clips
    that were decoded now, and not known from an earlier run.
    """

    clips: list[EvaluatedClip] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    of_metric: dict[str, list[int]] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    num_new: int = 0


def describe(node: Any, metric: Metric) -> dict[str, Any]:
    """Return everything that the values of a metric depend on: settings, features, protocol, model files, its code."""
    source = Path(inspect.getfile(type(metric))).read_bytes()
    return {
        "settings": node,
        "features": getattr(metric, "features", ""),
        "protocol": getattr(metric, "comparison", None),
        "models": identify(node),
        "code": key_of(source.decode()),
    }


def measure(
    clips: Sequence[EvaluatedClip],
    metrics: dict[str, Metric],
    descriptions: dict[str, Any],
    store: Store,
    *,
    real: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Add every clip to every metric, from `store` where it is known. `real`: clips to compare with, not generated."""
    measured = Measured(timings={name: Timing() for name in (DECODING, *metrics)})
    measured.of_metric = {name: [] for name in metrics}
    reader = get_reader("pyav")
    for clip in clips:
        keys = {name: key_of(clip.stamp, clip.prompt, clip.people, real, descriptions[name]) for name in metrics}
        store_name = f"real:{clip.name}" if real else clip.name
        pending = [name for name in metrics if not store.has(store_name, name, keys[name])]
        if pending:
            try:
                start = time.perf_counter()
                loaded = clip.load()
                frames, fps = reader.read_all(loaded.video)
                decoding = time.perf_counter() - start
            except (BadSample, ValueError, OSError) as error:
                log.warning("left out %s: %s", clip.video, error)
                measured.failed.append({"name": clip.name, "video": clip.video, "error": str(error)})
                advance()
                continue
            measured.num_new += 1
            given = {"references": loaded.references, "prompt": clip.prompt, "fps": fps, "people": clip.people}
            for name in pending:
                start = time.perf_counter()
                added, reason = _increment(metrics[name], frames, given, real)
                seconds = time.perf_counter() - start
                size = {"num_frames": len(frames), "height": frames.shape[1], "width": frames.shape[2], "fps": fps}
                values = {"refused": reason, "seconds": seconds, "decoding": decoding, "size": size}
                store.put(store_name, name, keys[name], added, **values)
            del frames, loaded, given
        _add(clip, {name: store.get(store_name, name, keys[name]) for name in metrics}, metrics, measured)
        advance()
    return measured


def _increment(metric: Metric, frames: np.ndarray, given: dict[str, Any], real: bool) -> tuple[Increment, str | None]:
    """Return what a clip adds to a metric, or why it cannot be measured."""
    taken = arguments(metric)
    if "references" in taken and not given["references"]:
        return {}, "has no reference picture"
    if real:
        given = given | {"real": True}
    try:
        return increment(metric, lambda probe: update(probe, frames, **given)), None
    except ValueError as error:
        return {}, str(error)


def _add(clip: EvaluatedClip, records: dict[str, Any], metrics: dict[str, Metric], measured: Measured) -> None:
    measured.clips.append(clip)
    measured.timings[DECODING].add(max(record["decoding"] for record in records.values()))
    for name, record in records.items():
        if record["refused"]:
            measured.refused.setdefault(name, []).append(f"{clip.name}: {record['refused']}")
            continue
        add_increment(metrics[name], record["increment"])
        measured.of_metric[name].append(len(measured.clips) - 1)
        measured.timings[name].add(record["seconds"])
