"""What a result depends on, as one short text: two runs that agree on it need not make the result twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import locate
from .sources import SourceClip
from .sources.shards import StoredSample
from .stages import NEUTRAL

FORMAT = 1  # of the results; a new one makes everything anew


def digest(*parts: Any) -> str:
    """Return 20 hexadecimal digits that stand for `parts`: numbers, texts, paths, lists and mappings of them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def stage_digest(settings: Mapping[str, Any]) -> str:
    """Return the digest of a stage, given as `_target_` and settings. Builds nothing."""
    stage = locate(settings["_target_"], "stages")
    return digest(_effective(settings), stage.version, stage.fingerprint(settings))


def stage_inputs(settings: Mapping[str, Any]) -> str:
    """Return when the files that a stage reads beside the samples were written."""
    return locate(settings["_target_"], "stages").inputs(settings)


def _effective(settings: Any) -> Any:
    if isinstance(settings, Mapping):
        return {key: _effective(value) for key, value in settings.items() if key not in NEUTRAL}
    return [_effective(value) for value in settings] if isinstance(settings, list) else settings


def clip_digest(clip: SourceClip, key: str, *settings: Any) -> str:
    """Return the digest of a listed clip: what its source says, and size and time of the files that it is made of.

    `settings`: of the pipeline, as far as they change what is made of it.
    """
    return digest("clip", FORMAT, key, settings, _listing(clip), [_files(path) for path in clip.files()])


def quick_digest(stored: StoredSample) -> str:
    """Return the digest of a sample as far as it can be told without opening the shard."""
    return digest("stored", FORMAT, stored.key, _file(Path(stored.shard)), stored.problem)


def stored_digest(stored: StoredSample, info: Mapping[str, Any]) -> str:
    """Return the digest of a sample in shards whose json member is `info`.

    It stays the same where the shard was written anew with the same sample.
    """
    layers = (info.get("prepared") or {}).get("layers")
    return digest("stored", FORMAT, stored.key, layers[-1]["digest"]) if layers else quick_digest(stored)


def choose_keys(entries: Iterable[SourceClip | Any]) -> list[str]:
    """Return the key of the sample that each entry becomes: it stays the same when others come or go."""
    keys: list[str] = []
    seen: dict[str, int] = {}
    for entry in entries:
        key = _clip_key(entry) if isinstance(entry, SourceClip) else entry.key
        seen[key] = seen.get(key, 0) + 1
        keys.append(key if seen[key] == 1 else f"{key}_{seen[key]}")
    return keys


def _clip_key(clip: SourceClip) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', clip.video.stem)[:80]}_{digest(_listing(clip))[:10]}"


def _listing(clip: SourceClip) -> Any:
    fields = {field.name: getattr(clip, field.name) for field in dataclasses.fields(clip) if field.name != "place"}
    return _plain(fields)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


def _files(path: Path) -> Any:
    """Return size and time of a file, or of the files in a folder."""
    try:
        return [_file(path / name) for name in sorted(os.listdir(path))]
    except (OSError, ValueError):
        return _file(path)


def _file(path: Path) -> tuple[str, int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: no system takes such a name
        return None
    return str(path), found.st_size, found.st_mtime_ns
