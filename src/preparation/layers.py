"""What each stage changed about a sample, kept in its json member under `prepared`, so that it can be taken back: a
changed setting of a late stage then starts from the sample as it was before that stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..datamodules.samples import PREPARED, UNDO, VIDEO_EXTENSIONS, Sample

Layer = dict[str, Any]


@dataclass
class Piece:
    """A sample on its way through the stages.

    `start`: the digest of what it was made of; `layers`: one for each stage that it went through; `sets`: what is noted
    of the sets that it was written to: start, name of the result, how many samples the result has, how many it lost.
    """

    sample: Sample
    start: str
    layers: list[Layer] = field(default_factory=list)
    sets: list[list[Any]] = field(default_factory=list)

    @classmethod
    def of(cls, sample: Sample, start: str) -> Piece:
        """Return a sample that an earlier run wrote, with its layers."""
        info = dict(sample.info)
        prepared = info.pop(PREPARED)
        return cls(replace(sample, info=info), start, list(prepared["layers"]), list(prepared["sets"]))

    @property
    def digest(self) -> str:
        """What the sample depends on, up to now."""
        return self.layers[-1]["digest"] if self.layers else self.start

    def then(self, made: Sample, digest: str, *, is_only: bool) -> Piece:
        """Return what became of the piece. `is_only`: it became nothing else beside `made`."""
        layer: Layer = {"digest": digest, "key": self.sample.key}
        level = len(self.layers)
        changes = _changes(self.sample, made) if is_only and made.key == self.sample.key else None
        if changes is None:
            return replace(self, sample=made, layers=[*self.layers, layer])
        replaced = {suffix: self.sample.members[suffix] for suffix in changes["replaced"]}
        kept = {f"{UNDO}{level}.{suffix}": data for suffix, data in replaced.items()}
        with_undo = replace(made, members={**made.members, **kept})
        return replace(self, sample=with_undo, layers=[*self.layers, {**layer, "changes": changes}])

    def back_to(self, level: int) -> Piece:
        """Return the piece as it was after its first `level` layers, which `can_go_back` allows."""
        piece = self
        while len(piece.layers) > level:
            piece = piece._before()
        return piece

    def _before(self) -> Piece:
        changes, prefix = self.layers[-1]["changes"], f"{UNDO}{len(self.layers) - 1}."
        members = {
            suffix: data
            for suffix, data in self.sample.members.items()
            if suffix not in changes["added"] and not suffix.startswith(prefix)
        }
        members |= {suffix: self.sample.members[prefix + suffix] for suffix in changes["replaced"]}
        info = {key: value for key, value in self.sample.info.items() if key not in changes["new"]} | changes["old"]
        return replace(self, sample=replace(self.sample, members=members, info=info), layers=self.layers[:-1])


def can_go_back(layers: list[Layer], level: int) -> bool:
    """True where a sample with these `layers` can be brought back to the first `level` of them."""
    return all("changes" in layer for layer in layers[level:])


def _changes(before: Sample, after: Sample) -> dict[str, Any] | None:
    """Return what must be known to come from `after` back to `before`; None where that would take too much space."""
    old, new = _members(before), _members(after)
    replaced = sorted(suffix for suffix, data in old.items() if new.get(suffix) != data)
    if any(suffix in VIDEO_EXTENSIONS for suffix in replaced):
        return None
    return {
        "added": sorted(new.keys() - old.keys()),
        "replaced": replaced,
        "old": {key: value for key, value in before.info.items() if after.info.get(key, ...) != value},
        "new": sorted(after.info.keys() - before.info.keys()),
    }


def _members(sample: Sample) -> Mapping[str, bytes]:
    return {suffix: data for suffix, data in sample.members.items() if suffix != "json"}
