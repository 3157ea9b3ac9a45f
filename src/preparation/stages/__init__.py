"""One file a stage of `prepare.py`: what is done to samples on their way into shards.

What a stage made of a sample is kept by later runs as long as the digest of its class, `version`, settings,
`fingerprint` and `depends_on` stays the same. The settings in `NEUTRAL` have no part in it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...datamodules.samples import BadSample, Sample
from ..sources.shards import StoredSample

NEUTRAL = ("device", "batch_size", "num_threads")  # settings that change how long a stage takes, not what it makes


class Stage:
    """What all stages have. `version` is raised when the code of a stage makes something else than before."""

    version: int = 1
    gives_captions: bool = False  # True: clips may come without one

    @classmethod
    def fingerprint(cls, settings: Mapping[str, Any]) -> str:
        """Return what the results depend on beside the `settings`, e.g. when a file that they name was written.

        Asked in every run, before anything is built: it must be quick.
        """
        return ""

    @classmethod
    def inputs(cls, settings: Mapping[str, Any]) -> str:
        """Return when what `depends_on` reads was written: where that is new, `depends_on` is asked."""
        return ""

    def depends_on(self, key: str, source: str) -> str:
        """Return what the result for the sample `key` depends on beside the sample, e.g. a line of another file.

        `source`: the entry of this name in the sample's json member.
        """
        return ""


class SampleStage(Stage, ABC):
    """A stage that needs one sample at a time. It is built once in every worker process."""

    @abstractmethod
    def __call__(self, sample: Sample) -> list[Sample]:
        """Return what takes the place of `sample`: one, or several with keys of their own.

        The written `json` member is made of their `info`. Raises BadSample to drop the sample, with the reason.
        """


class BatchStage(Stage, ABC):
    """A stage of a network, which is fast on many samples at once. It is built once in every worker process.

    It computes on `workers.worker_device(device)`: with `device: auto`, the GPU of its process or else the CPU. It is
    built in the main process as well, which does not run it: `__init__` checks what is there, weights are loaded later.
    """

    batch_size: int = 8

    @abstractmethod
    def run(self, samples: Sequence[Sample]) -> list[Sample | BadSample]:
        """Return what takes the place of each of the at most `batch_size` samples, or why it is dropped."""


class SetStage(Stage, ABC):
    """A stage that needs to know the whole set. `inspect` runs in worker processes, `plan` once, in the main process.

    Between the two, only what `inspect` returns is held in memory: no videos.
    """

    @abstractmethod
    def inspect(self, stored: StoredSample) -> Any:
        """Return what `plan` must know of a sample. Raises BadSample to drop it."""

    @abstractmethod
    def plan(self, stored: Sequence[StoredSample], known: Sequence[Any]) -> list["PlannedEntry"]:
        """Return the new set. `known`: what `inspect` returned for each of the samples `stored`."""


class Entry(Protocol):
    """A sample that is not made yet. `place` and `video` name it in reports."""

    @property
    def place(self) -> str: ...

    @property
    def video(self) -> str: ...

    def load(self) -> Sample:
        """Make the sample, in a worker process. Raises BadSample where that is not possible."""
        ...


class PlannedEntry(Entry, Protocol):
    """An entry that a SetStage planned: `base` is the sample that it is made of."""

    @property
    def base(self) -> StoredSample: ...

    def fingerprint(self, digests: Mapping[str, str]) -> Any:
        """Return what `load` depends on beside `base`. `digests`: of the samples of the set, by key."""
        ...


@dataclass(frozen=True)
class Rejected:
    """An entry that is dropped when its turn comes, so that it is counted and reported like any other."""

    base: StoredSample
    reason: str
    detail: str

    @property
    def place(self) -> str:
        return self.base.place

    @property
    def video(self) -> str:
        return self.base.video

    def fingerprint(self, digests: Mapping[str, str]) -> Any:
        return ["rejected", self.reason, self.detail]

    def load(self) -> Sample:
        raise BadSample(self.reason, self.detail)
