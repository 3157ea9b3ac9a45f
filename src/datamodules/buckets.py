"""Which clips share a batch: those of one length, size and number of references, as many as a token budget allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .frames import FrameSelection


@dataclass(frozen=True, order=True)
class Bucket:
    """The shape of the clips of a batch. `references`: identities with a picture, as the conditions count them."""

    num_frames: int
    height: int
    width: int
    references: int = 0


@dataclass(frozen=True)
class Buckets:
    """The shapes that clips are brought to, and how many clips of each make a batch.

    `sizes`: (height, width) pairs, of which a clip takes the one of the nearest aspect ratio. `lengths`: in frames, of
    which it takes the longest that it fills; pictures need the length 1. Shorter clips than the shortest length repeat
    their last frame, or are left out: `too_short` is `repeat` or `skip`. A batch has as many clips as fit into
    `token_budget`, at least one, at most `max_batch_size`. Tokens are counted as the backbone does: a clip has
    (1 + (frames - 1) / strides[0] + references) * (height / strides[1]) * (width / strides[2]) + `text_tokens`.
    Raises ValueError for settings that do not fit.
    """

    sizes: Sequence[Sequence[int]]
    lengths: Sequence[int]
    token_budget: int
    strides: Sequence[int] = (4, 16, 16)
    text_tokens: int = 226
    max_batch_size: int = 64
    too_short: str = "repeat"

    def __post_init__(self):
        if not self.sizes or not self.lengths or any(len(size) != 2 for size in self.sizes):
            raise ValueError("datamodule.buckets needs sizes, a list of [height, width], and lengths, a list of frames")
        if self.too_short not in ("repeat", "skip"):
            raise ValueError(f"too_short={self.too_short!r} is not one of repeat, skip: datamodule.buckets.too_short")
        temporal, *spatial = self.strides
        for length in self.lengths:
            if length < 1 or (length - 1) % temporal:
                raise ValueError(f"lengths holds {length}, which is not {temporal} * n + 1: datamodule.buckets.lengths")
        for size in self.sizes:
            if any(side < 1 or side % stride for side, stride in zip(size, spatial, strict=True)):
                raise ValueError(f"sizes holds {list(size)}: sides must be multiples of {spatial}, datamodule.buckets")
        if self.token_budget < 1 or self.max_batch_size < 1:
            raise ValueError("token_budget and max_batch_size must be at least 1: datamodule.buckets")

    def shapes(self, table: Mapping[str, np.ndarray], frames: FrameSelection) -> np.ndarray:
        """Return (n 3): frames, height and width for each clip of a `ShardSet.table`; 0 frames: it cannot be used."""
        sizes, lengths = np.array(self.sizes), np.array(sorted(self.lengths))
        known = (table["height"] > 0) & (table["width"] > 0)
        ratios = np.where(known, table["height"] / np.maximum(table["width"], 1), sizes[0][0] / sizes[0][1])
        distances = np.abs(np.log(ratios)[:, None] - np.log(sizes[:, 0] / sizes[:, 1]))
        chosen = np.zeros(len(ratios), int)
        shortest = int(lengths[0])
        if self.too_short == "repeat":
            chosen[(table["num_frames"] != 1) | (shortest == 1)] = shortest
        for length in lengths:
            chosen[frames.fits(table["num_frames"], table["fps"], int(length))] = length
        chosen[table["num_frames"] == 0] = lengths[-1]  # what is unknown shows when the clip is read
        return np.column_stack([chosen, sizes[distances.argmin(axis=1)]])

    def tokens(self, bucket: Bucket) -> int:
        """Return the tokens of one clip of `bucket`."""
        temporal, rows, columns = self.strides
        latent_frames = 1 + (bucket.num_frames - 1) // temporal + bucket.references
        return latent_frames * (bucket.height // rows) * (bucket.width // columns) + self.text_tokens

    def batch_size(self, bucket: Bucket) -> int:
        """Return how many clips of `bucket` make a batch."""
        return max(1, min(self.token_budget // self.tokens(bucket), self.max_batch_size))
