"""Tensors in the bytes of a shard's member: the safetensors format, read in place and without trusting it."""

import json
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .samples import BadSample

MAX_HEADER_BYTES = 2**20
MAX_DIMENSIONS = 8
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorFile:
    """A parsed member: `metadata`, and of each tensor its dtype, shape and the bytes [start, stop) in `data`."""

    data: bytes
    metadata: Mapping[str, str]
    spans: Mapping[str, tuple[torch.dtype, tuple[int, ...], int, int]]

    @classmethod
    def parse(cls, data: bytes) -> "TensorFile":
        """Return what `data` holds. Raises BadSample for anything but whole tensors within its bytes."""
        try:
            length = int.from_bytes(data[:8], "little")
            if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header of {length} bytes does not fit into {len(data)} bytes")
            header = json.loads(data[8 : 8 + length])
            metadata = header.pop("__metadata__", {})
            if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
                raise ValueError("its metadata are not strings")
            return cls(data, metadata, {name: _span(one, 8 + length, len(data)) for name, one in header.items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadSample("broken cache", f"the member cannot be read: {error}") from error

    def tensor(self, name: str) -> Tensor:
        """Return a tensor that shares the memory of `data`: it must not be written to. Raises BadSample without it."""
        dtype, shape, start, stop = self._span(name)
        if start == stop:
            return torch.empty(shape, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            # An odd place in memory is no place for numbers: never in what safetensors wrote, so a copy does.
            buffer = self.data if start % dtype.itemsize == 0 else self.data[start:stop]
            offset = start if buffer is self.data else 0
            return torch.frombuffer(buffer, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)

    def checksum(self, name: str) -> int:
        """Return the sum of a tensor's bytes as 64-bit words: at the speed of memory, any one wrong byte changes it."""
        _, _, start, stop = self._span(name)
        words = (stop - start) // 8
        total = int(np.frombuffer(self.data, "<u8", words, start).sum(dtype=np.uint64)) if words else 0
        return (total + int.from_bytes(self.data[start + 8 * words : stop], "little")) % 2**64

    def _span(self, name: str) -> tuple[torch.dtype, tuple[int, ...], int, int]:
        if name not in self.spans:
            raise BadSample("broken cache", f"the tensor {name} is named but is not there")
        return self.spans[name]


def dump_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a member."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(contiguous, dict(metadata))


@cache
def reuse_freed_memory() -> None:
    """Let this process keep up to 256 MB that it has freed, where the C library is glibc.

    Samples of some MB are allocated and freed by the hundred a second. As glibc starts out, each gives its pages back
    to the system and takes new ones, which costs several times what reading a sample does.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_threshold, 2**25)  # the largest that it takes
        mallopt(trim_threshold, 2**28)


def _span(entry: Any, base: int, size: int) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    dtype, shape, (start, stop) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if len(shape) > MAX_DIMENSIONS or not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
        raise ValueError(f"impossible shape {shape!r} or offsets")
    if not start <= stop <= size - base or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{shape} {entry['dtype']} at bytes {start} to {stop} of {size - base}")
    return dtype, tuple(shape), base + start, base + stop
