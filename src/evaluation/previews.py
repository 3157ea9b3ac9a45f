"""Clips and pictures small enough to be shown within a page, as data URLs."""

import base64
import io
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..datamodules.samples import BadSample
from ..datamodules.video import get_reader
from ..media import encode_mp4, encode_png
from .clips import EvaluatedClip, Loaded, clip_of_files, load_sample

# A clip is shown as it is up to MAX_BYTES, else smaller and shorter: a page of hundreds of megabytes opens nowhere.
MAX_BYTES, MAX_FRAMES, MAX_SIDE = 600_000, 150, 320
PLAYABLE = ("h264", "vp8", "vp9", "av1")  # by Chromium, which plays neither MPEG-4 part 2 nor ProRes


def preview(clip: EvaluatedClip) -> tuple[str, list[str]] | None:
    """Return the clip and its references as data URLs; None where the files cannot be read any more."""
    try:
        loaded = clip.load()
        pictures = [_data_url(encode_png(_shrink(picture, MAX_SIDE)), "image/png") for picture in loaded.references]
        return _data_url(*_playable(loaded.video)), pictures
    except (BadSample, ValueError, OSError):
        return None


def clip_of_entry(entry: dict) -> EvaluatedClip:
    """Return the clip of an entry of `metrics.json`, to be shown again."""
    url, _, key = entry["video"].rpartition("#")
    if url and not Path(entry["video"]).exists():
        has_own = any(name.startswith(f"{url}#") for name in entry["references"])
        load = partial(_load_from_shard, url, key, None if has_own else list(map(Path, entry["references"])))
        return EvaluatedClip(entry["name"], entry["video"], tuple(entry["references"]), entry["prompt"], (), load)
    files = [Path(name) for name in entry["references"]]
    return clip_of_files(entry["name"], Path(entry["video"]), files, entry["prompt"])


def _load_from_shard(url: str, key: str, pictures: list[Path] | None) -> Loaded:
    shards = _shard_set(url)
    return load_sample(shards, shards.keys.index(key), pictures)


@lru_cache(maxsize=4)
def _shard_set(url: str) -> Any:
    """Return a shard, of which a page shows several clips."""
    from ..datamodules.shard_set import ShardSet

    return ShardSet(url)


def _playable(data: bytes) -> tuple[bytes, str]:
    """Return a video that browsers play, with its type."""
    kind = _kind(data)
    if kind is not None and len(data) <= MAX_BYTES:
        return data, kind
    frames, fps = get_reader("pyav").read_all(data)
    step = max(1, round(fps / 30))
    shown = frames[: MAX_FRAMES * step : step]
    return encode_mp4((_shrink(frame, MAX_SIDE) for frame in shown), max(fps / step, 1), crf=26), "video/mp4"


def _kind(data: bytes) -> str | None:
    """Return the type of a file that browsers play; None for others."""
    import av

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context.name.removeprefix("lib") not in (*PLAYABLE, "dav1d"):
            return None
        if getattr(stream.codec_context, "pix_fmt", None) not in ("yuv420p", "yuvj420p"):
            return None
        names = container.format.name
    if "mp4" in names:
        return "video/mp4"
    return "video/webm" if "webm" in names and b"webm" in data[:64] else None


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(2, round(length * scale)) for length in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BILINEAR))


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
