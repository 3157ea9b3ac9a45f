"""From listed clips to samples in shards: probe the video, read the pictures, run the stages, drop what cannot be used
and say why.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..datamodules.images import decode_image
from ..datamodules.samples import VIDEO_EXTENSIONS, BadSample, Sample
from ..datamodules.video import get_reader
from ..media import encode_png
from .sources import Picture, SourceClip


def write_shards(
    entries: Iterable[Any], folder: Path, *, reader: str, samples_per_shard: int
) -> tuple[int, list[dict[str, Any]]]:
    """Write the samples of `entries` into `folder`. Returns how many were kept, and the dropped entries."""
    from .pipeline import Pipeline

    return Pipeline({}, folder, reader=reader, samples_per_shard=samples_per_shard).run(list(entries))


def clip_sample(clip: SourceClip, key: str, reader: str) -> Sample:
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
