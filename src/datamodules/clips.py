"""The LightningDataModule for clips: shards of videos with captions and whatever conditions the method asks for."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from ..recipes import describe
from .buckets import Bucket, Buckets
from .cache import MODES, NO_CACHE, CachePlan, ClipView, plan_cache
from .conditions import Clip, Condition, given_conditions
from .frames import ChosenFrames, FrameSelection
from .images import CoverAndCrop, Geometry, Transform
from .mixture import Mixture, Source
from .plan import Part, StreamPlan
from .remote import Fetcher
from .samples import BadSample, Sample, Skip
from .shards import SampleColumns, ShardSource
from .stream import BatchMaker, ShardLoader
from .video import described, get_reader

log = logging.getLogger(__name__)


class ClipDataModule(LightningDataModule):
    """Streams clips: all of one size, or of several in `buckets`.

    A batch holds `pixel_values` (b 3 f h w), `caption` (b strings), `key`, what `frames` tells of its choice, and each
    condition's tensors. Pictures among the samples are clips of one frame.

    `train`, `val`: where the shards are (see `list_shards`), or a mixture of data sets (see `Mixture.open`), or
    `source`: an object that makes them on first use. `num_frames`, `height`, `width`: of every clip, without `buckets`,
    with `batch_size` of them in a batch. `frames`: which frames of a video become the clip. `transform`: how they are
    brought to its size, Concat-ID's way by default. `conditions`: by name, what else is read from a sample (None is
    left out). `reader`: pyav, decord or torchcodec. `shuffle_buffer`: how far a sample moves from its place on disk in
    training, beside the order of the shards; 0 for the order on disk. `keep_decoded`: hold decoded clips in memory, for
    data sets of a few thousand small clips. `fetcher`: for shards elsewhere. Samples that cannot be used are skipped,
    counted, and written to `skip_log` with the reason.

    `cache`: what becomes of tensors that prepare.py stored (stages=cache). `auto`: a data set that has them is read
    instead of computed, and clips are not decoded where nothing else needs them; `required`: likewise, and what is not
    there ends the run; `never`: they are not looked at. Tensors of other settings or weights end the run; those of
    another video or caption make a sample that cannot be used.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        height: int,
        width: int,
        frames: FrameSelection,
        conditions: Mapping[str, Condition | None],
        transform: Transform | None = None,
        train: Source | None = None,
        val: Source | None = None,
        source: ShardSource | None = None,
        batch_size: int = 1,
        buckets: Buckets | None = None,
        num_workers: int = 0,
        reader: str = "pyav",
        shuffle_buffer: int = 1000,
        keep_decoded: bool = False,
        fetcher: Fetcher | None = None,
        seed: int = 42,
        skip_log: str | None = None,
        cache: str = "auto",
    ):
        super().__init__()
        self.num_frames, self.height, self.width = num_frames, height, width
        self.frames, self.conditions = frames, given_conditions(conditions)
        self.transform = transform or CoverAndCrop()
        if (source is None) == (train is None and val is None):
            raise ValueError(
                "set datamodule.train (and datamodule.val) to folders of shards, or datamodule.source, not both"
            )
        if batch_size < 1 or num_workers < 0 or shuffle_buffer < 0:
            raise ValueError(
                f"batch_size={batch_size} must be at least 1, num_workers={num_workers} and shuffle_buffer="
                f"{shuffle_buffer} at least 0: datamodule"
            )
        if cache not in MODES:
            raise ValueError(f"cache={cache!r} is not one of {', '.join(MODES)}: datamodule.cache")
        self.source = source
        self.train_source, self.val_source = (train, val) if source is None else (source.train, source.val)
        self.batch_size, self.num_workers, self.buckets = batch_size, num_workers, buckets
        self.reader, self.fetcher = get_reader(reader), fetcher or Fetcher()
        self.shuffle_buffer, self.keep_decoded = shuffle_buffer, keep_decoded
        self.seed, self.skip_log = seed, skip_log
        self.cache, self.cache_plans = cache, dict.fromkeys(("train", "val"), NO_CACHE)
        self._opened: dict[str, Mixture] = {}  # by `setup`, for the loader
        self.skipped: dict[tuple[str, str], Skip] = {}
        self._train_loader: ShardLoader | None = None

    def prepare_data(self) -> None:
        if self.source is not None:
            self.source.prepare()

    def setup(self, stage: str) -> None:
        """Find out what is cached. Raises ValueError where that was made with other settings than this run has."""
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        if self.cache == "never" or not hasattr(model, "cacheable"):
            return
        sources = {"train": self.train_source, "val": self.val_source}
        there = {split: source for split, source in sources.items() if source is not None}
        self.cache_plans |= {split: self._plan_cache(model, source, split) for split, source in there.items()}
        model.leave_idle(set.intersection(*(set(self.cache_plans[split].recipes) for split in there)))

    def train_dataloader(self) -> ShardLoader:
        self._train_loader = self._loader(self.train_source, "train", endless=True)
        return self._train_loader

    def val_dataloader(self) -> ShardLoader | list:
        return [] if self.val_source is None else self._loader(self.val_source, "val", endless=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turn the bytes of pictures that workers send into pixels in [-1, 1], on the device: (x - 127.5) / 127.5."""

        def is_bytes(name: str, value: Any) -> bool:
            return name.endswith("pixel_values") and isinstance(value, Tensor) and value.dtype == torch.uint8

        return {
            name: (value.float() - 127.5) / 127.5 if is_bytes(name, value) else value for name, value in batch.items()
        }

    def load(
        self, plan: CachePlan, shapes: Sequence[Bucket], sample: Sample, bucket: int, rng: np.random.Generator
    ) -> dict[str, Any]:
        """Bring `sample` into the shape of its bucket, or read what is cached. Raises BadSample where it is no use."""
        shape = shapes[bucket]
        described = self.described(sample)
        clip = self.clip(described, shape, rng)
        labels = {name: torch.tensor(value) for name, value in clip.chosen.labels.items()}
        fixed = {"key": sample.key, "caption": sample.info["caption"], **labels}
        fixed |= plan.load(sample, ClipView.of(clip.chosen, shape))
        if "pixel_values" not in plan.unread:
            fixed["pixel_values"] = clip.frames
        return {"fixed": fixed, "conditions": self.load_conditions(described, clip)}

    def clip(self, sample: Sample, shape: Bucket, rng: np.random.Generator) -> Clip:
        """Return the clip of `sample`, not decoded yet. Raises BadSample where there are no frames for it."""
        chosen = self.frames(self.described(sample).info, shape.num_frames, rng)
        return Clip(chosen, partial(self._frames, sample, chosen, shape, rng), shape if self.buckets else None)

    def load_conditions(self, sample: Sample, clip: Clip) -> dict[str, Any]:
        """Return what each condition keeps of `sample`."""
        return {name: condition.load(sample, clip) for name, condition in self.conditions.items()}

    def finish(self, loaded: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Return one sample of a batch, with this epoch's random choices."""
        batch = dict(loaded["fixed"])
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

    def input_recipe(self, name: str) -> dict[str, Any]:
        """Return how `name` of a batch is made of a sample: what cached tensors depend on beside sample and shape."""
        if name == "caption":
            return {}
        clip = {name: describe(getattr(self, name)) for name in ("frames", "transform", "reader")}
        return clip if name == "pixel_values" else clip | {"conditions": describe(self.conditions)}

    def shape_of(self, sample: Sample) -> Bucket:
        """Return the shape that clips of `sample` have in training. Raises BadSample where it fits none."""
        if self.buckets is None:
            return Bucket(self.num_frames, self.height, self.width)
        columns = SampleColumns()
        columns.append(sample.key, 0, 1, json.dumps(sample.info).encode(), sample.members)
        table = {name: np.array(values) for name, values in columns.columns.items() if name != "key"}
        num_frames, height, width = map(int, self.buckets.shapes(table, self.frames)[0])
        if num_frames == 0:
            raise BadSample("too short", "it fills no length of datamodule.buckets")
        return Bucket(num_frames, height, width)

    def described(self, sample: Sample) -> Sample:
        """Return the sample with the length and rate of its video, where its json does not say them."""
        return described(sample, self.reader, "num_frames", "fps")

    def _frames(
        self, sample: Sample, chosen: ChosenFrames, shape: Bucket, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        return self.transform(self.reader.read(sample.video, chosen.indices), shape.height, shape.width, rng)

    def _loader(self, source: Source | None, split: str, *, endless: bool) -> ShardLoader:
        if source is None:
            raise ValueError("no training data: set datamodule.train to a folder of shards (prepare.py writes one)")
        samples = self._opened.pop(split, None) or Mixture.open(source, self.fetcher, f"datamodule.{split}")
        shapes, bucket_of = self._buckets(samples)
        if endless and self.buckets is None and (bucket_of >= 0).sum() < self.batch_size:
            raise ValueError(
                f"the data set has {(bucket_of >= 0).sum()} samples, too few for one batch of {self.batch_size}: lower "
                "datamodule.batch_size"
            )
        plan = StreamPlan(
            parts=samples.parts if endless else tuple(Part(part.shard_sizes) for part in samples.parts),
            bucket_of=bucket_of,
            batch_sizes=tuple(self.buckets.batch_size(shape) if self.buckets else self.batch_size for shape in shapes),
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer if endless else 0,
        )
        maker = BatchMaker(
            samples,
            plan,
            partial(self.load, self.cache_plans[split], shapes),
            self.finish,
            keep_decoded=self.keep_decoded,
            substitute=endless,
        )
        trainer = self.trainer
        return ShardLoader(
            maker,
            on_skip=self.on_skip,
            num_workers=self.num_workers,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            endless=endless,
            pin_memory=torch.cuda.is_available(),
        )

    def _buckets(self, samples: Mixture) -> tuple[list[Bucket], np.ndarray]:
        """Return the shapes there are, and which of them each sample has; -1 for one that cannot be used."""
        table = samples.table
        shapes = np.empty((len(samples), 4), int)
        shapes[:, :3] = (
            (self.num_frames, self.height, self.width)
            if self.buckets is None
            else self.buckets.shapes(table, self.frames)
        )
        counts = np.zeros((1, len(samples)), int)
        if self.conditions:
            counts = np.stack([one.num_references(table["references"].copy()) for one in self.conditions.values()])
        shapes[:, 3] = counts.max(axis=0)
        unusable = {
            ("damaged shard", "the shard cannot be read where it should be"): table["end"] <= table["start"],
            ("too few references", "it has fewer pictures than datamodule.conditions want"): counts.min(axis=0) < 0,
            ("too short", "it fills no length of datamodule.buckets"): shapes[:, 0] == 0,
        }
        usable = np.ones(len(samples), bool)
        for (reason, detail), flags in unusable.items():
            for number in np.flatnonzero(flags & usable):
                self.on_skip(Skip(*samples.place(int(number)), reason, detail))
            usable &= ~flags
        found, bucket_of = np.unique(shapes, axis=0, return_inverse=True)
        return [Bucket(*map(int, row)) for row in found], np.where(usable, bucket_of.reshape(-1), -1)

    def _plan_cache(self, model: Any, source: Source, split: str) -> CachePlan:
        samples = self._opened[split] = Mixture.open(source, self.fetcher, f"datamodule.{split}")

        def view(sample: Sample) -> ClipView:
            shape = self.shape_of(sample)
            return ClipView.of(self.clip(sample, shape, np.random.default_rng(0)).chosen, shape)

        return plan_cache(self.cache, split, model, samples, view, self.input_recipe)
