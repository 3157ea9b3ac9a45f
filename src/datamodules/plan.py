"""The order of an epoch: which samples make which batch, from (seed, epoch) alone.

It does not depend on processes or workers: rank r of n takes batches r, r + n, ... of one list that all ranks agree on,
so that a run may go on with another number of either at any batch.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_ORDER, _MIX = 0, 1  # keys of the random numbers


@dataclass(frozen=True)
class Part:
    """One data set of a mixture. `shard_sizes`: samples of each shard.

    `weight`: how often an epoch has each of its samples. At 1, once; at 0.5, one half of them in an epoch and the other
    half in the next; at 2, twice.
    """

    shard_sizes: tuple[int, ...]
    weight: float = 1.0

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def count(self, epoch: int) -> tuple[int, int]:
        """Return the range [start, stop) that an epoch takes from the endless sequence of passes over the samples."""
        return int(epoch * self.weight * len(self)), int((epoch + 1) * self.weight * len(self))


@dataclass(frozen=True)
class EpochPlan:
    """The batches of an epoch. `numbers`: samples in order, `passes`: how often each was dealt before; `ends`: where
    each batch ends in them.
    """

    numbers: np.ndarray
    passes: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, batch: int) -> tuple[list[int], list[int]]:
        """Return numbers and passes of the samples of a batch."""
        span = slice(int(self.ends[batch - 1]) if batch else 0, int(self.ends[batch]))
        return self.numbers[span].tolist(), self.passes[span].tolist()


@dataclass(frozen=True)
class StreamPlan:
    """What is read, in which order. Samples are numbered through all `parts`.

    `bucket_of`: the bucket of each sample, -1 for those that cannot be used. `batch_sizes`: of each bucket.
    `shuffle_buffer`: how far a sample may move from its place on disk, beside the order of the shards; 0: not at all.
    """

    parts: tuple[Part, ...]
    bucket_of: np.ndarray
    batch_sizes: tuple[int, ...]
    seed: int
    shuffle_buffer: int = 0

    def __post_init__(self) -> None:
        if not sum(int(part.weight * len(part)) for part in self.parts):
            raise ValueError("an epoch has less than one sample: raise the weights of datamodule.train")

    def epoch(self, epoch: int) -> EpochPlan:
        """Return the batches of an epoch: each full one as soon as its last sample has come, the others likewise."""
        numbers, passes = self._order(epoch)
        buckets = self.bucket_of[numbers]
        numbers, passes, buckets = (array[buckets >= 0] for array in (numbers, passes, buckets))
        by_bucket = np.argsort(buckets, kind="stable")
        sizes = np.bincount(buckets, minlength=len(self.batch_sizes))
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        batch_sizes = np.asarray(self.batch_sizes, int)[buckets[by_bucket]]
        within = np.arange(len(numbers)) - first
        starts = np.flatnonzero(within % batch_sizes == 0)
        ends = np.append(starts[1:], len(numbers))
        order = np.argsort(by_bucket[ends - 1])
        lengths = (ends - starts)[order]
        ends_in_order = np.cumsum(lengths)
        flat = by_bucket[np.repeat(starts[order] - (ends_in_order - lengths), lengths) + np.arange(len(numbers))]
        return EpochPlan(numbers[flat], passes[flat], ends_in_order)

    def rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that the order follows from."""
        parts = [[list(part.shard_sizes), part.weight] for part in self.parts]
        text = json.dumps([parts, list(self.batch_sizes), self.seed, self.shuffle_buffer])
        return hashlib.sha256(text.encode() + self.bucket_of.astype(np.int64).tobytes()).hexdigest()[:16]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return number and pass of every sample of an epoch, the data sets of a mixture evenly among one another."""
        numbers, passes, places = [], [], []
        offset = 0
        for index, part in enumerate(self.parts):
            start, stop = part.count(epoch)
            dealt = np.arange(start, stop)
            turns = dealt // max(len(part), 1)
            for turn in np.unique(turns):
                numbers.append(offset + self._pass(index, int(turn))[dealt[turns == turn] % len(part)])
            passes.append(turns)
            jitter = self.rng(_MIX, index, epoch).uniform(size=len(dealt)) if len(self.parts) > 1 else 0
            places.append((np.arange(len(dealt)) + jitter) / max(len(dealt), 1))
            offset += len(part)
        order = np.argsort(np.concatenate(places), kind="stable")
        return np.concatenate(numbers)[order], np.concatenate(passes)[order]

    def _pass(self, index: int, turn: int) -> np.ndarray:
        """Return all samples of a part in the order of one pass: shards in turn, and within a window at random."""
        part = self.parts[index]
        if not self.shuffle_buffer:
            return np.arange(len(part))
        rng = self.rng(_ORDER, index, turn)
        starts = np.cumsum((0, *part.shard_sizes[:-1]))
        shards = rng.permutation(len(part.shard_sizes))
        numbers = np.concatenate([np.arange(starts[i], starts[i] + part.shard_sizes[i]) for i in shards])
        return numbers[np.argsort(np.arange(len(numbers)) + rng.uniform(0, self.shuffle_buffer, len(numbers)))]
