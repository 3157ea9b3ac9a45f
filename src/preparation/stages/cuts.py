"""Where a video changes from one shot to the next: hard cuts, dissolves and fades.

Source: the adaptive detector of PySceneDetect (a change counts by how much it stands out from those around it); the
test for dissolves is ours.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

SMALL = 64  # pixels of the longer side of what is compared
BLOCK = 1024  # frames that are held in float at once


@dataclass(frozen=True)
class Transition:
    """The change from one shot to the next: `first` is the last whole frame before, `last` the first one after."""

    first: int
    last: int


def shrink(frames: np.ndarray) -> np.ndarray:
    """Return `frames` (f h w 3 uint8) with the longer side at most `SMALL`, uint8: means of equal blocks."""
    height, width = frames.shape[1:3]
    block = max(1, -(-max(height, width) // SMALL))
    height, width = max(height // block, 1), max(width // block, 1)
    cut = frames[:, : height * block, : width * block]
    if cut.shape[1] < height * block or cut.shape[2] < width * block:
        return frames.mean((1, 2), keepdims=True).round().astype(np.uint8)
    blocks = cut.reshape(len(frames), height, block, width, block, 3)
    # First along the width: that is where pixels lie side by side, and nothing large is held in float.
    sums = blocks.sum(4, dtype=np.uint32).sum(2, dtype=np.uint32)
    return (sums / block**2).round().astype(np.uint8)


def to_hsv(frames: np.ndarray) -> np.ndarray:
    """Return RGB `frames` (f h w 3, 0 to 255) as hue, saturation and value, each in [0, 255], float32."""
    frames = frames.astype(np.float32)
    value, low = frames.max(-1), frames.min(-1)
    spread = value - low
    safe = np.maximum(spread, 1e-6)
    red, green, blue = (frames[..., channel] for channel in range(3))
    hue = np.where(value == red, (green - blue) / safe % 6, (blue - red) / safe + 2)
    hue = np.where((value == blue) & (value != red), (red - green) / safe + 4, hue) * (255 / 6)
    return np.stack([np.where(spread > 0, hue, 0), 255 * spread / np.maximum(value, 1e-6), value], axis=-1)


def changes(small: np.ndarray) -> np.ndarray:
    """Return how much each frame differs from the one before, (f,): mean over pixels, and over hue, saturation, value.

    Hue says nothing where there is no colour, and is weighted by the saturation.
    """
    parts = [_changes(small[start : start + BLOCK + 1]) for start in range(0, len(small) - 1, BLOCK)]
    return np.concatenate([np.zeros(1, np.float32), *parts])


def _changes(small: np.ndarray) -> np.ndarray:
    hsv = to_hsv(small)
    difference = np.abs(np.diff(hsv, axis=0))
    difference[..., 0] = np.minimum(difference[..., 0], 255 - difference[..., 0])
    difference[..., 0] *= np.minimum(hsv[1:, ..., 1], hsv[:-1, ..., 1]) / 255
    return difference.mean((1, 2, 3))


def find_cuts(change: np.ndarray, *, ratio: float, min_change: float, window: int) -> list[int]:
    """Return the first frames of new shots: those whose change is `ratio` times the mean of the `window` frames on each
    side, and at least `min_change`.

    It must be twice as large as any other within twice the window: a flash changes the picture twice, a shaken camera
    whose frames are repeated changes it again and again.
    """
    found = []
    for index in np.flatnonzero(change >= min_change).tolist():
        near, far = (_around(change, index, width) for width in (window, 2 * window))
        if change[index] >= max(ratio * float(near.mean()), 2 * float(far.max()), 1e-3):
            found.append(index)
    return found


def _around(change: np.ndarray, index: int, width: int) -> np.ndarray:
    """Return the changes of `width` frames on each side of `index`; frame 0 has none, and nothing counts as 0."""
    around = np.concatenate([change[max(1, index - width) : index], change[index + 1 : index + 1 + width]])
    return around if len(around) else np.zeros(1)


def find_dissolves(small: np.ndarray, *, min_difference: float, max_residual: float) -> list[Transition]:
    """Return where one picture turns into another one: for some time, each frame is a mixture of those around it.

    Of a window, the frames in the middle are held against the mean of its two ends: motion leaves a residual as large
    as the difference of the ends, a dissolve or a fade none. Windows of several lengths are tried.
    """
    found: list[tuple[float, Transition]] = []
    for half, start in itertools.product((4, 8, 16, 24), range(0, len(small), BLOCK)):
        part = small[start : start + BLOCK + 2 * half].astype(np.float32)
        if len(part) <= 2 * half:
            continue
        difference, residual = _mixture(part, half)
        good = (difference >= min_difference) & (residual <= max_residual)
        found += [
            (float(difference[index] / (1 + residual[index])), Transition(start + index, start + index + 2 * half))
            for index in np.flatnonzero(good).tolist()
        ]
    chosen: list[Transition] = []
    for _, transition in sorted(found, key=lambda pair: -pair[0]):
        if all(transition.last < other.first or transition.first > other.last for other in chosen):
            chosen.append(transition)
    return sorted(chosen, key=lambda transition: transition.first)


def _mixture(frames: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each window of `2 * half + 1` frames, how much its ends differ, and how far what lies between them is
    from a mixture of the two, as a share of that.
    """
    count = len(frames) - 2 * half
    before, after = frames[:count], frames[2 * half :]
    difference = np.abs(after - before).mean((1, 2, 3))
    residual = np.zeros(count, np.float32)
    for place in (half, half // 2):
        share = place / (2 * half)
        between = frames[place : place + count]
        residual += np.abs(between - ((1 - share) * before + share * after)).mean((1, 2, 3))
    return difference, residual / np.maximum(difference, 1e-6)


def find_shots(
    blocks: Iterable[np.ndarray],
    *,
    ratio: float = 3.0,
    min_change: float = 12.0,
    window: int = 2,
    min_difference: float = 25.0,
    max_residual: float = 0.4,
    min_frames: int = 1,
) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of each shot of at least `min_frames` frames. `blocks`: the frames, some at a time.

    Frames within a dissolve belong to no shot.
    """
    small = np.concatenate([shrink(block) for block in blocks])
    cuts = find_cuts(changes(small), ratio=ratio, min_change=min_change, window=window)
    transitions = [Transition(cut - 1, cut) for cut in cuts]
    borders = [0, *cuts, len(small)]
    for start, stop in itertools.pairwise(borders):
        for one in find_dissolves(small[start:stop], min_difference=min_difference, max_residual=max_residual):
            transitions.append(Transition(start + one.first, start + one.last))
    start = 0
    for transition in sorted(transitions, key=lambda one: one.first):
        if transition.first + 1 - start >= min_frames:
            yield start, transition.first + 1
        start = transition.last
    if len(small) - start >= min_frames:
        yield start, len(small)
