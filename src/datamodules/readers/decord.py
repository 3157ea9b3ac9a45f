"""decord, an option: https://github.com/dmlc/decord, whose last release (0.6.0, 2021) has an FFmpeg of its own."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..samples import BadSample
from ..video import VideoInfo, VideoReader, check_bytes, past_end
from .survey import Survey, refusal, survey


class DecordReader(VideoReader):
    """decord for files that it shows rightly; the others are refused by name.

    Raises ValueError where the package is missing.
    """

    def __init__(self) -> None:
        try:
            import decord  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "reader=decord needs the package decord: pip install 'likeness[decord]', or use reader=pyav"
            ) from error

    def _probe(self, data: bytes) -> VideoInfo:
        seen = _accepted(data)
        with _decord_errors():
            return VideoInfo(seen.num_frames, seen.fps, *_open(data, seen)[0].shape[:2])

    def _read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        seen = _accepted(data)
        if max(indices) >= seen.num_frames:
            raise past_end(indices, seen.num_frames)
        with _decord_errors():
            reader = _open(data, seen)
            check_bytes(len(indices), *reader[0].shape[:2])
            return reader.get_batch(list(indices)).asnumpy()


def _accepted(data: bytes) -> Survey:
    seen = survey(data, "decord")
    if seen.turned:
        raise BadSample("turned video", "decord garbles videos with rotation metadata: use datamodule.reader=pyav")
    if seen.codec == "av1":
        raise BadSample("not for decord", "it has no AV1 decoder: use reader=pyav")
    if seen.open_groups or seen.has_recovery_points:
        raise refusal("frames refer across key frames", "decord")
    if seen.num_streams > 1:
        raise refusal(f"there are {seen.num_streams} video streams", "decord")
    return seen


def _open(data: bytes, seen: Survey) -> Any:
    import decord

    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    if len(reader) != seen.num_frames:
        raise refusal(f"{len(reader)} frames were found where the file lists {seen.num_frames}", "decord")
    return reader


@contextmanager
def _decord_errors() -> Iterator[None]:
    """Turn decord's errors into BadSample, with the first line of many."""
    import decord

    try:
        yield
    except (decord.DECORDError, RuntimeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadSample("unreadable video", f"{line}: reader=pyav may read it") from error
