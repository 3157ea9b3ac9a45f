"""What a video file says of itself before a frame is decoded, through PyAV: the ground that all readers stand on."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..limits import MAX_FRAMES, MAX_PIXELS
from ..samples import BadSample

# Formats that hold pixels. FFmpeg also reads playlists (hls, concat, dash), which open further files and addresses.
FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,h264,hevc,obu,nut,mxf,dv,gif"
# Containers that keep a time for each packet, and codecs of one frame a packet (VP8 hides some).
TIMED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
TIMED_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg", "prores", "qtrle", "ffv1")


class OpenVideo:
    """The best video stream of an open file, and the decoder that belongs to it."""

    def __init__(self, container: Any):
        self.container, self.stream = container, container.streams.best("video")
        if self.stream is None or self.stream.disposition & type(self.stream.disposition).attached_pic:
            raise BadSample("unreadable video", "the file has no video stream")
        self.decoder = self.stream.codec_context
        if self.decoder is None:
            raise BadSample("unreadable video", "FFmpeg has no decoder for the video stream")
        check_size(self.decoder.height, self.decoder.width)
        self.decoder.thread_count = 1  # data workers are many
        self.decoder.options = {"max_pixels": str(MAX_PIXELS)}

    @property
    def fps(self) -> float:
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not rate:
            raise BadSample("no frame rate", "the file does not say how fast its frames follow: encode it again")
        return float(rate)

    def packets(self) -> Iterator[Any]:
        """Yield what the decoder eats. Raises BadSample for a file with more than MAX_FRAMES."""
        for number, packet in enumerate(self.container.demux(self.stream)):
            if number > MAX_FRAMES:
                raise BadSample("too large", f"the video has more than {MAX_FRAMES:,} frames: cut it into clips")
            if packet.is_corrupt:
                raise BadSample("truncated video", f"frame {number} is not whole")
            if packet.size:
                yield packet

    def _has_lengths(self) -> bool:
        """False for H.264 as in a raw stream (start codes instead of an avcC header), which mp4 does not allow."""
        is_h264 = self.decoder.codec.canonical_name == "h264"
        return not is_h264 or (self.decoder.extradata or b"")[:1] == b"\x01"

    def is_entry(self, packet: Any) -> bool:
        """Return whether what follows `packet` can be decoded without what lies before it.

        Not every H.264 key frame is one: after a recovery point (open groups, intra refresh) pictures may be partial.
        """
        if not packet.is_keyframe or self.decoder.codec.canonical_name != "h264":
            return packet.is_keyframe
        return 5 in _nal_types(bytes(packet), (self.decoder.extradata[4] & 3) + 1)

    def why_untimed(self, packets: list[Any]) -> str | None:
        """Return why the frames cannot be told apart by the times of `packets`, None where they can."""
        times = [packet.pts for packet in packets]
        if self.container.format.name not in TIMED_FORMATS or not self._has_lengths():
            return f"{self.container.format.name} has no reliable frame times"
        if self.decoder.codec.canonical_name not in TIMED_CODECS:
            return f"{self.decoder.codec.canonical_name} can hide frames"
        if None in times or len(set(times)) < len(times):
            return "frames have no time, or two the same"
        if any(packet.is_discard for packet in packets):
            return "an edit list hides frames"
        if not packets or not packets[0].is_keyframe or min(times) < times[0]:
            return "the file starts between two key frames"
        return None


def _nal_types(packet: bytes, length_size: int) -> Iterator[int]:
    """Yield the types of the units in an H.264 packet (ISO/IEC 14496-15, 5.3: each behind its length)."""
    place = 0
    while place + length_size < len(packet):
        yield packet[place + length_size] & 31
        place += length_size + int.from_bytes(packet[place : place + length_size], "big")


@contextmanager
def open_video(data: bytes) -> Iterator[OpenVideo]:
    """Open `data` and close it again. Raises BadSample for whatever FFmpeg cannot do with it."""
    import av

    try:
        with av.open(
            io.BytesIO(data),
            "r",
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": ""},
            options={"max_pixels": str(MAX_PIXELS)},
            metadata_errors="replace",
        ) as container:
            yield OpenVideo(container)
    except av.error.FFmpegError as error:
        raise BadSample("unreadable video", error.strerror or str(error)) from error


def check_size(height: int, width: int) -> None:
    """Raise BadSample for frames without size or with more than MAX_PIXELS."""
    if not 0 < height * width <= MAX_PIXELS:
        raise BadSample("too large" if height * width else "unreadable video", f"frames of {width} x {height} pixels")


def turn(frame: Any) -> tuple[bool, bool, bool] | None:
    """Return how to show a PyAV frame: (swap the axes, then mirror the rows, mirror the columns); None for as it is.

    The display matrix of ISO/IEC 14496-12, 8.3.2: x' = a x + c y, y' = b x + d y, in 16.16 fixed point.
    """
    data = next((bytes(one) for one in frame.side_data if one.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(data, "=i4")[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (False, d < 0, a < 0) if a < 0 or d < 0 else None
    return True, b < 0, c < 0
