"""The default reader: FFmpeg through PyAV."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..samples import BadSample
from ..video import VideoInfo, VideoReader, check_bytes, past_end
from .packets import OpenVideo, open_video, turn


class PyAVReader(VideoReader):
    """FFmpeg through PyAV, counted in presentation order, turned as the file's metadata says.

    Where the times of the packets name the frames for certain, decoding starts at the key frame before each wanted one
    and passes over H.264 frames that nothing refers to; otherwise it starts with the file. The frames are the same.
    """

    def _probe(self, data: bytes) -> VideoInfo:
        num_frames, shape = 0, (0, 0)
        with open_video(data) as video:
            for frame in _decoded(video, video.packets()):
                if num_frames == 0:
                    shape = (frame.height, frame.width)
                    shape = shape[::-1] if (turn(frame) or [False])[0] else shape
                num_frames += 1
            if num_frames == 0:
                raise BadSample("unreadable video", "no frame could be decoded")
            return VideoInfo(num_frames, video.fps, *shape)

    def _read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        with open_video(data) as video:
            packets = list(video.packets())
            clip = None
            if video.why_untimed(packets) is None:
                clip = _read_by_time(video, packets, indices)
            return clip if clip is not None else _read_in_order(video, packets, indices)

    def _read_all(self, data: bytes) -> tuple[np.ndarray, float]:
        with open_video(data) as video:  # decoded once, where to count the frames first would decode twice
            packets = list(video.packets())
            clip, count = _Clip(range(len(packets))), 0
            for frame in _decoded(video, packets):
                clip.put(count, frame)
                count += 1
            if clip.frames is None or count > len(packets):
                raise BadSample("unreadable video", f"{count} frames could be decoded from {len(packets)} packets")
            return clip.frames[:count], video.fps


class _Clip:
    """The frames that were asked for, as they come in."""

    def __init__(self, indices: Sequence[int]):
        from av.video.reformatter import VideoReformatter

        self.indices, self.missing = np.asarray(indices), set(indices)
        self.frames: np.ndarray | None = None
        self._reformatter = VideoReformatter()  # kept: it prepares tables for a size and a pixel format once

    def put(self, index: int, frame: Any) -> None:
        pixels = _upright(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), turn(frame))
        if self.frames is None:
            check_bytes(len(self.indices), *pixels.shape[:2])
            self.frames = np.empty((len(self.indices), *pixels.shape), np.uint8)
        if pixels.shape != self.frames.shape[1:]:
            sizes = [f"{width} x {height}" for height, width in (self.frames.shape[1:3], pixels.shape[:2])]
            raise BadSample("changing size", f"frame {index} is {sizes[1]}, one before {sizes[0]}: encode it again")
        self.frames[self.indices == index] = pixels
        self.missing.discard(index)


def _read_in_order(video: OpenVideo, packets: list[Any], indices: Sequence[int]) -> np.ndarray:
    clip, count = _Clip(indices), 0
    for frame in _decoded(video, packets):
        if count in clip.missing:
            clip.put(count, frame)
        count += 1
        if not clip.missing and clip.frames is not None:
            return clip.frames
    raise past_end(indices, count)


def _read_by_time(video: OpenVideo, packets: list[Any], indices: Sequence[int]) -> np.ndarray | None:
    """Return the frames without decoding all before them, None where the decoder did not give each of them whole."""
    times = sorted(packet.pts for packet in packets)
    if max(indices) >= len(times):
        raise past_end(indices, len(times))
    clip, wanted = _Clip(indices), {times[index]: index for index in set(indices)}
    for first, last in _runs(video, packets, wanted):
        for frame in _decoded(video, packets[first : last + 1], wanted):
            if frame.pts in wanted:
                if frame.is_corrupt:
                    return None
                clip.put(wanted[frame.pts], frame)
    return None if clip.missing else clip.frames


def _runs(video: OpenVideo, packets: list[Any], wanted: dict[int, int]) -> list[tuple[int, int]]:
    """Return (first, last) of the stretches of `packets` that must be decoded to see the frames at `wanted` times."""
    runs: list[tuple[int, int]] = []
    entries: list[int] = []
    for place, packet in enumerate(packets):
        if video.is_entry(packet):
            entries.append(place)
        if packet.pts in wanted:
            # A frame shown before its own key frame refers to the group of pictures before that.
            first = next((entry for entry in reversed(entries) if packets[entry].pts <= packet.pts), 0)
            while runs and runs[-1][1] + 1 >= first:
                first = min(first, runs.pop()[0])
            runs.append((first, place))
    return runs


def _decoded(video: OpenVideo, packets: Any, wanted: dict[int, int] | None = None) -> Iterator[Any]:
    """Yield the frames of `packets` in the order they are shown, from a fresh decoder.

    With `wanted` times, H.264 frames at other times that no frame refers to (nal_ref_idc 0) may be left out.
    """
    decoder = video.decoder
    if decoder.is_open:
        decoder.flush_buffers()
    for packet in packets:
        is_skipped = wanted is not None and packet.pts not in wanted and decoder.name == "h264"
        decoder.skip_frame = "NONREF" if is_skipped else "DEFAULT"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)


def _upright(pixels: np.ndarray, how: tuple[bool, bool, bool] | None) -> np.ndarray:
    if how is None:
        return pixels
    swap, mirror_rows, mirror_columns = how
    pixels = pixels.transpose(1, 0, 2) if swap else pixels
    return pixels[:: -1 if mirror_rows else 1, :: -1 if mirror_columns else 1]
