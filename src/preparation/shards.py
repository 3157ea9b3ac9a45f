"""From listed clips to samples: probe the video, read the pictures, drop what cannot be used and say why."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ..datamodules.images import decode_image
from ..datamodules.samples import VIDEO_EXTENSIONS, BadSample
from ..datamodules.shards import ShardWriter, write_atomically
from ..datamodules.video import get_reader
from ..media import encode_png
from .sources import Picture, SourceClip


def write_shards(
    clips: Iterable[SourceClip],
    folder: Path,
    *,
    reader: str,
    samples_per_shard: int,
    on_clip: Callable[[], None] = lambda: None,
) -> tuple[int, list[dict[str, str]]]:
    """Write the samples of `clips` into `folder`; return how many were kept, and the dropped ones with reason and
    detail.
    """
    writer, kept, dropped = ShardWriter(folder, max_samples=samples_per_shard), 0, []
    with ProcessPoolExecutor() as pool:
        for clip, key, members, problem in pool.map(partial(_try_members, reader), enumerate(clips), chunksize=4):
            on_clip()
            if problem is None:
                writer.write(key, members)
                kept += 1
            else:
                dropped.append(
                    {"place": clip.place, "video": str(clip.video), "reason": problem.reason, "detail": problem.detail}
                )
    writer.close(dropped=dict(Counter(entry["reason"] for entry in dropped)))
    write_atomically(folder / "dropped.jsonl", "".join(json.dumps(entry) + "\n" for entry in dropped).encode())
    return kept, dropped


def _try_members(
    reader: str, numbered: tuple[int, SourceClip]
) -> tuple[SourceClip, str, dict[str, bytes], BadSample | None]:
    number, clip = numbered
    key = f"{number:07d}_{re.sub(r'[^A-Za-z0-9_-]', '_', clip.video.stem)[:80]}"
    try:
        return clip, key, clip_members(clip, reader), None
    except BadSample as problem:
        return clip, key, {}, problem


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
