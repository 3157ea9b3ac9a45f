"""Video decoding behind one interface: `get_reader("pyav")` or `get_reader("decord")`."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .samples import BadSample


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: frames that can be decoded, mean `fps`, `height` and `width` as shown (after rotation)."""

    num_frames: int
    fps: float
    height: int
    width: int


class VideoReader(Protocol):
    """Decodes clips from bytes. Every reader gives the same frames: index 0 is the first one shown."""

    def probe(self, data: bytes) -> VideoInfo:
        """Return what `data` holds, by decoding it. Raises BadSample where it cannot be decoded."""
        ...

    def read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        """Return the frames (n h w 3, uint8 RGB) at `indices`, in that order, repeats allowed.

        Raises BadSample for an unreadable file and for an index past its end.
        """
        ...


class PyAVReader:
    """The default: FFmpeg through PyAV, counted in presentation order, rotated as the file's metadata says."""

    def probe(self, data: bytes) -> VideoInfo:
        num_frames, shape, fps = 0, (0, 0), 0.0
        for frame, rate in self._frames(data):
            if num_frames == 0:
                shape, fps = _upright(frame).shape[:2], rate
            num_frames += 1
        if num_frames == 0:
            raise BadSample("unreadable video", "no frame could be decoded")
        return VideoInfo(num_frames, fps, *shape)

    def read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        wanted, found = set(indices), {}
        for index, (frame, _) in enumerate(self._frames(data)):
            if index in wanted:
                found[index] = _upright(frame)
                if len(found) == len(wanted):
                    return np.stack([found[i] for i in indices])
        raise BadSample(
            "unreadable video", f"frame {max(wanted)} was asked for, {index + 1 if found else 0} could be decoded"
        )

    @staticmethod
    def _frames(data: bytes):
        """Yield (frame, fps) of the best video stream of `data`."""
        import av

        try:
            with av.open(io.BytesIO(data), "r") as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise BadSample("unreadable video", "the file has no video stream")
                rate = float(stream.average_rate or stream.guessed_rate or 0)
                for frame in container.decode(stream):
                    yield frame, rate
        except av.error.FFmpegError as error:
            raise BadSample("unreadable video", error.strerror or str(error)) from error


class DecordReader:
    """decord, an option: random access, no AV1, no turned videos, and frames that an edit list hides count."""

    def probe(self, data: bytes) -> VideoInfo:
        with _decord_errors():
            reader = self._open(data)
            return VideoInfo(len(reader), float(reader.get_avg_fps()), *reader[0].shape[:2])

    def read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        with _decord_errors():
            reader = self._open(data)
            if max(indices) >= len(reader):
                raise BadSample("unreadable video", f"frame {max(indices)} was asked for, the file has {len(reader)}")
            return reader.get_batch(list(indices)).asnumpy()

    @staticmethod
    def _open(data: bytes) -> Any:
        import decord

        reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
        # decord gives the frames of a turned video a fourth channel and fills them with shifted rows.
        if reader[0].shape[-1] != 3:
            raise BadSample("turned video", "decord garbles videos with rotation metadata: use datamodule.reader=pyav")
        return reader


@contextmanager
def _decord_errors() -> Iterator[None]:
    """Turn decord's errors into BadSample, with the first line of many."""
    try:
        yield
    except _decord_error_types() as error:
        raise BadSample("unreadable video", (str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _decord_error_types() -> tuple[type[Exception], ...]:
    import decord

    return decord.DECORDError, RuntimeError


def get_reader(name: str) -> VideoReader:
    """Return the reader of that name. Raises ValueError for an unknown or an uninstalled one."""
    if name == "pyav":
        return PyAVReader()
    if name == "decord":
        try:
            import decord  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "reader=decord needs the package decord: pip install 'likeness[decord]', or use reader=pyav"
            ) from error
        return DecordReader()
    raise ValueError(f"reader={name!r} is not one of pyav, decord")


def _upright(frame) -> np.ndarray:
    """Return the pixels of a PyAV frame, turned as the file asks for (its display matrix; PyAV leaves that to us)."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4)) if frame.rotation else pixels
