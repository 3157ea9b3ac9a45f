"""From a listed clip to a sample: probe the video, or make it from pictures, and read what else the source names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..datamodules.images import decode_image, is_picture
from ..datamodules.samples import VIDEO_EXTENSIONS, BadSample, Sample
from ..datamodules.video import VideoReader, get_reader
from ..media import encode_mp4, encode_png
from .sources import PICTURES, FrameFiles, Picture, SourceClip, read_file

Members = dict[str, bytes]
AS_THEY_ARE = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG", "webp": b"RIFF"}  # pictures that keep their bytes


def clip_sample(clip: SourceClip, key: str, reader: str) -> Sample:
    """Return the sample made of `clip`. Raises BadSample where something is missing or unreadable."""
    if clip.problem is not None:
        raise BadSample(*clip.problem)
    if clip.caption is None:
        raise BadSample("no caption", f"{clip.place}: a caption is needed")
    decoder = get_reader(reader)
    members, shape = _video_members(clip, decoder)
    (video,) = members.values()
    info: dict[str, Any] = {**clip.info, "caption": clip.caption.strip(), **shape, "source": str(clip.video)}
    faces, info["identities"] = _references(clip)
    if clip.annotations is not None:
        entries, further = clip.annotations.read(video, info, decoder)
        info, members = {**info, **entries}, {**members, **further}
    members |= faces
    return Sample.parse({"__key__": key, "__url__": clip.place, **members, "json": json.dumps(info).encode()})


def _video_members(clip: SourceClip, reader: VideoReader) -> tuple[Members, dict[str, Any]]:
    """Return the video's member and its rate, length and size."""
    if clip.frames is not None:
        return _from_frames(clip.frames)
    extension = clip.video.suffix[1:].lower()
    if clip.video.suffix.lower() in PICTURES:
        return _from_picture(clip.video)
    if extension not in VIDEO_EXTENSIONS:
        raise BadSample("unknown container", f"{clip.video}: allowed are {', '.join(VIDEO_EXTENSIONS)} and pictures")
    video = read_file(clip.video)
    try:
        probed = reader.probe(video)
    except BadSample as problem:
        raise BadSample(problem.reason, f"{clip.video}: {problem.detail}") from problem
    return {extension: video}, _shape(probed.fps, probed.num_frames, probed.height, probed.width)


def _from_frames(frames: FrameFiles) -> tuple[Members, dict[str, Any]]:
    paths = frames.paths()
    height, width = (side // 2 * 2 for side in decode_image(read_file(paths[0]), str(paths[0])).shape[:2])
    if not height or not width:
        raise BadSample("unreadable image", f"{paths[0]} is one pixel high or wide")
    video = encode_mp4(_equal_pictures(paths), frames.fps, frames.crf)
    return {"mp4": video}, _shape(frames.fps, len(paths), height, width)


def _equal_pictures(paths: list[Path]) -> Iterator[np.ndarray]:
    size = None
    for path in paths:
        picture = decode_image(read_file(path), str(path))
        size = size or picture.shape
        if picture.shape != size:
            raise BadSample("frames of several sizes", f"{path} is {picture.shape[1::-1]}, {paths[0]} is {size[1::-1]}")
        yield picture


def _from_picture(path: Path) -> tuple[Members, dict[str, Any]]:
    """Return a picture as a clip of one frame: its own bytes, or a PNG where readers know no such format."""
    data = read_file(path)
    picture = decode_image(data, str(path))
    known = [suffix for suffix, start in AS_THEY_ARE.items() if data.startswith(start)]
    video = {known[0]: data} if known and is_picture(data) else {"png": encode_png(picture)}
    return video, _shape(1.0, 1, *picture.shape[:2])


def _shape(fps: float, num_frames: int, height: int, width: int) -> dict[str, Any]:
    return {"fps": fps, "num_frames": num_frames, "height": height, "width": width}


def _references(clip: SourceClip) -> tuple[Members, list[dict[str, Any]]]:
    members: Members = {}
    identities: list[dict[str, Any]] = []
    number = 0
    names = clip.identity_ids or tuple(f"{clip.video.stem}/{place}" for place in range(len(clip.identities)))
    for name, pictures in zip(names, clip.identities, strict=True):
        suffixes = []
        for picture in pictures:
            members |= _picture_members(picture, number)
            suffixes.append(f"face.{number}.png")
            number += 1
        identities.append({"id": name, "face": suffixes})
    return members, identities


def _picture_members(picture: Picture, number: int) -> Members:
    image = decode_image(read_file(picture.image), str(picture.image))
    members = {f"face.{number}.png": encode_png(image)}
    if picture.mask is not None:
        mask = decode_image(read_file(picture.mask), str(picture.mask), mode="L")
        if mask.shape != image.shape[:2]:
            raise BadSample(
                "mask of another size", f"{picture.mask} is {mask.shape[::-1]}, {picture.image} is {image.shape[1::-1]}"
            )
        members[f"face.{number}.mask.png"] = encode_png(mask)
    return members
