"""From listed clips to samples in shards: probe the video, read the pictures, run the stages, drop what cannot be used
and say why.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..datamodules.images import decode_image
from ..datamodules.samples import VIDEO_EXTENSIONS, BadSample, Sample
from ..datamodules.shards import ShardWriter, write_atomically
from ..datamodules.video import get_reader
from ..media import encode_png
from .sources import Picture, SourceClip
from .stages import Entry, SampleStage
from .workers import map_in_workers


def write_shards(
    entries: Iterable[SourceClip | Entry],
    folder: Path,
    *,
    reader: str,
    samples_per_shard: int,
    stages: Callable[[], Sequence[SampleStage]] = tuple,
    start_method: str | None = None,
    num_workers: int | None = None,
    on_clip: Callable[[], None] = lambda: None,
    dropped_before: Sequence[dict[str, str]] = (),
    info: Mapping[str, Any] | None = None,
) -> tuple[int, list[dict[str, str]]]:
    """Write the samples of `entries` into `folder`, each after the stages that `stages` builds in a worker process.

    Returns how many samples were kept, and the dropped entries with reason and detail, after those of `dropped_before`.
    `info` goes into `index.json`; where nothing is kept, there is none. `num_workers` and `start_method`: see
    `map_in_workers`.
    """
    writer, kept, dropped = ShardWriter(folder, max_samples=samples_per_shard), 0, list(dropped_before)
    made = map_in_workers(
        stages, partial(_try_samples, reader), enumerate(entries), num_workers=num_workers, start_method=start_method
    )
    for entry, samples, problem in made:
        on_clip()
        for sample in samples:
            writer.write(sample.key, {**sample.members, "json": json.dumps(sample.info).encode()})
            kept += 1
        if problem is not None:
            dropped.append(report(entry, problem))
    if kept:
        writer.close(**(info or {}), dropped=dict(Counter(entry["reason"] for entry in dropped)))
    write_atomically(folder / "dropped.jsonl", "".join(json.dumps(entry) + "\n" for entry in dropped).encode())
    return kept, dropped


def report(entry: SourceClip | Entry, problem: BadSample) -> dict[str, str]:
    """Return the line of `dropped.jsonl` on an entry."""
    return {
        "place": entry.place,
        "video": str(entry.video),
        "reason": problem.reason,
        "detail": problem.detail,
    }


def _try_samples(
    reader: str, stages: Sequence[SampleStage], numbered: tuple[int, SourceClip | Entry]
) -> tuple[SourceClip | Entry, list[Sample], BadSample | None]:
    number, entry = numbered
    try:
        samples = [_clip_sample(entry, number, reader) if isinstance(entry, SourceClip) else entry.load()]
        for stage in stages:
            samples = [made for sample in samples for made in stage(sample)]
    except BadSample as problem:
        return entry, [], problem
    return entry, samples, None


def _clip_sample(clip: SourceClip, number: int, reader: str) -> Sample:
    key = f"{number:07d}_{re.sub(r'[^A-Za-z0-9_-]', '_', clip.video.stem)[:80]}"
    return Sample.parse({"__key__": key, "__url__": clip.place, **clip_members(clip, reader)})


def clip_members(clip: SourceClip, reader: str) -> dict[str, bytes]:
    """Return the members of the sample made of `clip`. Raises BadSample where something is missing or unreadable."""
    if not isinstance(clip.caption, str) or not clip.caption.strip():
        raise BadSample("no caption", f"{clip.place}: a caption is needed")
    extension = clip.video.suffix[1:].lower()
    if extension not in VIDEO_EXTENSIONS:
        raise BadSample("unknown container", f"{clip.video}: allowed are {', '.join(VIDEO_EXTENSIONS)}")
    video = _read(clip.video)
    try:
        probed = get_reader(reader).probe(video)
    except BadSample as problem:
        raise BadSample(problem.reason, f"{clip.video}: {problem.detail}") from problem
    info: dict[str, Any] = {
        "caption": clip.caption.strip(),
        "fps": probed.fps,
        "num_frames": probed.num_frames,
        "height": probed.height,
        "width": probed.width,
        "source": str(clip.video),
        "identities": [],
    }
    members = {extension: video}
    number = 0
    for pictures in clip.identities:
        suffixes = []
        for picture in pictures:
            members |= _picture_members(picture, number)
            suffixes.append(f"face.{number}.png")
            number += 1
        info["identities"].append({"id": f"{clip.video.stem}/{len(info['identities'])}", "face": suffixes})
    return members | {"json": json.dumps(info).encode()}


def _picture_members(picture: Picture, number: int) -> dict[str, bytes]:
    image = decode_image(_read(picture.image), str(picture.image))
    members = {f"face.{number}.png": encode_png(image)}
    if picture.mask is not None:
        mask = decode_image(_read(picture.mask), str(picture.mask), mode="L")
        if mask.shape != image.shape[:2]:
            raise BadSample(
                "mask of another size", f"{picture.mask} is {mask.shape[::-1]}, {picture.image} is {image.shape[1::-1]}"
            )
        members[f"face.{number}.mask.png"] = encode_png(mask)
    return members


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSample("missing file", f"{path}: {error.strerror}") from error


def summarise(kept: int, dropped: list[dict[str, str]]) -> Iterator[str]:
    """Yield the lines of the closing report."""
    yield f"kept {kept} of {kept + len(dropped)} clips"
    for reason, count in Counter(entry["reason"] for entry in dropped).most_common():
        example = next(entry for entry in dropped if entry["reason"] == reason)
        yield f"dropped {count}: {reason} (first: {example['detail']})"
