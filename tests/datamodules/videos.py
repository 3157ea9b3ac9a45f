"""Videos of every awkward kind, made in memory."""

import io
import os
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # errors only

RATE, LENGTH = 12, 36
# Small groups of pictures with frames that refer forwards: what a reader that seeks can get wrong.
X264 = {"g": "10", "keyint_min": "10", "sc_threshold": "0", "bf": "3"}
VP9 = {"cpu-used": "8", "deadline": "realtime", "g": "10", "auto-alt-ref": "0"}
TIMES = [0, *np.cumsum(np.arange(LENGTH - 1) * 37 % 270 + 30).tolist()]  # of frames that come at uneven times
CLOCKWISE, HALF_TURN, MIRROR = (0, 1, -1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1)


def movie(length: int = LENGTH, height: int = 48, width: int = 64) -> np.ndarray:
    """Return frames (f h w 3) of which no two are alike: the lower part is brighter in each, a square moves."""
    frames = np.full((length, height, width, 3), (90, 60, 120), np.uint8)
    for index in range(length):
        frames[index, 28:] = 40 + index * 5
        frames[index, 6:20, 2 + index : 16 + index] = (240, 230, 20)
    return frames


def encoded(
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str = "mp4",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    **container_options: str,
) -> bytes:
    """Return `frames` (f h w 3, or 4 with alpha) as a video file. `times`: in hundredths of a frame."""
    folder = tempfile.TemporaryDirectory()  # movflags=faststart opens the file a second time
    path = Path(folder.name) / "video"
    with folder, av.open(str(path), "w", format=container, options=container_options) as output:
        stream = output.add_stream(codec, rate=RATE, options={"threads": "1", **(options or X264)})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = Fraction(1, 100 * RATE)
        for index, pixels in enumerate(frames):
            kind = "rgba" if pixels.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            frame.pts, frame.time_base = times[index] if times else 100 * index, stream.codec_context.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        output.close()
        return path.read_bytes()


def copied(
    data: bytes, keep: Callable[[Fraction], bool], shift: Fraction = Fraction(0), **container_options: str
) -> bytes:
    """Return an mp4 of the packets whose decoding time (in frames) `keep` accepts, shown `shift` frames earlier."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(buffer, "w", format="mp4", options=container_options) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and keep(packet.dts * packet.time_base * RATE):
                earlier = int(shift / RATE / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - earlier, packet.dts - earlier, stream
                output.mux(packet)
    return buffer.getvalue()


def turned(video: bytes, how: tuple[int, int, int, int] = CLOCKWISE) -> bytes:
    """Return the mp4 with a display matrix (a b c d), as phones write it."""
    place = video.index(b"tkhd") + 4 + 4 + 20 + 16  # box name, version and flags, times and ids, reserved and volume
    a, b, c, d = (value * 0x10000 for value in how)
    return video[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000) + video[place + 36 :]


def with_alpha() -> np.ndarray:
    frames = movie()
    return np.concatenate([frames, np.full((*frames.shape[:3], 1), 128, np.uint8)], axis=-1)


def sound(picture: bytes | None = None) -> bytes:
    """Return an audio file, with a cover picture if one is given."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        cover = None
        if picture is not None:
            cover = output.add_stream("png", rate=1)
            cover.height, cover.width, cover.pix_fmt = 48, 64, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        if cover is not None:
            output.mux(cover.encode(av.VideoFrame.from_ndarray(movie()[0], format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def two_streams() -> bytes:
    """Return a file with a small video, then a larger one."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        streams = [output.add_stream("libx264", rate=RATE, options=X264) for _ in range(2)]
        movies = [movie(LENGTH, 32, 48), movie(LENGTH, 96, 128)]
        for stream, frames in zip(streams, movies, strict=True):
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for index in range(LENGTH):
            for stream, frames in zip(streams, movies, strict=True):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frames[index], format="rgb24")))
        for stream in streams:
            output.mux(stream.encode())
    return buffer.getvalue()


def changing_size() -> bytes:
    """Return a raw H.264 stream whose second half is larger."""
    return encoded(movie(5), container="h264") + encoded(movie(5, 96, 128), container="h264")


def promising(size: int) -> bytes:
    """Return a QuickTime file whose header says size x size pixels; its codec believes the header."""
    data = encoded(movie(2), "qtrle", "rgb24", "mov", options={"g": "10"})
    place = data.index(b"rle ") + 4 + 8 + 16
    return data[:place] + struct.pack(">2H", size, size) + data[place + 4 :]


CASES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: encoded(movie()),
    "one group": lambda: encoded(movie(), options={"g": "250"}),
    "matroska": lambda: encoded(movie(), container="matroska"),
    "matroska, written to a stream": lambda: encoded(movie(), container="matroska", live="1"),
    "fragments": lambda: encoded(movie(), movflags="frag_keyframe+empty_moov"),
    "variable rate": lambda: encoded(movie(), times=TIMES),
    "odd size": lambda: encoded(movie(height=47, width=63), pix_fmt="yuv444p"),
    "odd size 4:2:0": lambda: encoded(movie(height=47, width=63), "libvpx-vp9", container="webm", options=VP9),
    "alpha vp9": lambda: encoded(with_alpha(), "libvpx-vp9", "yuva420p", "webm", options=VP9),
    "alpha qtrle": lambda: encoded(with_alpha(), "qtrle", "argb", "mov", options={"g": "10"}),
    "10 bits": lambda: encoded(movie(), pix_fmt="yuv420p10le"),
    "prores": lambda: encoded(movie(), "prores_ks", "yuv422p10le", "mov", options={"profile": "3"}),
    "hevc": lambda: encoded(movie(), "libx265", options={"x265-params": "log-level=none:pools=none:keyint=10"}),
    "av1": lambda: encoded(movie(), "libsvtav1", options={"preset": "12", "g": "10"}),
    "vp8": lambda: encoded(movie(), "libvpx", container="webm", options={"g": "10", "deadline": "realtime"}),
    "open groups": lambda: encoded(movie(), options={**X264, "x264-params": "open-gop=1"}),
    "intra refresh": lambda: encoded(movie(), options={"g": "10", "x264-params": "intra-refresh=1"}),
    "clockwise": lambda: turned(encoded(movie())),
    "half turn": lambda: turned(encoded(movie()), HALF_TURN),
    "mirror": lambda: turned(encoded(movie()), MIRROR),
    "no times": lambda: encoded(movie(), container="h264"),
    "mpegts": lambda: encoded(movie(), container="mpegts"),
    "avi": lambda: encoded(movie(), container="avi"),
    "edit list": lambda: copied(
        encoded(movie()), lambda time: time >= 6, shift=Fraction(15), avoid_negative_ts="disabled"
    ),
    "starts between key frames": lambda: copied(encoded(movie()), lambda time: time >= 3),
    "two streams": two_streams,
}


@lru_cache
def made(case: str) -> bytes:
    return CASES[case]()
