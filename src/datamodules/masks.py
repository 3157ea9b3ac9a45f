"""The member `mask.npz`: for each kind of mask, one picture a frame, in which i + 1 stands for the i-th identity.

Frames are written and read one after the other: a clip of 250 frames at 720p has 230 MB of mask pixels.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

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
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(f"{kind}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise BadSample("broken masks", f"{MASKS} holds an array of the unknown version {version}")
            found, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            if found != shape or dtype != np.uint8 or is_fortran:
                raise BadSample("broken masks", f"{kind} in {MASKS} is {dtype} {found}, the clip is uint8 {shape}")
            return _read_frames(stream, indices, shape)
    except KeyError as error:
        raise BadSample("no masks", f"{MASKS} holds no masks of the kind {kind}") from error
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, zlib.error) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample("broken masks", f"{MASKS}: {error}") from error


def _read_frames(stream, indices: Sequence[int], shape: tuple[int, int, int]) -> np.ndarray:
    num_frames, height, width = shape
    wanted = set(indices)
    if not wanted <= set(range(num_frames)):
        raise BadSample("broken masks", f"frame {max(wanted)} was asked for, there are {num_frames}")
    found = {}
    for index in range(max(wanted, default=-1) + 1):
        pixels = stream.read(height * width)
        if len(pixels) != height * width:
            raise BadSample("broken masks", f"{MASKS} ends within frame {index} of {num_frames}")
        if index in wanted:
            found[index] = np.frombuffer(pixels, np.uint8).reshape(height, width)
    return np.stack([found[index] for index in indices])
