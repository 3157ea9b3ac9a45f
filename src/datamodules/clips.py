"""The LightningDataModule for clips: shards of videos with captions and whatever conditions the method asks for."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from ..recipes import describe
from .cache import MODES, CachePlan, ClipView, plan_cache
from .conditions import Condition
from .frames import FrameSelection
from .images import cover_and_crop
from .samples import BadSample, Sample, Skip
from .shards import ShardSource, list_shards, read_shard
from .stream import ShardLoader, ShardStream, StreamPlan
from .video import get_reader

log = logging.getLogger(__name__)


NUM_LOOKED_AT = 8  # samples of a data set, to see what is cached


class Clip:
    """The frames of a sample, decoded when they are first asked for. `view`: which ones, and how large."""

    def __init__(self, view: ClipView, decode: Callable[[], Tensor]):
        self.view, self._decode = view, decode

    @cached_property
    def frames(self) -> Tensor:
        return self._decode()

    def __getitem__(self, place: Any) -> Tensor:
        return self.frames[place]


class ClipDataModule(LightningDataModule):
    """Streams clips of one size.

    A batch holds `pixel_values` (b 3 f h w), `caption` (b strings), `key`, and each condition's tensors.

    `train`, `val`: where the shards are (see `list_shards`), or `source`: an object that makes them on first use.
    `frames`: which frames of a video become the clip. `conditions`: by name, what else is read from a sample. `reader`:
    pyav or decord. `shuffle_buffer`: how many samples a worker draws from, 0 for the order on disk. `keep_decoded`:
    hold decoded clips in memory, for data sets of a few thousand small clips. Samples that cannot be used are skipped,
    counted, and written to `skip_log` with the reason.

    `cache`: what becomes of tensors that prepare.py stored (stages=cache). `auto`: a data set that has them is read
    instead of computed, and a clip whose video is not needed is not decoded; `required`: likewise, and what is not
    there ends the run; `never`: they are not looked at. Those of other settings end the run, those of another video or
    caption are skipped like any sample that cannot be used.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        height: int,
        width: int,
        frames: FrameSelection,
        conditions: Mapping[str, Condition],
        train: str | Sequence[str] | None = None,
        val: str | Sequence[str] | None = None,
        source: ShardSource | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        reader: str = "pyav",
        shuffle_buffer: int = 1000,
        keep_decoded: bool = False,
        seed: int = 42,
        skip_log: str | None = None,
        cache: str = "auto",
    ):
        super().__init__()
        self.num_frames, self.height, self.width = num_frames, height, width
        self.frames, self.conditions = frames, dict(conditions)
        if (source is None) == (train is None and val is None):
            raise ValueError(
                "set datamodule.train (and datamodule.val) to folders of shards, or datamodule.source, not both"
            )
        self.source = source
        self.train_source, self.val_source = (train, val) if source is None else (source.train, source.val)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.reader = get_reader(reader)
        self.shuffle_buffer, self.keep_decoded = shuffle_buffer, keep_decoded
        self.seed, self.skip_log = seed, skip_log
        if cache not in MODES:
            raise ValueError(f"cache={cache!r} is not one of {', '.join(MODES)}: datamodule.cache")
        self.cache = cache
        self.cache_plans: dict[str, CachePlan] = {}
        self.skipped: dict[tuple[str, str], Skip] = {}
        self._train_loader: ShardLoader | None = None

    def prepare_data(self) -> None:
        if self.source is not None:
            self.source.prepare()

    def setup(self, stage: str) -> None:
        """Find out what is cached. Raises ValueError where that was made with other settings than this run has."""
        if self.trainer is None:
            return
        model: Any = self.trainer.lightning_module
        sources = {"train": self.train_source, "val": self.val_source}
        self.cache_plans = {
            split: self._plan_cache(split, model, source) for split, source in sources.items() if source is not None
        }
        model.leave_idle(set.intersection(*(set(plan.recipes) for plan in self.cache_plans.values())))

    def train_dataloader(self) -> ShardLoader:
        self._train_loader = self._loader(self.train_source, endless=True)
        return self._train_loader

    def val_dataloader(self) -> ShardLoader | list:
        return [] if self.val_source is None else self._loader(self.val_source, endless=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turn the bytes that workers send into pixels in [-1, 1], on the device: (x - 127.5) / 127.5."""
        is_bytes = {name: isinstance(value, Tensor) and value.dtype == torch.uint8 for name, value in batch.items()}
        return {name: (value.float() - 127.5) / 127.5 if is_bytes[name] else value for name, value in batch.items()}

    def clip(self, sample: Sample, rng: np.random.Generator) -> Clip:
        """Return the clip of `sample`, not decoded yet. Raises BadSample where it cannot be used."""
        num_frames, fps = sample.info.get("num_frames"), sample.info.get("fps")
        if not num_frames or not fps:
            info = self.reader.probe(sample.video)
            num_frames, fps = info.num_frames, info.fps
        indices = self.frames(num_frames, fps, rng)

        def decode() -> Tensor:
            return cover_and_crop(self.reader.read(sample.video, indices), self.height, self.width)

        return Clip(ClipView(tuple(indices), (len(indices), self.height, self.width)), decode)

    def load(self, sample: Sample, rng: np.random.Generator, plan: CachePlan | None = None) -> dict[str, Any]:
        """Return what a batch needs of `sample`, cached as `plan` says. Raises BadSample where it cannot be used."""
        clip = self.clip(sample, rng)
        loaded = {"key": sample.key, "caption": sample.info["caption"]} | (plan.load(sample, clip.view) if plan else {})
        if plan is None or "pixel_values" not in plan.unread:
            loaded["pixel_values"] = clip.frames
        return loaded | {"conditions": self.load_conditions(sample, clip)}

    def load_conditions(self, sample: Sample, clip: Clip) -> dict[str, Any]:
        """Return what each condition keeps of `sample`."""
        frames: Any = clip
        return {name: one.load(sample, frames, list(clip.view.indices)) for name, one in self.conditions.items()}

    def input_recipe(self, name: str) -> dict[str, Any]:
        """Return how `name` of a batch is made of a sample: what cached tensors depend on beside the sample."""
        if name == "caption":
            return {}
        clip = {"frames": describe(self.frames), "transform": "cover_and_crop 1", "reader": describe(self.reader)}
        return clip if name == "pixel_values" else clip | {"conditions": describe(self.conditions)}

    def finish(self, loaded: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Return one sample of a batch, with this epoch's random choices."""
        batch = {name: value for name, value in loaded.items() if name != "conditions"}
        for name, condition in self.conditions.items():
            batch |= condition.finish(loaded["conditions"][name], rng)
        return batch

    def on_skip(self, skip: Skip) -> None:
        """Remember and write down a sample that could not be used: once, however many epochs meet it again."""
        if (skip.shard, skip.key) in self.skipped:
            return
        self.skipped[skip.shard, skip.key] = skip
        log.warning("skipped %s (%s): %s", skip.key, skip.reason, skip.detail)
        if self.skip_log is not None:
            Path(self.skip_log).parent.mkdir(parents=True, exist_ok=True)
            with open(self.skip_log, "a") as stream:
                stream.write(json.dumps(vars(skip)) + "\n")

    def skip_report(self) -> str | None:
        """Return one line on the samples that could not be used, or None where all could."""
        if not self.skipped:
            return None
        reasons = Counter(skip.reason for skip in self.skipped.values())
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        return f"{len(self.skipped)} samples were skipped: {counts}" + (
            f" (listed in {self.skip_log})" if self.skip_log else ""
        )

    def _loader(self, source: str | Sequence[str] | None, *, endless: bool) -> ShardLoader:
        if source is None:
            raise ValueError("no training data: set datamodule.train to a folder of shards (prepare.py writes one)")
        trainer = self.trainer
        plan = StreamPlan(
            shards=tuple(list_shards(source)),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            shuffle_buffer=self.shuffle_buffer if endless else 0,
            endless=endless,
        )
        cached = self.cache_plans.get("train" if endless else "val")
        stream = ShardStream(plan, partial(self.load, plan=cached), self.finish, keep_decoded=self.keep_decoded)
        return ShardLoader(stream, on_skip=self.on_skip, pin_memory=torch.cuda.is_available())

    def _plan_cache(self, split: str, model: Any, source: str | Sequence[str]) -> CachePlan:
        samples = []
        for _, raw in read_shard(list_shards(source)[0], stop=None):
            if isinstance(raw, dict):
                samples.append(raw)
            if len(samples) == NUM_LOOKED_AT:
                break
        parsed = [sample for raw in samples if (sample := _parse(raw)) is not None]
        plan = plan_cache(self.cache, model, {str(source): parsed}, self.input_recipe)
        for sample in parsed:
            try:
                plan.load(sample, self.clip(sample, np.random.default_rng(0)).view)
            except BadSample:
                continue  # counted when its turn comes
        if plan.recipes:
            log.info("%s: %s are read from the shards", split, ", ".join(plan.recipes))
        return plan


def _parse(raw: dict[str, Any]) -> Sample | None:
    try:
        return Sample.parse(raw)
    except BadSample:
        return None
