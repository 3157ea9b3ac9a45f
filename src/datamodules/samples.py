"""One sample of a shard, and what happens to one that cannot be used."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from .limits import MAX_FRAMES, MAX_PIXELS

VIDEO_EXTENSIONS = ("mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "ts")
# What prepare.py keeps of a sample's history: a key of its json, and the prefix of members that a stage replaced.
PREPARED, UNDO = "prepared", "undo."
PICTURE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")  # a picture in the place of the video is a clip of one frame


# What numbers of the `json` member may be, where they are there.
NUMBERS = {"num_frames": (1, MAX_FRAMES), "height": (1, MAX_PIXELS), "width": (1, MAX_PIXELS), "fps": (1e-6, 1e6)}
# Rows of an identity or a track: how many numbers each has at least, the frame included.
ROWS = {"boxes": 5, "head_boxes": 5, "keypoints": 11}


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

        Raises BadSample for a missing or broken `json` member: what it says has the types that are documented.
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
        problem = _problem(info)
        if problem is not None:
            raise BadSample("broken json member", problem)
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
        suffix = clip_suffix(self.members)
        if suffix is None:
            raise BadSample("no video member", f"members are {', '.join(sorted(self.members))}")
        return suffix

    @property
    def identities(self) -> list[dict[str, Any]]:
        """The identities that have a picture."""
        return [identity for identity in self.info.get("identities") or [] if has_picture(identity)]


def clip_suffix(suffixes: Collection[str]) -> str | None:
    """Return which of the members' `suffixes` is the clip: a video, else a picture, else None."""
    return next((one for one in (*VIDEO_EXTENSIONS, *PICTURE_EXTENSIONS) if one in suffixes), None)


def has_picture(identity: Any) -> bool:
    """True for an entry of `identities` that names a reference picture."""
    return isinstance(identity, Mapping) and isinstance(identity.get("face"), list) and bool(identity["face"])


def _problem(info: Mapping[str, Any]) -> str | None:
    """Return what in a `json` member is not as docs/data.md says, so that nobody who reads it stumbles over it."""
    try:
        info["caption"].encode()
    except UnicodeEncodeError:
        return "the caption is no text: it holds half a character"
    for name, (low, high) in NUMBERS.items():
        value = info.get(name)
        if value is not None and not (type(value) in (int, float) and low <= value <= high):
            return f"{name} is {_short(value)}, not a number from {low:g} to {high:g}"
    for name in ("identities", "tracks"):
        owners = info.get(name) or []
        if not isinstance(owners, list) or not all(isinstance(owner, dict) for owner in owners):
            return f"{name} is not a list of objects"
        for place, owner in enumerate(owners):
            problem = _owner_problem(owner)
            if problem is not None:
                return f"{name}, entry {place}: {problem}"
    return None


def _owner_problem(owner: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an identity or a track."""
    if not _is_list_of(owner.get("face"), str):
        return "`face` is not a list of names of members"
    valid = owner.get("valid_frames") or {}
    if not isinstance(valid, dict) or not all(_is_list_of(frames, int) for frames in valid.values()):
        return "`valid_frames` is not an object of lists of frames"
    for name, count in ROWS.items():
        rows = owner.get(name) or []
        try:  # sums: as fast as reading them, and only numbers have one
            is_good = isinstance(rows, list) and min(map(len, rows), default=count) >= count
            is_good = is_good and math.isfinite(sum(chain.from_iterable(rows)))
        except (TypeError, OverflowError):
            is_good = False
        if not is_good:
            return f"`{name}` are not rows of a frame and {count - 1} finite numbers"
    return None


def _is_list_of(value: Any, kind: type) -> bool:
    return value is None or (isinstance(value, list) and set(map(type, value)) <= {kind})


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float)) else f"a {type(value).__name__}"
