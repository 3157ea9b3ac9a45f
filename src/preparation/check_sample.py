"""What can be wrong with one sample: its members against the data contract and against each other."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..datamodules.cache import MEMBER as CACHE
from ..datamodules.cache import VIDEO_HASH
from ..datamodules.images import decode_image
from ..datamodules.masks import MASKS, mask_frames, mask_kinds
from ..datamodules.samples import PICTURE_EXTENSIONS, BadSample, Sample, clip_suffix
from ..datamodules.video import VideoReader, described
from .sources.shards import StoredSample

Found = tuple[str, str]  # kind and detail
NUMBERS = ("num_frames", "height", "width", "fps")
POINTS = {"boxes": 5, "head_boxes": 5, "keypoints": 10}  # numbers after the frame, without or with a score
KINDS = ("face", "head", "person")  # of masks
PICTURE = re.compile(rf"face\.(?!.*\.mask\.png$).*\.({'|'.join(PICTURE_EXTENSIONS)})")


def check_sample(stored: StoredSample, reader: VideoReader, *, full: bool) -> tuple[list[Found], str | None]:
    """Return what is wrong with a sample, and how its cached tensors were made (None without any)."""
    try:
        sample = described(stored.load(), reader, *NUMBERS)
    except BadSample as problem:
        return [(problem.reason, problem.detail)], None
    problems = [*_info(sample.info), *_video(sample, reader, full), *_identities(sample), *_masks(sample, reader)]
    recipe, cached = _cache(sample)
    return [*problems, *cached, *_embeddings(sample)], recipe


def _info(info: Mapping[str, Any]) -> Iterator[Found]:
    if not info["caption"].strip():
        yield "no caption", "the caption is empty"
    for name in NUMBERS:
        if name != "fps" and not isinstance(info[name], int):
            yield "wrong json", f"{name} is {info[name]!r}: a whole number is needed"


def _video(sample: Sample, reader: VideoReader, full: bool) -> Iterator[Found]:
    info = sample.info
    if clip_suffix(sample.members) is None and VIDEO_HASH in info and CACHE in sample.members:
        return  # stages.cache.keep_video=false left it out
    try:
        data = sample.video
        height, width = reader.read(data, [0])[0].shape[:2]
        told = _header(data) if not full else None
        # A header may be wrong as well: what it says is verified before it counts.
        must_probe = full or told != (info["num_frames"], round(float(info["fps"]), 2))
        probed = reader.probe(data) if must_probe else None
    except BadSample as problem:
        yield problem.reason, problem.detail
        return
    if (height, width) != (info["height"], info["width"]):
        yield "wrong size in json", f"the video is {width} x {height}, json says {info['width']} x {info['height']}"
    if probed is None:
        return
    if probed.num_frames != info["num_frames"]:
        yield "wrong num_frames", f"{probed.num_frames} frames can be decoded, json says {info['num_frames']}"
    fps = info["fps"]
    if abs(probed.fps - fps) > 0.01 * max(fps, probed.fps):
        yield "wrong fps", f"the video has {probed.fps:.6g}, json says {fps:.6g}"


def _header(data: bytes) -> tuple[int, float | None] | None:
    """Return frames and rate as the container states them."""
    import av

    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.best("video")
            return None if stream is None else (stream.frames, round(float(stream.average_rate or 0), 2))
    except av.error.FFmpegError:
        return None


def _identities(sample: Sample) -> Iterator[Found]:
    pictures = {one for one in sample.members if PICTURE.fullmatch(one)}
    for place, identity in enumerate(sample.info.get("identities") or []):
        name = f"identity {place}"
        for suffix in identity.get("face") or []:
            if suffix not in sample.members:
                yield "missing member", f"{name} names {suffix}, which is not there"
            else:
                pictures.add(suffix)
        yield from _rows(name, identity, sample.info["num_frames"])
    for place, track in enumerate(sample.info.get("tracks") or []):
        yield from _rows(f"track {place}", track, sample.info["num_frames"])
    for suffix in sorted(pictures):
        yield from _picture(sample, suffix)


def _rows(name: str, owner: Mapping[str, Any], num_frames: int) -> Iterator[Found]:
    """Yield what is wrong with the boxes and keypoints of an identity or a track, one problem a kind."""
    for kind, count in POINTS.items():
        rows = owner.get(kind) or []
        wrong = [row for row in rows if not _is_row(row, count)]
        if wrong:
            yield "wrong json", f"{name}: a row of {kind} is {wrong[0]!r}, not a frame and {count} numbers"
        rows = [row for row in rows if _is_row(row, count)]
        gone = [row[0] for row in rows if not 0 <= row[0] < num_frames]
        if gone:
            yield "no such frame", f"{name}: {kind} of {len(gone)} frames that do not exist, e.g. {gone[0]}"
        places = [(row[0], row[1 : 5 if count == 5 else 11]) for row in rows]
        outside = [frame for frame, values in places if not all(0 <= value <= 1 for value in values)]
        if outside:
            yield (
                "outside of the frame",
                f"{name}: {kind} of {len(outside)} frames not in [0, 1], e.g. frame {outside[0]}",
            )
        empty = [frame for frame, v in places if count == 5 and (v[2] <= v[0] or v[3] <= v[1])]
        if empty:
            yield "empty box", f"{name}: {kind} of {len(empty)} frames have no area, e.g. frame {empty[0]}"
    for kind, frames in (owner.get("valid_frames") or {}).items():
        gone = [frame for frame in frames or [] if not 0 <= frame < num_frames]
        if gone:
            yield "no such frame", f"{name}: valid_frames.{kind} names {len(gone)} that do not exist, e.g. {gone[0]}"


def _is_row(row: Sequence[Any], count: int) -> bool:
    return len(row) in ((5, 6) if count == 5 else (11,)) and isinstance(row[0], int)


def _picture(sample: Sample, suffix: str) -> Iterator[Found]:
    try:
        shape = decode_image(sample.members[suffix], suffix).shape[:2]
        mask_suffix = f"{suffix.rpartition('.')[0]}.mask.png"
        if mask_suffix in sample.members:
            mask = decode_image(sample.members[mask_suffix], mask_suffix, mode="L").shape
            if mask != shape:
                yield "mask of another size", f"{mask_suffix} is {mask[::-1]}, {suffix} is {shape[::-1]}"
    except BadSample as problem:
        yield problem.reason, problem.detail


def _masks(sample: Sample, reader: VideoReader) -> Iterator[Found]:
    info = sample.info
    wanted = (int(info["num_frames"]), int(info["height"]), int(info["width"]))
    if MASKS in sample.members:
        try:
            for kind in mask_kinds(sample.members[MASKS]):
                yield from _mask(sample.members[MASKS], kind, wanted, len(info.get("identities") or []))
        except BadSample as problem:
            yield problem.reason, problem.detail
    if "mask.mp4" in sample.members:
        try:
            probed = reader.probe(sample.members["mask.mp4"])
        except BadSample as problem:
            yield "unreadable mask", f"mask.mp4: {problem.detail}"
            return
        if (probed.num_frames, probed.height, probed.width) != wanted:
            yield (
                "mask of another size",
                f"mask.mp4 is {(probed.num_frames, probed.height, probed.width)}, the clip {wanted}",
            )


def _mask(data: bytes, kind: str, shape: tuple[int, int, int], num_identities: int) -> Iterator[Found]:
    if kind not in KINDS:
        yield "unknown mask", f"{MASKS} has {kind!r}: allowed are {', '.join(KINDS)}"
    highest = max(int(frame.max(initial=0)) for frame in mask_frames(data, kind, shape))
    if highest > num_identities:
        yield "wrong mask", f"{kind} in {MASKS}: up to {highest}, with {num_identities} identities"


def _cache(sample: Sample) -> tuple[str | None, list[Found]]:
    """Return how the cached tensors were made, and what is wrong with them."""
    if CACHE not in sample.members:
        return None, []
    from safetensors import SafetensorError, deserialize

    data = sample.members[CACHE]
    try:
        deserialize(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        return None, [("unreadable latents", f"{CACHE}: {error}")]
    recipe = metadata.get("recipes")
    if recipe is None:
        return None, [("no recipe", f"{CACHE} does not say how it was made")]
    return recipe, []


def _embeddings(sample: Sample) -> Iterator[Found]:
    from .stages.embed_faces import MEMBER, read_embeddings

    if MEMBER not in sample.members:
        return
    try:
        embeddings = read_embeddings(sample)
    except BadSample as problem:
        yield problem.reason, problem.detail
        return
    pictures = {suffix for identity in sample.info.get("identities") or [] for suffix in identity.get("face") or []}
    strange = sorted(embeddings.vectors.keys() - pictures)
    if strange:
        yield "stale embeddings", f"{MEMBER} has {', '.join(strange)}, which no identity names"
