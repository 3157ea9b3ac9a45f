"""The order of samples: split over ranks and workers, shuffled from (seed, epoch), resumable at any batch.

An epoch of one rank is `num_batches` batches. They are dealt to as many lanes as there are workers, batch i to lane i
mod n; each lane owns a run of consecutive samples, so that a worker opens few shards, and shuffles through a buffer.
Samples whose tensors have equal shapes share a batch: clips of other sizes or with more references wait for their like.
Everything is a function of (seed, epoch, rank, lane), so the state of a loader is a handful of integers.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from .samples import BadSample, Sample, Skip
from .shards import Shard, read_shard

log = logging.getLogger(__name__)

Load = Callable[[Sample, np.random.Generator], Any]
Finish = Callable[[Any, np.random.Generator], dict[str, Any]]
Span = tuple[Shard, int, int]  # samples [start, stop) of one shard
Bucket = tuple[tuple[str, tuple[int, ...]], ...]  # what a sample shares with all others of its batch


@dataclass(frozen=True)
class StreamPlan:
    """What a rank reads. `endless`: training, for ever; otherwise one pass."""

    shards: tuple[Shard, ...]
    batch_size: int
    num_workers: int
    seed: int
    rank: int = 0
    world_size: int = 1
    shuffle_buffer: int = 0
    endless: bool = False

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_lanes(self) -> int:
        return max(1, self.num_workers)

    @property
    def num_batches(self) -> int:
        """Batches an epoch. In training the same on every rank, since one that ends early would hang the others."""
        if self.endless:
            return self.num_samples // self.world_size // self.batch_size
        first, last = self._rank_range()
        return -(-(last - first) // self.batch_size)

    def lane_spans(self, epoch: int, lane: int) -> list[Span]:
        """Return the samples of one lane in one epoch, in the order in which they are read."""
        first, last = self._rank_range()
        batches = [
            self.num_batches // self.num_lanes + (i < self.num_batches % self.num_lanes) for i in range(self.num_lanes)
        ]
        start = first + sum(batches[:lane]) * self.batch_size
        # What does not fill a batch goes to the last lane, which then leaves out some samples, others in each epoch.
        stop = last if lane == self.num_lanes - 1 else start + batches[lane] * self.batch_size
        return self._spans(epoch, start, min(stop, last))

    def rank_spans(self, epoch: int) -> list[Span]:
        return self._spans(epoch, *self._rank_range())

    def rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _rank_range(self) -> tuple[int, int]:
        return self.rank * self.num_samples // self.world_size, (self.rank + 1) * self.num_samples // self.world_size

    def _spans(self, epoch: int, start: int, stop: int) -> list[Span]:
        order = self.rng(epoch).permutation(len(self.shards)) if self.shuffle_buffer else range(len(self.shards))
        spans, position = [], 0
        for index in order:
            shard = self.shards[index]
            low, high = max(start - position, 0), min(stop - position, shard.num_samples)
            if low < high:
                spans.append((shard, low, high))
            position += shard.num_samples
        return spans


@dataclass(frozen=True)
class LanePosition:
    """How many samples a lane has `consumed` in its epoch, and which of them still wait for others of their shape."""

    consumed: int = 0
    waiting: tuple[int, ...] = ()


@dataclass(frozen=True)
class StreamState:
    """Where a rank stands: `epoch`, its next `batch`, and the position of each lane in this epoch."""

    epoch: int
    batch: int
    lanes: tuple[LanePosition, ...]


# What a worker sends: a batch (None at the end of a pass), what was skipped before it, its lane and its new position.
Item = tuple[dict[str, Any] | None, list[Skip], int, LanePosition]


class ShardStream(IterableDataset):
    """The batches of one rank, as each worker makes them. `load` decodes a sample, `finish` makes its random choices.

    With `keep_decoded`, what `load` returns is kept in memory, and its random numbers are the same in every epoch.
    """

    def __init__(
        self,
        plan: StreamPlan,
        load: Load,
        finish: Finish,
        *,
        keep_decoded: bool = False,
        state: StreamState | None = None,
    ):
        self.plan, self.load, self.finish = plan, load, finish
        self.keep_decoded = keep_decoded
        self.state = state or StreamState(0, 0, (LanePosition(),) * plan.num_lanes)
        self._decoded: dict[tuple[str, int], Any] = {}
        self._numbers = {shard.url: number for number, shard in enumerate(plan.shards)}

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        worker_id = 0 if worker is None else worker.id
        plan, state = self.plan, self.state
        first_batch = state.epoch * plan.num_batches + state.batch
        for epoch in itertools.count(state.epoch):
            lane = (first_batch + worker_id - epoch * plan.num_batches) % plan.num_lanes
            resumed = epoch == state.epoch
            position = state.lanes[lane] if resumed else LanePosition()
            yield from self._lane(epoch, lane, state.batch if resumed else 0, position)
            if not plan.endless:
                return

    def _lane(self, epoch: int, lane: int, batch: int, start: LanePosition) -> Iterator[Item]:
        """Yield the lane's batches from batch number `batch` of the epoch on, where the lane stands at `start`.

        In training, where skipped samples leave too few for the epoch's batches, the whole rank's samples follow.
        """
        plan = self.plan
        remaining = len(range(lane, plan.num_batches, plan.num_lanes)) - len(range(lane, batch, plan.num_lanes))
        waiting = _Waiting(plan.batch_size)
        skips: list[Skip] = []
        place = 0
        for repeat in itertools.count():
            if plan.endless and remaining == 0:
                return
            for shard, number, raw in self._pass(epoch, lane, repeat):
                place += 1
                if place <= start.consumed and place - 1 not in start.waiting:
                    continue
                try:
                    waiting.add(place - 1, self._decode(epoch, shard, number, raw))
                except BadSample as error:
                    key = raw.get("__key__", "") if isinstance(raw, dict) else f"sample {number}"
                    skips.append(Skip(key, shard.url, error.reason, error.detail))
                    if plan.endless and not len(waiting) and len(skips) > 2 * plan.num_samples:
                        raise ValueError(f"no sample of the data set can be used: {_summary(skips)}") from error
                    continue
                # The epoch's last batch is left to chance among all that waits, so that rare shapes have their turn.
                if waiting.is_full() and not (plan.endless and remaining == 1):
                    yield default_collate(waiting.take_full()), skips, lane, LanePosition(place, waiting.places)
                    skips, remaining = [], remaining - 1
            # What is left makes smaller batches. In training the number of batches is fixed, so that some is left out.
            while len(waiting) and (remaining or not plan.endless):
                rest = waiting.take_any(plan.rng(epoch, plan.rank, lane, repeat, remaining))
                yield default_collate(rest), skips, lane, LanePosition(place, waiting.places)
                skips, remaining = [], remaining - 1
            if not plan.endless:
                if skips:
                    yield None, skips, lane, LanePosition(place)
                return

    def _pass(self, epoch: int, lane: int, repeat: int) -> Iterator[tuple[Shard, int, Any]]:
        plan = self.plan
        spans = plan.rank_spans(epoch) if repeat else plan.lane_spans(epoch, lane)
        stream = itertools.chain.from_iterable(self._read(*span) for span in spans)
        return (
            _shuffle(stream, plan.shuffle_buffer, plan.rng(epoch, plan.rank, lane, repeat))
            if plan.shuffle_buffer
            else stream
        )

    def _read(self, shard: Shard, start: int, stop: int) -> Iterator[tuple[Shard, int, Any]]:
        if all((shard.url, position) in self._decoded for position in range(start, stop)):
            return ((shard, position, None) for position in range(start, stop))
        return ((shard, position, raw) for position, raw in read_shard(shard, start, stop))

    def _decode(self, epoch: int, shard: Shard, position: int, raw: Any) -> dict[str, Any]:
        place = (shard.url, position)
        if place in self._decoded:
            loaded = self._decoded[place]
        else:
            loaded = self._load(raw, self._rng(0 if self.keep_decoded else epoch, place, 0))
            if self.keep_decoded:
                self._decoded[place] = loaded
        if isinstance(loaded, BadSample):
            raise loaded
        return self.finish(loaded, self._rng(epoch, place, 1))

    def _load(self, raw: Any, rng: np.random.Generator) -> Any:
        try:
            return raw if isinstance(raw, BadSample) else self.load(Sample.parse(raw), rng)
        except BadSample as error:
            return error

    def _rng(self, epoch: int, place: tuple[str, int], stage: int) -> np.random.Generator:
        return self.plan.rng(epoch, self._numbers[place[0]], place[1], stage)


class ShardLoader:
    """Batches of one rank. Iterating takes one epoch from an endless stream; `state_dict` resumes at the next batch.

    `on_skip` is called once for each sample that could not be used.
    """

    def __init__(self, stream: ShardStream, *, on_skip: Callable[[Skip], None], pin_memory: bool = False):
        if stream.plan.num_batches == 0:
            plan = stream.plan
            raise ValueError(
                f"the data set has {plan.num_samples} samples, too few for one batch of {plan.batch_size} on each of "
                f"{plan.world_size} processes: lower datamodule.batch_size"
            )
        self.stream, self.on_skip, self.pin_memory = stream, on_skip, pin_memory
        self.plan, self.state = stream.plan, stream.state
        self._items: Iterator[Item] | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch. In one pass it is not known: each shape has a last, smaller one."""
        if not self.plan.endless:
            raise TypeError("a single pass over samples of several shapes has no length")
        return self.plan.num_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._items is None or not self.plan.endless:
            self.stream.state = self.state
            self._items = iter(self._data_loader())
        num_batches = 0
        for batch, skips, lane, position in self._items:
            for skip in skips:
                self.on_skip(skip)
            if batch is None:
                continue
            num_batches += 1
            if self.plan.endless:
                self._advance(lane, position)
            yield batch
            if self.plan.endless and num_batches == len(self):
                return

    def state_dict(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "epoch": self.state.epoch,
            "batch": self.state.batch,
            "lanes": [[lane.consumed, list(lane.waiting)] for lane in self.state.lanes],
            "num_lanes": plan.num_lanes,
            "world_size": plan.world_size,
            "batch_size": plan.batch_size,
            "seed": plan.seed,
            "num_samples": plan.num_samples,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. With other workers, processes, seed or data: at the start of that epoch."""
        epoch, batch = state["epoch"], state["batch"]
        lanes = tuple(LanePosition(consumed, tuple(waiting)) for consumed, waiting in state["lanes"])
        same = {name: value for name, value in self.state_dict().items() if name not in ("epoch", "batch", "lanes")}
        if any(state[name] != value for name, value in same.items()):
            changed = ", ".join(
                f"{name} {state[name]} -> {value}" for name, value in same.items() if state[name] != value
            )
            log.warning("the data order changes (%s): resuming at the start of epoch %d of the data", changed, epoch)
            batch, lanes = 0, (LanePosition(),) * self.plan.num_lanes
        self.state, self._items = StreamState(epoch, batch, lanes), None

    def _advance(self, lane: int, position: LanePosition) -> None:
        state, lanes = self.state, list(self.state.lanes)
        lanes[lane] = position
        self.state = replace(state, batch=state.batch + 1, lanes=tuple(lanes))
        if self.state.batch == self.plan.num_batches:
            self.state = StreamState(state.epoch + 1, 0, (LanePosition(),) * self.plan.num_lanes)

    def _data_loader(self) -> DataLoader:
        return DataLoader(
            self.stream,
            batch_size=None,
            num_workers=self.plan.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=2 if self.plan.num_workers else None,
        )


class _Waiting:
    """Decoded samples that wait for others of their shape, each with its place in the lane."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self._buckets: dict[Bucket, list[tuple[int, dict[str, Any]]]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(sorted(place for bucket in self._buckets.values() for place, _ in bucket))

    def add(self, place: int, sample: dict[str, Any]) -> None:
        self._last = _bucket(sample)
        self._buckets.setdefault(self._last, []).append((place, sample))

    def is_full(self) -> bool:
        """True if the sample that was added last completes a batch."""
        return len(self._buckets[self._last]) >= self.batch_size

    def take_full(self) -> list[dict[str, Any]]:
        """Return the batch that the sample that was added last completes."""
        return self._take(self._last)

    def take_any(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return a batch, smaller where a shape has no more. Every sample has the same chance."""
        keys = sorted(self._buckets, key=lambda key: self._buckets[key][0][0])
        sizes = np.array([len(self._buckets[key]) for key in keys])
        return self._take(keys[int(rng.choice(len(keys), p=sizes / sizes.sum()))])

    def _take(self, key: Bucket) -> list[dict[str, Any]]:
        bucket = self._buckets.pop(key)
        if rest := bucket[self.batch_size :]:
            self._buckets[key] = rest
        return [sample for _, sample in bucket[: self.batch_size]]


def _bucket(sample: dict[str, Any]) -> Bucket:
    return tuple((name, tuple(value.shape)) for name, value in sample.items() if isinstance(value, Tensor))


def _shuffle(items: Iterator, size: int, rng: np.random.Generator) -> Iterator:
    """Yield `items` in an order that `rng` draws from a buffer of `size` of them."""
    buffer = list(itertools.islice(items, size))
    for item in items:
        index = int(rng.integers(len(buffer)))
        yield buffer[index]
        buffer[index] = item
    for index in rng.permutation(len(buffer)):
        yield buffer[index]


def _summary(skips: list[Skip]) -> str:
    reasons = Counter(skip.reason for skip in skips)
    example = skips[0]
    counts = ", ".join(f"{reason} ({count} times)" for reason, count in reasons.most_common())
    return f"{counts}; first {example.key}: {example.detail}"
