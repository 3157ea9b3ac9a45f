"""Fitting pictures and clips to the size of the model."""

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .samples import BadSample


def decode_image(data: bytes, name: str, mode: str = "RGB") -> np.ndarray:
    """Return the picture in `data` (h w 3 uint8; h w for mode `L`).

    Raises BadSample, naming `name`, where it is none.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert(mode))
    except UnidentifiedImageError as error:
        raise BadSample("unreadable image", f"{name} is not a picture of a known format") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadSample("unreadable image", f"{name}: {error}") from error


def cover_and_crop(frames: np.ndarray, height: int, width: int) -> Tensor:
    """Return `frames` (f h w 3 uint8) as (3 f height width) uint8: scaled to cover the size, centre cropped.

    Bicubic with antialiasing in float, rounded back to uint8 before the crop. Source: Concat-ID code, `data_video.py`.
    """
    pixels = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)
    old_height, old_width = pixels.shape[-2:]
    if old_width / old_height > width / height:
        size = (height, int(old_width * height / old_height))
    else:
        size = (int(old_height * width / old_width), width)
    if size != (old_height, old_width):
        pixels = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).clamp(0, 255).round().byte()
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[:, :, top : top + height, left : left + width].transpose(0, 1).contiguous()


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


@dataclass(frozen=True)
class Geometry:
    """How a source frame became a frame of the clip. All (height, width)."""

    source: tuple[int, int]
    resized: tuple[int, int]
    target: tuple[int, int]
    top: int
    left: int
    flipped: bool = False


class Transform(Protocol):
    """Brings frames to the size of the clip."""

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        """Return `frames` (f h w 3 uint8) as (3 f height width) uint8, and how that was done."""
        ...


class CoverAndCrop:
    """Concat-ID's: see `cover_and_crop`."""

    def __call__(
        self, frames: np.ndarray, height: int, width: int, rng: np.random.Generator
    ) -> tuple[Tensor, Geometry]:
        size = (height, width)
        return cover_and_crop(frames, height, width), Geometry(frames.shape[1:3], size, size, 0, 0)
