"""torchcodec, an option: https://github.com/meta-pytorch/torchcodec. It uses the FFmpeg libraries of the machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..samples import BadSample
from ..video import VideoInfo, VideoReader, check_bytes, past_end
from .survey import Survey, refusal, survey


class TorchCodecReader(VideoReader):
    """torchcodec for files that it shows rightly; the others are refused by name.

    Raises ValueError where it cannot be imported.
    """

    def __init__(self) -> None:
        try:
            import torchcodec.decoders  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            # Later wheels are linked against CUDA; their import raises OSError where it is missing.
            raise ValueError(
                "reader=torchcodec needs the package torchcodec and FFmpeg's libraries (apt-get install ffmpeg): "
                "pip install torchcodec, on a machine without CUDA torchcodec==0.13.0, the last wheel that needs none; "
                f"or use reader=pyav. The import said: {str(error).strip().splitlines()[0]}"
            ) from error

    def _probe(self, data: bytes) -> VideoInfo:
        seen = _accepted(data)
        with _errors():
            return VideoInfo(seen.num_frames, seen.fps, *_open(data, seen)[0].shape[:2])

    def _read(self, data: bytes, indices: Sequence[int]) -> np.ndarray:
        seen = _accepted(data)
        if max(indices) >= seen.num_frames:
            raise past_end(indices, seen.num_frames)
        with _errors():
            decoder = _open(data, seen)
            check_bytes(len(indices), decoder.metadata.height, decoder.metadata.width)
            return decoder.get_frames_at(list(indices)).data.numpy()


def _accepted(data: bytes) -> Survey:
    seen = survey(data, "torchcodec")
    if seen.mirrored:
        raise refusal("the file asks for a mirror image", "torchcodec")
    if seen.has_recovery_points:
        raise refusal("frames refer across key frames", "torchcodec")
    return seen


def _open(data: bytes, seen: Survey) -> Any:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(data, stream_index=seen.stream_index, dimension_order="NHWC", num_ffmpeg_threads=1)
    if len(decoder) != seen.num_frames:
        raise refusal(f"{len(decoder)} frames were found where the file lists {seen.num_frames}", "torchcodec")
    return decoder


@contextmanager
def _errors() -> Iterator[None]:
    """Turn torchcodec's errors into BadSample."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        if isinstance(error, BadSample):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadSample("unreadable video", f"{line}: reader=pyav may read it") from error
