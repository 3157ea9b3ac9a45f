"""Splits clips at cuts: each shot becomes a clip of its own, encoded anew."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from ...datamodules.masks import MASKS, encode_masks, mask_frames, mask_kinds
from ...datamodules.samples import PICTURE_EXTENSIONS, VIDEO_EXTENSIONS, BadSample, Sample
from ...datamodules.video import get_reader
from . import SampleStage
from .cuts import find_shots

BLOCK_BYTES = 2**27  # of frames that are held at once
OF_FRAMES = ("boxes", "head_boxes", "keypoints")  # lists whose rows begin with a frame


class Shots(SampleStage):
    """Gives one sample a shot, with the key `KEY_s000`, `KEY_s001`...; a picture or a clip of one shot stays as it is.

    See `cuts.find_shots` for `ratio`, `min_change` and `dissolves` (the least difference between two shots that
    dissolve into each other; null: look for hard cuts only). Shots under `min_frames` are left out. They are never
    copied from the stream: such files begin with frames that readers count differently. `crf`: quality of the encoder,
    lower is better. What is known frame by frame goes along, cached tensors do not. Raises ValueError for settings out
    of range.
    """

    def __init__(
        self,
        *,
        min_frames: int = 16,
        ratio: float = 3.0,
        min_change: float = 12.0,
        dissolves: float | None = 25.0,
        crf: int = 14,
        reader: str = "pyav",
    ):
        if min_frames < 1:
            raise ValueError(f"min_frames={min_frames} must be at least 1: stages.shots.min_frames")
        if ratio <= 1:
            raise ValueError(f"ratio={ratio} must be above 1: stages.shots.ratio")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf={crf} must lie in [0, 51]: stages.shots.crf")
        self.min_frames, self.crf, self.reader = min_frames, crf, get_reader(reader)
        least = float("inf") if dissolves is None else dissolves
        self.find_shots = partial(find_shots, ratio=ratio, min_change=min_change, min_difference=least)

    def __call__(self, sample: Sample) -> list[Sample]:
        if sample.video_suffix in PICTURE_EXTENSIONS:
            return [sample]
        count = int(sample.info.get("num_frames") or self.reader.probe(sample.video).num_frames)
        shots = list(self.find_shots(self._blocks(sample, 0, count)))
        if shots == [(0, count)]:
            if count < self.min_frames:
                raise BadSample("too short", f"one shot of {count} frames, {self.min_frames} are asked for")
            return [sample]
        long = [shot for shot in shots if shot[1] - shot[0] >= self.min_frames]
        if not long:
            longest = max((stop - start for start, stop in shots), default=0)
            raise BadSample("too short", f"the longest of {len(shots)} shots has {longest} of {count} frames")
        return [self._cut(sample, number, start, stop) for number, (start, stop) in enumerate(long)]

    def _blocks(self, sample: Sample, start: int, stop: int) -> Iterator[np.ndarray]:
        size = max(1, int(sample.info["height"]) * int(sample.info["width"]) * 3)
        step = max(1, BLOCK_BYTES // size)
        for first in range(start, stop, step):
            yield self.reader.read(sample.video, range(first, min(first + step, stop)))

    def _cut(self, sample: Sample, number: int, start: int, stop: int) -> Sample:
        video, (height, width) = encode(self._blocks(sample, start, stop), float(sample.info["fps"]), self.crf)
        members = {
            suffix: data
            for suffix, data in sample.members.items()
            if suffix.startswith("face.") and suffix not in VIDEO_EXTENSIONS
        }
        if MASKS in sample.members:
            members[MASKS] = _cut_masks(sample, start, stop, height, width)
        info = {**sample.info, "num_frames": stop - start, "height": height, "width": width, "shot": [start, stop]}
        for name in ("identities", "tracks"):
            if name in info:
                info[name] = [_cut_rows(owner, start, stop) for owner in info[name]]
        return replace(sample, key=f"{sample.key}_s{number:03d}", members={"mp4": video, **members}, info=info)


def encode(blocks: Iterator[np.ndarray], fps: float, crf: int) -> tuple[bytes, tuple[int, int]]:
    """Return blocks of frames (f h w 3 uint8) as an H.264 mp4, and its height and width (even: 4:2:0 colour)."""
    import av

    buffer, stream, size = io.BytesIO(), None, (0, 0)
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}  # see media.encode_mp4
    with av.open(buffer, "w", format="mp4") as container:
        for block in blocks:
            if stream is None:
                size = (block.shape[1] // 2 * 2, block.shape[2] // 2 * 2)
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width, stream.pix_fmt, stream.thread_count = *size, "yuv420p", 1
            for frame in block:
                pixels = np.ascontiguousarray(frame[: size[0], : size[1]])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode())
    return buffer.getvalue(), size


def _cut_rows(owner: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Return an identity or a track with what is known of the frames `start` to `stop`, counted from `start`."""
    cut = dict(owner)
    for name in OF_FRAMES:
        if name in cut:
            cut[name] = [[row[0] - start, *row[1:]] for row in cut[name] if start <= row[0] < stop]
    if "valid_frames" in cut:
        cut["valid_frames"] = {
            kind: [frame - start for frame in frames if start <= frame < stop]
            for kind, frames in cut["valid_frames"].items()
        }
    return cut


def _cut_masks(sample: Sample, start: int, stop: int, height: int, width: int) -> bytes:
    data, info = sample.members[MASKS], sample.info
    shape = (int(info["num_frames"]), int(info["height"]), int(info["width"]))

    def cut(kind: str) -> Iterator[np.ndarray]:
        return (frame[:height, :width] for frame in islice(mask_frames(data, kind, shape), start, stop))

    return encode_masks({kind: cut(kind) for kind in mask_kinds(data)}, (stop - start, height, width))
