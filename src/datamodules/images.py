"""Fitting pictures and clips to the size of the model: sizes and offsets, pixels, and what else lies in a frame."""

import io
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .limits import MAX_PIXELS
from .resize import pil_resized, resized_window
from .samples import BadSample

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # others of PIL run programs (EPS) or are rare


def is_picture(data: bytes) -> bool:
    """Return whether `data` begins like a png, jpg, webp or gif file."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")) or (
        data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    )


def is_animation(data: bytes) -> bool:
    """Return whether `data` is a picture file of several frames (gif, webp, png)."""
    from PIL import Image

    if not is_picture(data):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):  # `decode_image` says so
        return False


def decode_image(data: bytes, name: str, mode: str = "RGB") -> np.ndarray:
    """Return the picture in `data` (h w 3 uint8; h w for mode `L`), upright as EXIF says, alpha dropped.

    The first frame of an animation. Raises BadSample, naming `name`, where it is none or has more than MAX_PIXELS.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(
                f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read"
            )
        return np.asarray(_bytes_of(ImageOps.exif_transpose(image), mode))
    except UnidentifiedImageError as error:
        raise BadSample("unreadable image", f"{name} is not a picture of a known format") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadSample("too large", f"{name}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadSample("unreadable image", f"{name}: {error}") from error


def _bytes_of(image: Any, mode: str) -> Any:
    """Return the PIL picture in `mode`. 16-bit grey becomes 8 bits as a picture; as a mask it keeps small values."""
    from PIL import Image

    if image.mode.startswith("I") and mode == "RGB":
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image.convert(mode)


@dataclass(frozen=True)
class Geometry:
    """How a frame of the video became a frame of the clip. All sizes are (height, width).

    `source` was resized to `resized`, from which `target` was cut at (`top`, `left`), then mirrored if `flipped`. What
    lies outside of the resized frame (a negative `top` or `left`) is black.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    target: tuple[int, int]
    top: int = 0
    left: int = 0
    flipped: bool = False

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` (... 4), xyxy in [0, 1] of the source, in [0, 1] of the clip, cut at its edges."""
        return self.uncut_boxes(boxes).clip(0, 1)

    def uncut_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return the same without the cut: outside of [0, 1] where the clip does not show them."""
        corners = self.points(np.asarray(boxes, np.float64).reshape(*np.shape(boxes)[:-1], 2, 2))
        return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Return `points` (... 2), x and y in [0, 1] of the source, in units of the clip: outside of [0, 1] if cut."""
        resized = np.asarray(points, np.float64) * self.resized[::-1] - (self.left, self.top)
        clip = resized / self.target[::-1]
        return np.stack([1 - clip[..., 0], clip[..., 1]], axis=-1) if self.flipped else clip

    def masks(self, masks: np.ndarray) -> Tensor:
        """Return `masks` (f h w), true where not 0, as (1 f height width) uint8 of 0 and 1.

        Bilinear with antialiasing, rounded: half a pixel is in. Raises BadSample for masks of another size.
        """
        if masks.shape[1:] != self.source:
            raise BadSample("mask of another size", f"{masks.shape[1:]}, the video has {self.source} (height, width)")

        return self.pixels((masks != 0).astype(np.uint8)[..., None], "bilinear")

    def pixels(self, frames: np.ndarray, mode: str, antialias: bool = True) -> Tensor:
        """Return `frames` (f h w c uint8) as (c f height width) uint8, resized in `mode` (bilinear, bicubic, pil)."""
        (rows, columns), (height, width) = self.resized, self.target
        top, bottom = max(0, self.top), min(rows, self.top + height)
        left, right = max(0, self.left), min(columns, self.left + width)
        if self.resized == self.source:
            window = torch.from_numpy(np.array(frames[:, top:bottom, left:right])).permute(3, 0, 1, 2)
        elif mode == "pil":
            if rows * columns > MAX_PIXELS:
                raise BadSample("too large", f"{self.source} would become {self.resized} before it is cut")
            window = torch.stack([one[:, top:bottom, left:right] for one in pil_resized(frames, self.resized)], dim=1)
        else:
            window = resized_window(frames, self.resized, range(top, bottom), range(left, right), mode, antialias)
        if window.shape[2:] != self.target:
            y, x = top - self.top, left - self.left
            window = F.pad(window, (x, width - x - window.shape[3], y, height - y - window.shape[2]))
        return (window.flip(-1) if self.flipped else window).contiguous()


class Transform(Protocol):
    """Brings a clip to the size of the model."""

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        """Return `frames` (f h w 3 uint8) as (3 f height width) uint8, and how they got there."""
        ...


class CoverAndCrop:
    """Scaled to cover the size, cut in the middle; bicubic, antialiased. Source: Concat-ID code, `data_video.py`."""

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        geometry = cover_geometry(frames.shape[1:3], height, width)
        return geometry.pixels(frames, "bicubic"), geometry


class ResizeAndCrop:
    """Scaled to cover the size, cut in the middle; bilinear with antialiasing.

    Unlike CoverAndCrop it compares the truncated sizes, and rounds the place of the cut. Source: ConsisID code.
    """

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        geometry = resize_and_crop_geometry(frames.shape[1:3], height, width)
        return geometry.pixels(frames, "bilinear"), geometry


class ShorterSideAndCrop:
    """The shorter side scaled to `size` (null: the clip's height), cut in the middle, black where nothing is left.

    Bilinear without antialiasing; the whole clip is mirrored with `flip_probability`. Source: ConsistI2V code.
    """

    def __init__(self, *, size: int | None = None, flip_probability: float = 0.5):
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability={flip_probability} is not in [0, 1]: datamodule.transform")
        self.size, self.flip_probability = size, flip_probability

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        flipped = bool(rng.uniform() < self.flip_probability)
        old_height, old_width = source = frames.shape[1:3]
        size = self.size or height
        if old_width <= old_height:
            resized = (int(size * old_height / old_width), size)
        else:
            resized = (size, int(size * old_width / old_height))
        top, left = (round((old - new) / 2) for old, new in zip(resized, (height, width), strict=True))
        if flipped:  # the original mirrors first, which moves the cut where it cannot be in the middle
            left = resized[1] - width - left
        geometry = Geometry(source, resized, (height, width), top, left, flipped)
        return geometry.pixels(frames, "bilinear", antialias=False), geometry


class Stretch:
    """PIL's bicubic (with antialiasing) to the size, whatever the aspect. Source: SVD Xtend code.

    `resize`: `stretch`; or `center_crop`, `random_crop`: scaled to cover the size, cut in the middle or anywhere.
    """

    def __init__(self, *, resize: str = "stretch"):
        if resize not in ("stretch", "center_crop", "random_crop"):
            raise ValueError(
                f"resize={resize!r} is not one of stretch, center_crop, random_crop: datamodule.transform.resize"
            )
        self.resize = resize

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        source, target = frames.shape[1:3], (height, width)
        resized, top, left = target, 0, 0
        if self.resize != "stretch":
            scale = max(height / source[0], width / source[1])
            resized = (max(height, round(source[0] * scale)), max(width, round(source[1] * scale)))
            top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
        if self.resize == "random_crop":
            top, left = (int(rng.integers(old - new + 1)) for old, new in zip(resized, target, strict=True))
        geometry = Geometry(source, resized, target, top, left)
        return geometry.pixels(frames, "pil"), geometry


def cover_geometry(source: tuple[int, int], height: int, width: int) -> Geometry:
    """Return the sizes of CoverAndCrop for a `source` (height, width)."""
    old_height, old_width = source
    if old_width / old_height > width / height:
        resized = (height, int(old_width * height / old_height))
    else:
        resized = (int(old_height * width / old_width), width)
    return Geometry(source, resized, (height, width), (resized[0] - height) // 2, (resized[1] - width) // 2)


def resize_and_crop_geometry(source: tuple[int, int], height: int, width: int) -> Geometry:
    """Return the sizes of ResizeAndCrop for a `source` (height, width)."""
    aspect = source[1] / source[0]
    if aspect > width / height:
        resized = (int(width / aspect), width)
        resized = resized if resized[0] >= height else (height, int(height * aspect))
    else:
        resized = (height, int(height * aspect))
        resized = resized if resized[1] >= width else (int(width / aspect), width)
    return Geometry(source, resized, (height, width), round((resized[0] - height) / 2), round((resized[1] - width) / 2))


def cover_and_crop(frames: np.ndarray, height: int, width: int) -> Tensor:
    """Return `frames` (f h w 3 uint8) as (3 f height width) uint8: see CoverAndCrop."""
    return cover_geometry(frames.shape[1:3], height, width).pixels(frames, "bicubic")


def fit_and_pad(image: np.ndarray, height: int, width: int) -> Tensor:
    """Return `image` (h w 3 uint8) as (3 height width) float32 in [-1, 1]: scaled to fit inside, padded with black.

    Bicubic with antialiasing, not rounded; the overshoot is clipped. Source: Concat-ID code, `sample_video.py`.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    old_height, old_width = pixels.shape[-2:]
    if old_height / old_width >= height / width:
        size = (height, int(old_width * height / old_height))
    else:
        size = (int(old_height * width / old_width), width)
    pixels = F.interpolate(pixels, (max(size[0], 1), max(size[1], 1)), mode="bicubic", antialias=True)
    rows, columns = height - pixels.shape[-2], width - pixels.shape[-1]
    pixels = F.pad(pixels, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return (pixels[0] * 2 - 1).clamp(-1, 1)


def stretched(image: np.ndarray, height: int, width: int) -> Tensor:
    """Return `image` (h w 3 uint8) as (3 height width) float32 in [-1, 1], its aspect ignored.

    Pillow's Lanczos filter. Source: diffusers' `VideoProcessor`.
    """
    from PIL import Image

    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255 * 2 - 1
