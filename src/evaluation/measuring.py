"""Measuring clips one after another: each is decoded once, given to every metric, and forgotten."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torchmetrics import Metric

from ..datamodules.images import is_animation
from ..datamodules.samples import BadSample
from ..datamodules.video import get_reader
from ..metrics.building import arguments, update
from ..metrics.increments import Increment, add_increment, increment
from .clips import MAKE_A_VIDEO, EvaluatedClip
from .models import code_of, identify
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
    return {
        "settings": node,
        "features": getattr(metric, "features", ""),
        "protocol": getattr(metric, "comparison", None),
        "models": identify(node),
        "code": code_of(metric),
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
    keys = [
        {name: key_of(clip.stamp, clip.prompt, clip.people, real, descriptions[name]) for name in metrics}
        for clip in clips
    ]
    for clip, key in zip(clips, keys, strict=True):
        pending = {name: key[name] for name in metrics if not store.has(_name(clip, real), name, key[name])}
        if pending:
            start = time.perf_counter()
            try:
                loaded, boxes = clip.load(), clip.boxes
                if is_animation(loaded.video):
                    raise BadSample("animation", f"of an animated picture one frame would be read: {MAKE_A_VIDEO}")
                frames, fps = reader.read_all(loaded.video)
            except (BadSample, OSError, ValueError) as error:
                log.warning("left out %s: %s", clip.video, error)
                measured.failed.append({"name": clip.name, "video": clip.video, "error": str(error)})
                advance()
                continue
            values = {"decoding": time.perf_counter() - start, "num_frames": len(frames), "fps": fps}
            given = {"references": loaded.references, "prompt": clip.prompt, "fps": fps, "people": clip.people}
            given["boxes"] = boxes
            for name, found in pending.items():
                added = _increment(metrics[name], frames, given, real)
                store.put(_name(clip, real), name, found, added.increment, **values, **added.values)
            measured.num_new += 1
            del frames, loaded, given
        advance()
    # Added at last, and not while frames come and go: small tensors that stay between large ones that do not
    # keep the allocator from giving memory back.
    failed = {entry["name"] for entry in measured.failed}
    for clip, key in zip(clips, keys, strict=True):
        if clip.name not in failed:
            records = {name: store.get(_name(clip, real), name, key[name]) for name in metrics}
            _add(clip, records, metrics, measured)
    return measured


def _name(clip: EvaluatedClip, real: bool) -> str:
    return f"real:{clip.name}" if real else clip.name


@dataclass(frozen=True)
class Added:
    """What a clip adds to a metric; `values`: `seconds`, and `refused`, why it cannot be measured."""

    increment: Increment
    values: dict[str, Any]


def _increment(metric: Metric, frames: np.ndarray, given: dict[str, Any], real: bool) -> Added:
    for name, what in (("references", "reference picture"), ("boxes", "boxes of where things were to be")):
        if name in arguments(metric) and not given[name]:
            return Added({}, {"seconds": 0.0, "refused": f"it has no {what}"})
    start = time.perf_counter()
    refused: str | None = None
    added: Increment = {}
    given = given | ({"real": True} if real else {})
    try:
        added = increment(metric, lambda probe: update(probe, frames, **given))
    except ValueError as error:
        refused = str(error)
    return Added(added, {"seconds": time.perf_counter() - start, "refused": refused})


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
