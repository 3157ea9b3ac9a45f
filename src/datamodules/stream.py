"""From a plan to batches: workers read and decode, and what cannot be used is reported; resumable at any batch."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..config import is_raised_here
from .plan import EpochPlan, StreamPlan
from .samples import BadSample, Sample, Skip

log = logging.getLogger(__name__)

Load = Callable[[Sample, int, np.random.Generator], Any]
Finish = Callable[[Any, np.random.Generator], dict[str, Any]]
# What a worker sends: a batch, if any is left, what was skipped, and what ends the run, as it was raised.
Item = tuple[dict[str, Any] | None, list[Skip], ValueError | None]

MAX_SUBSTITUTES = 100  # samples that are tried in place of a batch of which none could be used


class Samples(Protocol):
    """Samples by number, across all data sets of a mixture."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Sample: ...

    def place(self, number: int) -> tuple[str, str]:
        """Return key and shard of a sample, for reports."""
        ...


@dataclass(frozen=True)
class Ticket:
    """One batch to be made: of which epoch, which one, and of which samples (with the passes before)."""

    epoch: int
    batch: int
    numbers: list[int]
    passes: list[int]


class BatchMaker(Dataset):
    """Makes batches. `load(sample, bucket, rng)` decodes a sample, `finish(loaded, rng)` makes its random choices.

    With `keep_decoded`, what `load` returns is kept in memory, and its random numbers are the same in every pass. A
    sample that cannot be used is left out of its batch. In training (`substitute`) a batch without any is made of
    another sample of its bucket, since the other ranks wait; raises ValueError where none of many can be used.
    """

    def __init__(
        self,
        samples: Samples,
        plan: StreamPlan,
        load: Load,
        finish: Finish,
        *,
        keep_decoded: bool = False,
        substitute: bool = False,
    ):
        self.samples, self.plan, self.load, self.finish = samples, plan, load, finish
        self.keep_decoded, self.substitute = keep_decoded, substitute
        self._decoded: dict[int, Any] = {}

    def __getitem__(self, ticket: Ticket) -> Item:
        made: list[dict[str, Any]] = []
        skips: list[Skip] = []
        try:
            self._make(ticket, made, skips)
        except ValueError as error:
            if not is_raised_here(error):
                raise
            return None, skips, error  # a worker's exception would arrive as another one, with its traceback as text
        return default_collate(made) if made else None, skips, None

    def _make(self, ticket: Ticket, made: list[dict[str, Any]], skips: list[Skip]) -> None:
        for number, turn in zip(ticket.numbers, ticket.passes, strict=True):
            self._try(number, turn, made, skips)
        if self.substitute and not made:
            self._replace(ticket, made, skips)

    def _try(self, number: int, turn: int, made: list[dict[str, Any]], skips: list[Skip]) -> None:
        try:
            sample = self.finish(self._load(number, turn), self.plan.rng(number, turn, 1))
            if made and _shape(sample) != _shape(made[0]):
                raise BadSample("another shape", f"{_shape(sample)} among {_shape(made[0])}: its json is wrong")
            made.append(sample)
        except BadSample as error:
            skips.append(Skip(*self.samples.place(number), error.reason, error.detail))

    def _load(self, number: int, turn: int) -> Any:
        if number in self._decoded:
            loaded = self._decoded[number]
        else:
            loaded = self._decode(number, self.plan.rng(number, 0 if self.keep_decoded else turn, 0))
            if self.keep_decoded:
                self._decoded[number] = loaded
        if isinstance(loaded, BadSample):
            raise loaded
        return loaded

    def _decode(self, number: int, rng: np.random.Generator) -> Any:
        try:
            return self.load(self.samples[number], int(self.plan.bucket_of[number]), rng)
        except BadSample as error:
            return error
        except ValueError as error:
            if is_raised_here(error):  # what is set wrongly is wrong for every sample
                raise
            return _undecodable(error)
        except (TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError) as error:
            return _undecodable(error)

    def _replace(self, ticket: Ticket, made: list[dict[str, Any]], skips: list[Skip]) -> None:
        rng, bucket = self.plan.rng(ticket.epoch, ticket.batch, 2), self.plan.bucket_of[ticket.numbers[0]]
        for others in (self.plan.bucket_of == bucket, self.plan.bucket_of >= 0):
            for number in rng.permutation(np.flatnonzero(others))[:MAX_SUBSTITUTES].tolist():
                self._try(number, ticket.passes[0], made, skips)
                if made:
                    return
        raise ValueError(f"no sample of the data set can be used: {_summary(skips)}")


class BatchOrder(Sampler[Ticket]):
    """The batches of one rank from a position in the global list on: for ever, or (not `endless`) of one pass."""

    def __init__(self, plan: StreamPlan, rank: int, world_size: int, *, endless: bool):
        self.plan, self.rank, self.world_size, self.endless = plan, rank, world_size, endless
        self.epoch, self.batch = 0, 0
        self._planned: dict[int, EpochPlan] = {}

    def __iter__(self) -> Iterator[Ticket]:
        epoch, batch = self.epoch, self.batch + self.rank
        while True:
            epoch, batch = self.normal(epoch, batch)
            if epoch != self.epoch and not self.endless:
                return
            yield Ticket(epoch, batch, *self.planned(epoch)[batch])
            batch += self.world_size

    def normal(self, epoch: int, batch: int) -> tuple[int, int]:
        """Return the same place with a batch that its epoch has."""
        while batch >= (length := len(self.planned(epoch))):
            epoch, batch = epoch + 1, batch - length
            if not self.endless:
                break
        return epoch, batch

    def planned(self, epoch: int) -> EpochPlan:
        if epoch not in self._planned:
            if len(self._planned) > 2:
                self._planned.pop(min(self._planned))
            self._planned[epoch] = self.plan.epoch(epoch)
        return self._planned[epoch]


class ShardLoader:
    """Batches of one rank. Iterating takes one epoch's steps from an endless stream; `state_dict` resumes at the next.

    The ranks of a step take neighbouring batches of one global list, from one epoch into the next: with any number of
    processes and workers every sample of an epoch comes once. `on_skip` is called for each sample that could not be
    used, each time. `wait_s` adds up the time that the loop has waited here.
    """

    def __init__(
        self,
        maker: BatchMaker,
        *,
        on_skip: Callable[[Skip], None],
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        endless: bool = False,
        pin_memory: bool = False,
    ):
        self.maker, self.on_skip = maker, on_skip
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.order = BatchOrder(maker.plan, rank, world_size, endless=endless)
        self.epoch, self.batch = 0, 0  # the global place of the next step
        self.wait_s = 0.0
        self._items: Iterator[Item] | None = None
        if not len(self.order.planned(0)):
            raise ValueError("no sample of the data set fits datamodule.buckets, or the settings of its conditions")

    def __len__(self) -> int:
        """Return the number of steps of an epoch; in validation, of batches of this rank, should all be usable."""
        order = self.order
        batches = len(order.planned(0))
        if order.endless:
            return max(1, batches // order.world_size)
        return len(range(order.rank, batches, order.world_size))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._items is None or not self.order.endless:
            self.order.epoch, self.order.batch = (self.epoch, self.batch) if self.order.endless else (0, 0)
            self._items = iter(self._data_loader())
        for _ in range(len(self)):
            batch = self._next()
            if self.order.endless:
                self.epoch, self.batch = self.order.normal(self.epoch, self.batch + self.order.world_size)
            if batch is not None:
                yield batch

    def _next(self) -> dict[str, Any] | None:
        assert self._items is not None
        start = time.perf_counter()
        batch, skips, error = next(self._items)
        self.wait_s += time.perf_counter() - start
        for skip in skips:
            self.on_skip(skip)
        if error is not None:
            raise error
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch, "plan": self.maker.plan.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, with any number of processes and workers.

        With other data, seed or batch sizes: at the start of that epoch.
        """
        epoch, batch = state["epoch"], state.get("batch", 0)
        if state.get("plan") != self.maker.plan.fingerprint:
            log.warning(
                "the data, the seed, the buckets or the batch size are not those of the checkpoint: resuming at the "
                "start of epoch %d of the data",
                epoch,
            )
            batch = 0
        self.close()
        self.epoch, self.batch = epoch, batch

    def close(self) -> None:
        """End the workers. Iterating again starts new ones, at the next step."""
        self._items = None

    def _data_loader(self) -> DataLoader:
        return DataLoader(
            self.maker,
            sampler=self.order,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=2 if self.num_workers else None,
        )


def _undecodable(error: Exception) -> BadSample:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return BadSample("not decodable", f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})")


def _shape(sample: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sample.items() if isinstance(value, Tensor)}


def _summary(skips: list[Skip]) -> str:
    reasons = Counter(skip.reason for skip in skips)
    example = skips[0]
    counts = ", ".join(f"{reason} ({count} times)" for reason, count in reasons.most_common())
    return f"{counts}; first {example.key}: {example.detail}"
