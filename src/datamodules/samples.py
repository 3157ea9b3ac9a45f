"""One sample of a shard, and what happens to one that cannot be used."""

import json
from dataclasses import dataclass, field
from typing import Any

VIDEO_EXTENSIONS = ("mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "ts")


class BadSample(ValueError):
    """A sample that cannot be used. It is skipped, counted under `reason` and reported; the run goes on."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self):
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True)
class Skip:
    """The report of one skipped sample: which one, in which shard, under which reason, with what detail."""

    key: str
    shard: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Sample:
    """One clip as it lies in a shard: `members` are raw bytes by suffix, `info` the decoded `json` member."""

    key: str
    shard: str
    members: dict[str, bytes]
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "Sample":
        """Return the sample of webdataset's `raw` dictionary.

        Raises BadSample for a missing or broken `json` member.
        """
        members = {suffix: data for suffix, data in raw.items() if not suffix.startswith("__")}
        if "json" not in members:
            raise BadSample("no json member", f"members are {', '.join(sorted(members)) or 'none'}")
        try:
            info = json.loads(members["json"])
        except ValueError as error:
            raise BadSample("broken json member", str(error)) from error
        if not isinstance(info, dict) or not isinstance(info.get("caption"), str):
            raise BadSample("no caption", "the json member has no string under `caption`")
        return cls(key=raw["__key__"], shard=raw["__url__"], members=members, info=info)

    def member(self, suffix: str) -> bytes:
        """Return the bytes of a member. Raises BadSample where the sample has none of that name."""
        if suffix not in self.members:
            raise BadSample("missing member", f"`{suffix}` is named in the json member but is not in the shard")
        return self.members[suffix]

    @property
    def video(self) -> bytes:
        """The bytes of the clip. Raises BadSample where there is none."""
        for extension in VIDEO_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise BadSample("no video member", f"members are {', '.join(sorted(self.members))}")
