"""The LightningDataModule for clips: shards of videos with captions and whatever conditions the method asks for."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from .conditions import Condition
from .frames import FrameSelection
from .images import cover_and_crop
from .samples import Sample, Skip
from .shards import ShardSource, list_shards
from .stream import ShardLoader, ShardStream, StreamPlan
from .video import get_reader

log = logging.getLogger(__name__)


class ClipDataModule(LightningDataModule):
    """Streams clips of one size.

    A batch holds `pixel_values` (b 3 f h w), `caption` (b strings), `key`, and each condition's tensors.

    `train`, `val`: where the shards are (see `list_shards`), or `source`: an object that makes them on first use.
    `frames`: which frames of a video become the clip. `conditions`: by name, what else is read from a sample. `reader`:
    pyav or decord. `shuffle_buffer`: how many samples a worker draws from, 0 for the order on disk. `keep_decoded`:
    hold decoded clips in memory, for data sets of a few thousand small clips. Samples that cannot be used are skipped,
    counted, and written to `skip_log` with the reason.
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
        self.skipped: dict[tuple[str, str], Skip] = {}
        self._train_loader: ShardLoader | None = None

    def prepare_data(self) -> None:
        if self.source is not None:
            self.source.prepare()

    def train_dataloader(self) -> ShardLoader:
        self._train_loader = self._loader(self.train_source, endless=True)
        return self._train_loader

    def val_dataloader(self) -> ShardLoader | list:
        return [] if self.val_source is None else self._loader(self.val_source, endless=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turn the bytes that workers send into pixels in [-1, 1], on the device: (x - 127.5) / 127.5."""
        is_bytes = {name: isinstance(value, Tensor) and value.dtype == torch.uint8 for name, value in batch.items()}
        return {name: (value.float() - 127.5) / 127.5 if is_bytes[name] else value for name, value in batch.items()}

    def load(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Decode `sample`. Raises BadSample where it cannot be used."""
        video = sample.video
        num_frames, fps = sample.info.get("num_frames"), sample.info.get("fps")
        if not num_frames or not fps:
            info = self.reader.probe(video)
            num_frames, fps = info.num_frames, info.fps
        indices = self.frames(num_frames, fps, rng)
        frames = cover_and_crop(self.reader.read(video, indices), self.height, self.width)
        conditions = {name: condition.load(sample, frames, indices) for name, condition in self.conditions.items()}
        return {"key": sample.key, "caption": sample.info["caption"], "pixel_values": frames, "conditions": conditions}

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
        stream = ShardStream(plan, self.load, self.finish, keep_decoded=self.keep_decoded)
        return ShardLoader(stream, on_skip=self.on_skip, pin_memory=torch.cuda.is_available())
