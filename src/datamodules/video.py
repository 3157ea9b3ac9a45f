"""Video decoding behind one interface: `get_reader("pyav")`, `get_reader("decord")` or `get_reader("torchcodec")`.

Frame i is the i-th one shown, for every reader, whatever its time. What the readers do with awkward files (each line is
tested in `tests/datamodules/test_video.py`; a refusal is a BadSample that says what to change):

| file | pyav | decord | torchcodec |
|---|---|---|---|
| H.264, HEVC, VP9, ProRes, QuickTime RLE in mp4, mov, mkv or webm | yes | as pyav | as pyav |
| variable frame rate; alpha (is dropped) | yes | as pyav | as pyav |
| odd sizes in 4:2:0, 10 bits, interlaced | yes | other colours at edges | other colours at edges |
| turned by metadata (mirrored) | upright | refused: garbled | upright (refused) |
| AV1 | yes | refused: no decoder | yes |
| hidden by an edit list, cut between key frames, without times | yes | refused | refused |
| avi, mpegts, raw streams; VP8 | yes, read from the start | refused | refused |
| open groups of pictures: H.264 (HEVC) | yes | refused: seeks wrong | refused (as pyav) |
| several video streams: FFmpeg's best | yes | refused: another one | as pyav |
| truncated, empty, garbage, no video stream, changing size | refused | refused | refused |
| png, jpg, webp, gif: one frame, upright as EXIF says | yes | as pyav | as pyav |
| above MAX_PIXELS a frame, MAX_BYTES a clip | refused | refused | refused |

A truncated mpegts or raw stream cannot be told from a short one.
Other colours: each library interpolates 4:2:0 chroma in its own way where FFmpeg has no exact fast path.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .containers import check_whole
from .images import decode_image, is_picture
from .limits import MAX_BYTES
from .samples import PICTURE_EXTENSIONS, BadSample, Sample, clip_suffix


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: frames that can be decoded, mean `fps`, `height` and `width` as shown (after rotation)."""

    num_frames: int
    fps: float
    height: int
    width: int


class VideoReader(ABC):
    """Decodes clips from bytes. Every reader gives the same frames: index 0 is the first one shown."""

    def probe(self, data: bytes) -> VideoInfo:
        """Return what `data` holds. Raises BadSample where it cannot be decoded. A picture has one frame at 1 fps."""
        if is_picture(data):
            return VideoInfo(1, 1.0, *decode_image(data, "the clip").shape[:2])
        check_whole(data)
        return self._probe(data)

    def read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        """Return the frames (n h w 3, uint8 RGB) at `indices`, in that order, repeats allowed.

        Raises BadSample for an unreadable file and for an index past its end.
        """
        if len(indices) == 0 or min(indices) < 0:
            raise ValueError(f"indices={list(indices)} must name at least one frame, counted from 0")
        if is_picture(data):
            return self._picture(data, indices)
        check_whole(data)
        return self._read(data, indices)

    def read_all(self, data: bytes) -> tuple[np.ndarray, float]:
        """Return all frames (f h w 3, uint8 RGB) and the frame rate. Raises BadSample for an unreadable file."""
        if is_picture(data):
            return self._picture(data, [0]), 1.0
        check_whole(data)
        return self._read_all(data)

    def _read_all(self, data: bytes) -> tuple[np.ndarray, float]:
        info = self._probe(data)
        return self._read(data, range(info.num_frames)), info.fps

    @abstractmethod
    def _probe(self, data: bytes) -> VideoInfo: ...

    @abstractmethod
    def _read(self, data: bytes, indices: Sequence[int]) -> np.ndarray: ...

    @staticmethod
    def _picture(data: bytes, indices: Sequence[int]) -> np.ndarray:
        pixels = decode_image(data, "the clip")
        if max(indices) > 0:
            raise past_end(indices, 1)
        check_bytes(len(indices), *pixels.shape[:2])
        return np.repeat(pixels[None], len(indices), axis=0)


def described(sample: Sample, reader: VideoReader, *needed: str) -> Sample:
    """Return the sample with what its video says, where its json says nothing of `needed` (names of VideoInfo).

    A picture in the place of the video has one frame. Raises BadSample where the video cannot be read.
    """
    info = sample.info
    if clip_suffix(sample.members) in PICTURE_EXTENSIONS:
        info = {**info, "num_frames": 1, "fps": info.get("fps") or 1.0}
    if not all(info.get(name) for name in needed):
        info = {**info, **vars(reader.probe(sample.video))}
    return sample if info is sample.info else replace(sample, info=info)


def past_end(indices: Sequence[int], num_frames: int) -> BadSample:
    """Return the error for `indices` of which one lies past the end of `num_frames` frames."""
    return BadSample("unreadable video", f"frame {max(indices)} was asked for, {num_frames} could be decoded")


def check_bytes(num_frames: int, height: int, width: int) -> None:
    """Raise BadSample where so many frames of that size are more than MAX_BYTES in memory."""
    if num_frames * height * width * 3 > MAX_BYTES:
        raise BadSample(
            "too large",
            f"{num_frames} frames of {width} x {height} take {num_frames * height * width * 3:,} bytes, at most "
            f"{MAX_BYTES:,} are decoded at once: ask for fewer frames, or make the video smaller",
        )


def get_reader(name: str) -> VideoReader:
    """Return the reader of that name. Raises ValueError for an unknown or an uninstalled one."""
    if name == "pyav":
        from .readers.pyav import PyAVReader

        return PyAVReader()
    if name == "decord":
        from .readers.decord import DecordReader

        return DecordReader()
    if name == "torchcodec":
        from .readers.torchcodec import TorchCodecReader

        return TorchCodecReader()
    raise ValueError(f"reader={name!r} is not one of pyav, decord, torchcodec")
