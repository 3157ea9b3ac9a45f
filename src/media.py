"""Writing what people look at: mp4 files, pictures, contact sheets."""

import io
import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from .datamodules.shards import write_atomically


def to_frames(pixel_values: Tensor) -> np.ndarray:
    """Return a clip (3 f h w) in [-1, 1] as frames (f h w 3) uint8, truncating like the field's tools do."""
    unit = (pixel_values.detach().float() / 2 + 0.5).clamp(0, 1)
    return (unit * 255).byte().permute(1, 2, 3, 0).cpu().numpy()


def encode_mp4(frames: Iterable[np.ndarray], fps: float, crf: int = 12) -> bytes:
    """Return `frames` (f h w 3 uint8, or one after the other) as an H.264 mp4 that browsers play.

    Odd sizes are cut by one pixel (4:2:0 colour).
    """
    import av

    following = iter(frames)
    first = next(following)
    height, width = (side // 2 * 2 for side in first.shape[:2])
    buffer, rate = io.BytesIO(), Fraction(fps).limit_denominator(1001)
    # With x264's macroblock tree, equal small frames give different files (measured), and seeds would not fix the clip.
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for frame in itertools.chain([first], following):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """Return `image` (h w 3 or h w, uint8) as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write `frames` (f h w 3 uint8) to `path`; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_mp4(frames, fps))


def write_png(path: Path, image: np.ndarray) -> None:
    """Write `image` (h w 3 uint8) to `path`; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_png(image))


def contact_sheet(
    rows: Sequence[tuple[Sequence[np.ndarray], np.ndarray]], max_frames: int = 6, min_height: int = 64
) -> np.ndarray:
    """Return one picture (h w 3 uint8): a row a clip, its references first, then at most `max_frames` of its frames.

    `rows`: pairs of reference images (h w 3) and frames (f h w 3). Rows are as high as the highest clip, at least
    `min_height`.
    """
    height = max(min_height, max(frames.shape[1] for _, frames in rows))
    strips = []
    for references, frames in rows:
        chosen = frames[np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int)]
        cells = [
            *(_scale(reference, height) for reference in references),
            _gap(height, 6),
            *(_scale(frame, height) for frame in chosen),
        ]
        strips.append(np.concatenate([piece for cell in cells for piece in (cell, _gap(height, 2))], axis=1))
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 2), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in strips]
    return np.concatenate(padded)


def _scale(image: np.ndarray, height: int) -> np.ndarray:
    from PIL import Image

    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    resample = Image.Resampling.NEAREST if height % image.shape[0] == 0 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def _gap(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)
