"""Resizing clips with the arithmetic of `torch.nn.functional.interpolate` on floats, at a quarter of its time.

Resizing is linear along each axis: a matrix with a few weights around its diagonal. Blocks of it are multiplied, only
for the rows and columns that the crop keeps, and only one frame at a time is held as floats.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .samples import BadSample

MAX_WEIGHTS = 2**28  # of one axis: a second to compute; sides of 8192 pixels need a quarter
MAX_CHUNK = 2**24  # of them at once
ROWS = 16  # of the matrix in a block: more means more zeros to multiply, fewer means more calls


def resized_window(
    frames: np.ndarray, size: tuple[int, int], rows: range, columns: range, mode: str, antialias: bool
) -> Tensor:
    """Return `rows` and `columns` of `frames` (f h w c uint8) resized to `size`, as (c f rows columns) uint8.

    `mode` and `antialias` as in F.interpolate; clipped to [0, 255] and rounded.
    """
    num_frames, old_height, old_width, channels = frames.shape
    window = torch.empty(channels, num_frames, len(rows), len(columns), dtype=torch.uint8)
    across = _blocks(old_width, size[1], columns, mode, antialias)
    down = _blocks(old_height, size[0], rows, mode, antialias)
    lines = torch.empty(len(rows), old_width * channels)
    pixels = torch.empty(channels * len(rows), len(columns))
    for index, frame in enumerate(frames):
        source = torch.from_numpy(np.ascontiguousarray(frame)).view(old_height, -1).float()
        for new, old, weights in down:
            torch.mm(weights, source[old], out=lines[new])
        planes = lines.view(len(rows), old_width, channels).permute(2, 0, 1).reshape(-1, old_width)
        for new, old, weights in across:
            pixels[:, new] = planes[:, old] @ weights.T
        window[:, index] = pixels.view(channels, len(rows), -1).clamp_(0, 255).round_()
    return window


def pil_resized(frames: np.ndarray, size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield each of `frames` (f h w c uint8) resized to `size`, as (c height width) uint8, as PIL's bicubic does it.

    In bytes: rounded and clipped also between its two passes, which moves strong edges by a few grey levels.
    """
    for frame in frames:
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
        yield F.interpolate(pixels, size, mode="bicubic", antialias=True)[0]


@lru_cache(maxsize=128)
def _blocks(old: int, new: int, kept: range, mode: str, antialias: bool) -> list[tuple[slice, slice, Tensor]]:
    """Return (where in the output, where in the input, weights) of the blocks that resize one axis."""
    matrix = _weights(old, new, kept, mode, antialias)
    blocks = []
    for first in range(0, len(kept), ROWS):
        weights = matrix[first : first + ROWS]
        used = weights.any(dim=0).nonzero()
        start, stop = int(used.min()), int(used.max()) + 1
        blocks.append((slice(first, first + len(weights)), slice(start, stop), weights[:, start:stop].contiguous()))
    return blocks


def _weights(old: int, new: int, kept: range, mode: str, antialias: bool) -> Tensor:
    """Return (kept, old): how much of each old pixel there is in each of the new ones that are kept."""
    if old * new > MAX_WEIGHTS:
        raise BadSample("too large", f"a side of {old} pixels would become {new} before it is cut to {len(kept)}")
    # A picture of one white pixel a row, resized across, holds torch's own weights.
    parts = [
        F.interpolate(F.one_hot(rows, old)[None, None].float(), (len(rows), new), mode=mode, antialias=antialias)
        for rows in torch.arange(old).split(max(1, MAX_CHUNK // max(old, new)))
    ]
    return torch.cat([part[0, 0, :, kept.start : kept.stop] for part in parts]).T
