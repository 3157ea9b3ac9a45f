"""One sample of a shard, and what happens to one that cannot be used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VIDEO_EXTENSIONS = ("mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "ts")
# What prepare.py keeps of a sample's history: a key of its json, and the prefix of members that a stage replaced.
PREPARED, UNDO = "prepared", "undo."
PICTURE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")  # a picture in the place of the video is a clip of one frame


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
        except (ValueError, RecursionError) as error:
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
        """The bytes of the clip: a video, or a picture that is a clip of one frame. Raises BadSample without one."""
        return self.members[self.video_suffix]

    @property
    def video_suffix(self) -> str:
        """The name of the member that `video` returns. Raises BadSample where there is none."""
        for extension in (*VIDEO_EXTENSIONS, *PICTURE_EXTENSIONS):
            if extension in self.members:
                return extension
        raise BadSample("no video member", f"members are {', '.join(sorted(self.members))}")

    @property
    def identities(self) -> list[dict[str, Any]]:
        """The identities that have a picture. Raises BadSample where the `json` member says something else."""
        identities = self.info.get("identities") or []
        if not isinstance(identities, list) or not all(isinstance(identity, dict) for identity in identities):
            raise BadSample("broken json member", "`identities` is not a list of objects")
        return [identity for identity in identities if has_picture(identity)]


def has_picture(identity: Any) -> bool:
    """True for an entry of `identities` that names a reference picture."""
    return isinstance(identity, Mapping) and isinstance(identity.get("face"), list) and bool(identity["face"])
