"""Several data sets as one: their samples numbered through, each set with a weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .plan import Part
from .remote import Fetcher
from .samples import Sample
from .shard_set import ShardSet

Source = str | Sequence[str] | Mapping[str, "str | Mapping[str, object]"]


@dataclass(frozen=True)
class Mixture:
    """Data sets by name, the samples of one behind those of the other. `table`: the columns of all of them."""

    sets: Mapping[str, ShardSet]
    weights: Mapping[str, float]

    @classmethod
    def open(cls, source: Source, fetcher: Fetcher, setting: str) -> "Mixture":
        """Return the data sets of `source`: shards (see `list_shards`), or a mapping of names to shards, or to
        `{shards: ..., weight: ...}` (see `Part`). `setting`: where it stands in the configuration, for messages.
        """
        named = {"": source} if not isinstance(source, Mapping) else source
        parts = {name: _settings(part, f"{setting}.{name}".rstrip(".")) for name, part in named.items()}
        sets = {name: ShardSet(shards, fetcher) for name, (shards, weight) in parts.items() if weight > 0}
        if not sets:
            raise ValueError(f"{setting} names no data set with a weight above 0")
        return cls(sets, {name: parts[name][1] for name in sets})

    def __len__(self) -> int:
        return sum(map(len, self.sets.values()))

    def __getitem__(self, number: int) -> Sample:
        one, local = self._find(number)
        return one[local]

    def place(self, number: int) -> tuple[str, str]:
        """Return key and shard of a sample, for reports."""
        one, local = self._find(number)
        return one.place(local)

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(
            Part(tuple(np.bincount(one.shard_of, minlength=len(one.shards)).tolist()), self.weights[name])
            for name, one in self.sets.items()
        )

    @property
    def table(self) -> dict[str, np.ndarray]:
        tables = [one.table for one in self.sets.values()]
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    def _find(self, number: int) -> tuple[ShardSet, int]:
        for one in self.sets.values():
            if number < len(one):
                return one, number
            number -= len(one)
        raise IndexError(number)


def _settings(part: object, setting: str) -> tuple[str | Sequence[str], float]:
    if not isinstance(part, Mapping):
        return _places(part, setting), 1.0
    if "shards" not in part or set(part) - {"shards", "weight"}:
        raise ValueError(f"{setting} has {', '.join(map(str, part))}: allowed are shards (where they lie) and weight")
    weight = part.get("weight", 1.0)
    if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise ValueError(f"{setting}.weight={weight} must be at least 0: how often an epoch has each of its samples")
    return _places(part["shards"], f"{setting}.shards"), float(weight)


def _places(shards: object, setting: str) -> str | Sequence[str]:
    places = [shards] if isinstance(shards, str) else shards
    if not isinstance(places, Sequence) or not all(isinstance(place, str) for place in places):
        raise ValueError(f"{setting}={shards} must be a folder of shards, an index.json, tars, or a list of these")
    return shards  # type: ignore[return-value]
