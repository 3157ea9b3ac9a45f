"""Cached tensors: what the frozen networks of an experiment make of each clip, stored beside it.

Everything is taken from the training configuration itself, and clips are seen through its datamodule, so that what is
stored is what training would compute.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ...config import check, compose_config, locate, nearest
from ...datamodules.cache import (
    MEMBER,
    CachePlan,
    ClipView,
    Made,
    StoredTensors,
    clip_sources,
    dump_cache,
    full_recipe,
    make_recipes,
    without_video,
)
from ...datamodules.samples import BadSample, Sample
from ...models.frozen import Cacheable, cache_recipe
from ...models.loading import parse_dtype
from ...recipes import canonical
from ..workers import worker_device
from . import BatchStage

# Settings of a datamodule that have no part in what a clip looks like.
NOT_OF_CLIPS = {"train", "val", "source", "fetcher", "batch_size", "num_workers", "shuffle_buffer", "keep_decoded"}
NOT_OF_CLIPS |= {"seed", "skip_log", "cache"}
NOT_FROZEN = ("denoiser", "optimizer", "lr_schedule", "lora")
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
SHORT_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class Cache(BatchStage):
    """Writes `latents.safetensors`: the tensors that the method of `experiment` would compute from each clip.

    `experiment`, `overrides`, `config_dir`: as for train.py (`experiment=`, the other words, `--config-dir`).
    `tensors`: which ones, by name; None for all that the method can read. `dtype`: round them to it, which halves what
    is computed in float32 and costs the equality with computing it in training; None keeps every bit. `keep_video`:
    without it the shards hold no clips, and other settings need the clips again. `device`: of the networks, auto for
    this process's GPU. Raises ValueError where the experiment cannot be cached.
    """

    version = 1

    def __init__(
        self,
        *,
        experiment: str,
        overrides: Sequence[str] = (),
        config_dir: str | None = None,
        tensors: Sequence[str] | None = None,
        dtype: str | None = None,
        keep_video: bool = True,
        batch_size: int = 1,
        device: str = "auto",
    ):
        from ...preflight import check_sources

        self.config = _training_config(experiment, overrides, config_dir)
        check_sources(self.config)
        check(self.config)
        self.precision = _precision(self.config.trainer.get("precision") or "32-true")
        method = locate(self.config.model._target_, "model")
        known: dict[str, Cacheable] = method.cacheable()
        for name in tensors or ():
            if name not in known:
                raise ValueError(f"stages.cache.tensors: {name} is nothing that is cached{nearest(name, known)}")
        self.cacheable = {name: one for name, one in known.items() if tensors is None or name in tensors}
        if method.reads and not keep_video:
            raise ValueError(
                f"stages.cache.keep_video=false: {method.__name__} reads {', '.join(method.reads)} of every clip in "
                "training, which needs the video"
            )
        self.rounded, self.keep_video = dtype, keep_video
        if dtype is not None:
            parse_dtype(dtype)
        self.batch_size, self.device = batch_size, device

    @cached_property
    def datamodule(self) -> Any:
        """The datamodule of training, through which clips are seen."""
        from hydra.utils import instantiate

        datamodule = instantiate(self.config.datamodule, _convert_="all")
        datamodule.prepare_data = lambda: None
        return datamodule

    @cached_property
    def parts(self) -> dict[str, nn.Module]:
        """The frozen networks that are needed, and no others: the denoiser is not loaded."""
        from hydra.utils import instantiate

        names = sorted({part for one in self.cacheable.values() for part in one.parts})
        return {name: instantiate(self.config.model[name], _convert_="all").eval() for name in names}

    @cached_property
    def plan(self) -> CachePlan:
        """What training would look for."""
        computed = {name: cache_recipe(one, self.parts, self.precision) for name, one in self.cacheable.items()}
        inputs = {name: one.inputs for name, one in self.cacheable.items()}
        return CachePlan(make_recipes(computed, inputs, self.datamodule.input_recipe), inputs)

    @classmethod
    def fingerprint(cls, settings: Mapping[str, Any]) -> str:
        """Return a hash of what the experiment says of clips and networks, and of when its weights were written."""
        config = _training_config(settings["experiment"], settings.get("overrides", ()), settings.get("config_dir"))
        clips = {name: _plain(value) for name, value in config.datamodule.items() if name not in NOT_OF_CLIPS}
        objects = {name: value for name, value in config.model.items() if OmegaConf.is_dict(value)}
        parts = {name: _plain(value) for name, value in objects.items() if name not in NOT_FROZEN}
        stamps = [_stamps(value["pretrained"]) for value in parts.values() if value.get("pretrained")]
        described = [clips, config.model["_target_"], parts, str(config.trainer.get("precision")), stamps]
        return hashlib.sha256(canonical(described)).hexdigest()

    def run(self, samples: Sequence[Sample]) -> list[Sample | BadSample]:
        seen = [self._see(sample) for sample in samples]
        usable = [one for one in seen if isinstance(one, _Seen)]
        for name, cacheable in self.cacheable.items():
            todo = [one for one in usable if name in one.missing]
            for group in _groups(todo, cacheable.inputs, self.batch_size):
                tensors = self._compute(name, [one.values for one in group])
                for row, one in enumerate(group):
                    one.made[name] = self._made(name, one, {key: values[row] for key, values in tensors.items()})
        return [self._store(one) if isinstance(one, _Seen) else one for one in seen]

    def _see(self, sample: Sample) -> "_Seen | BadSample":
        """Return what the networks see of `sample`, or why they cannot."""
        try:
            rng = np.random.default_rng(0)
            before = rng.bit_generator.state
            shape = self.datamodule.shape_of(sample)
            clip = self.datamodule.clip(sample, shape, rng)
            seen = _Seen(sample, ClipView.of(clip.chosen, shape), self._stored(sample))
            seen.missing = [name for name in self.cacheable if not self._is_stored(name, seen)]
            names = {one for name in seen.missing for one in self.cacheable[name].inputs}
            if "caption" in names:
                seen.values["caption"] = sample.info["caption"]
            if "pixel_values" in names:
                seen.values["pixel_values"] = clip.frames
            if names - {"caption", "pixel_values"}:
                loaded = self.datamodule.load_conditions(sample, clip)
                seen.values |= self.datamodule.finish({"fixed": {}, "conditions": loaded}, rng)
        except BadSample as problem:
            return problem
        if names - {"caption"} and rng.bit_generator.state != before:
            raise ValueError(self._why_random())
        return seen

    def _why_random(self) -> str:
        texts = [name for name, one in self.cacheable.items() if set(one.inputs) == {"caption"}]
        others = f", or cache {texts[0]} alone: stages.cache.tensors=[{texts[0]}]" if texts else ""
        return (
            "the experiment draws frames, flips or pictures at random, so that no stored tensor stands for the clip: "
            "choose fixed ones for training as well (e.g. datamodule.frames.start=first), here in "
            f"'stages.cache.overrides=[datamodule.frames.start=first]'{others}"
        )

    @staticmethod
    def _stored(sample: Sample) -> StoredTensors | None:
        try:
            return StoredTensors.parse(sample)
        except BadSample:  # nothing there, or broken: it is replaced
            return None

    def _is_stored(self, name: str, seen: "_Seen") -> bool:
        """True where what an earlier run stored is what this one would compute."""
        if seen.stored is None:
            return False
        alone = CachePlan({name: self.plan.recipes[name]}, {name: self.cacheable[name].inputs})
        try:
            alone.load(seen.sample, seen.view)
            return seen.stored.entry(name).get("rounded") == self.rounded
        except ValueError:
            return False

    @torch.no_grad()
    def _compute(self, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        device, cacheable = worker_device(self.device), self.cacheable[name]
        batch = {one: [row[one] for row in rows] for one in cacheable.inputs}
        stacked = {
            one: torch.stack(values).to(device) if isinstance(values[0], Tensor) else values
            for one, values in batch.items()
        }
        inputs = self.datamodule.on_after_batch_transfer(stacked, 0)
        with self._autocast(device):
            parts = [self.parts[part].to(device) for part in cacheable.parts]
            tensors = cacheable.compute(*parts, *(inputs[one] for one in cacheable.inputs))
        return {key: tensor.cpu() for key, tensor in tensors.items()}

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        dtype = AUTOCAST[self.precision]
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def _made(self, name: str, seen: "_Seen", tensors: Mapping[str, Tensor]) -> Made:
        inputs, rounded = self.cacheable[name].inputs, self.rounded
        if rounded is not None:
            tensors = {key: tensor.to(parse_dtype(rounded)) for key, tensor in tensors.items()}
        recipe = full_recipe(self.plan.recipes[name], inputs, seen.view.size, rounded)
        return Made(tensors, recipe, clip_sources(seen.sample, seen.view, inputs), rounded)

    def _store(self, seen: "_Seen") -> Sample | BadSample:
        sample = seen.sample
        members = dict(sample.members)
        if seen.made:
            try:
                members[MEMBER] = dump_cache(seen.made, seen.stored)
            except BadSample:  # what else is stored is broken: it is left out
                members[MEMBER] = dump_cache(seen.made)
        stored = replace(sample, members=members)
        return stored if self.keep_video else without_video(stored, self.datamodule.described(sample).info)


@dataclass
class _Seen:
    """A sample on its way: `values` of the inputs, what is `stored` already, what is `missing`, what is `made`."""

    sample: Sample
    view: ClipView
    stored: StoredTensors | None
    values: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    made: dict[str, Made] = field(default_factory=dict)


def _groups(seen: Sequence[_Seen], inputs: Sequence[str], size: int) -> list[list[_Seen]]:
    """Return `seen` in groups of at most `size` whose inputs have equal shapes."""
    by_shape: dict[Any, list[_Seen]] = {}
    for one in seen:
        shapes = tuple(tuple(getattr(one.values[name], "shape", ())) for name in inputs)
        by_shape.setdefault(shapes, []).append(one)
    return [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]


def _training_config(experiment: str, overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    words = [f"experiment={experiment}", *overrides, "paths.output_dir=unused", "run_name=unused"]
    config = compose_config("train", words, config_dir)
    if OmegaConf.is_missing(config.datamodule, "train"):
        config.datamodule.train = "."  # clips come from this command
    return config


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _stamps(place: str) -> list[Any]:
    """Return size and time of every file of weights at `place`."""
    files = sorted(path for path in [Path(place), *Path(place).rglob("*")] if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _precision(setting: Any) -> str:
    name = SHORT_PRECISION.get(str(setting), str(setting))
    if name not in AUTOCAST:
        raise ValueError(f"trainer.precision={setting} cannot be cached for: allowed are {', '.join(AUTOCAST)}")
    return name
