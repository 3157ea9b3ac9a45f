"""The member `mask.npz`: for each kind of mask, one picture a frame, in which i + 1 stands for the i-th identity.

Frames are written and read one after the other: a clip of 250 frames at 720p has 230 MB of mask pixels.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from .limits import MAX_PIXELS
from .samples import BadSample

MASKS = "mask.npz"


def encode_masks(masks: Mapping[str, Iterable[np.ndarray]], shape: tuple[int, int, int]) -> bytes:
    """Return a compressed npz file of `masks`: by kind, the frames (h w uint8), as many and as large as `shape`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for kind, frames in masks.items():
            # A fixed time: equal masks give equal bytes.
            entry = zipfile.ZipInfo(f"{kind}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                count = 0
                for frame in frames:
                    assert (frame.shape, frame.dtype) == (shape[1:], np.uint8)
                    stream.write(np.ascontiguousarray(frame).data)
                    count += 1
                assert count == shape[0]
    return buffer.getvalue()


def decode_masks(data: bytes, kind: str, indices: Sequence[int], shape: tuple[int, int, int]) -> np.ndarray:
    """Return the frames `indices` of the masks of a `kind`, (n h w) uint8.

    Raises BadSample where there are none, or of another `shape` (f h w) than the clip's: nothing is read then.
    """
    if not 0 <= min(indices) <= max(indices) < shape[0]:
        raise BadSample("broken masks", f"frames {min(indices)} to {max(indices)} were asked for, there are {shape[0]}")
    wanted = set(indices)
    frames = enumerate(islice(mask_frames(data, kind, shape), max(indices) + 1))
    found = {index: frame for index, frame in frames if index in wanted}
    return np.stack([found[index] for index in indices])


def mask_frames(data: bytes, kind: str, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Yield the frames (h w uint8) of the masks of a `kind`. Raises BadSample as `decode_masks` does."""
    num_frames, height, width = shape
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(f"{kind}.npy") as stream:
            found, dtype = read_header(stream)
            if found != shape or dtype != np.uint8:
                raise BadSample("broken masks", f"{kind} in {MASKS} is {dtype} {found}, the clip is uint8 {shape}")
            if height * width > MAX_PIXELS:
                raise BadSample("too large", f"masks of {width} x {height}, at most {MAX_PIXELS:,} pixels are read")
            for index in range(num_frames):
                pixels = stream.read(height * width)
                if len(pixels) != height * width:
                    raise BadSample("broken masks", f"{MASKS} ends within frame {index} of {num_frames}")
                yield np.frombuffer(pixels, np.uint8).reshape(height, width)
    except BadSample:
        raise
    except KeyError as error:
        raise BadSample("no masks", f"{MASKS} holds no masks of the kind {kind}") from error
    except Exception as error:  # zip, its compressors and numpy each raise their own
        raise BadSample("broken masks", f"{MASKS}: {error}") from error


def mask_kinds(data: bytes) -> list[str]:
    """Return the kinds of masks that there are. Raises BadSample where `data` cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:
        raise BadSample("broken masks", f"{MASKS}: {error}") from error


def read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of the npy array in `stream`, which is at its first number then.

    Raises ValueError for what is none, and for one of objects, of another version than 1.0 or in Fortran's order.
    """
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"an array of the unknown version {version}")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if (is_fortran and len(shape) > 1) or dtype.hasobject:
        raise ValueError(f"an array of {dtype} in another order than rows")
    return shape, dtype
