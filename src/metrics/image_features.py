"""Networks that turn pictures into rows of features: for FID, temporal consistency, text and aesthetics."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .inception import InceptionV3
from .model_files import checksum, find

BATCH_SIZE = 16  # pictures at once
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ImageFeatures(Protocol):
    """Features of pictures. `name` tells them from all others; `dim` is how many there are."""

    name: str
    dim: int

    def __call__(self, frames: np.ndarray) -> Tensor:
        """Return the features (n dim) of `frames` (n h w 3) uint8 RGB."""
        ...


class SmallImageFeatures:
    """Our own 64 features: a thumbnail and two layers of fixed random filters, mixed. Untrained; needs no file."""

    name, dim = "likeness-image-1", 64
    size = 64

    def __init__(self, *, device: str = "cpu"):
        rng = np.random.default_rng(20241)  # part of the name
        self.device = device
        self.first = _filters(rng, (24, 3, 5, 5)).to(device)
        self.second = _filters(rng, (48, 24, 3, 3)).to(device)
        mixed = rng.standard_normal((3 * 64 + 2 * (24 + 48), self.dim)) / 18
        self.mixing = torch.from_numpy(mixed.astype(np.float32)).to(device)
        self.classes = torch.from_numpy(rng.standard_normal((self.dim, 16), dtype=np.float32)).to(device)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        return torch.cat([self._features(batch) for batch in _batches(frames)])

    def probabilities(self, frames: np.ndarray) -> Tensor:
        """Return (n 16) of classes that mean nothing but are always the same."""
        return (self(frames) @ self.classes.cpu()).softmax(dim=1)

    def _features(self, frames: np.ndarray) -> Tensor:
        pixels = as_pixels(frames).to(self.device) * 2 - 1
        pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        hidden = F.relu(F.conv2d(pixels, self.first, stride=2))
        deeper = F.relu(F.conv2d(hidden, self.second, stride=2))
        thumbnail = F.adaptive_avg_pool2d(pixels, 8).flatten(1) / 3
        pooled = [part for values in (hidden, deeper) for part in (values.mean((2, 3)), values.std((2, 3)))]
        logs = torch.cat(pooled, dim=1).add(0.01).log()
        return (torch.cat([thumbnail, logs - logs.mean(dim=1, keepdim=True)], dim=1) @ self.mixing).cpu()


class CLIPFeatures:
    """Projected picture and text embeddings of a CLIP in a folder of transformers: `weights` of `model_files`."""

    def __init__(self, *, weights: str = "clip_vit_b32", weights_dir: str = "weights", device: str = "cpu"):
        folder = find(weights, weights_dir)
        from transformers import AutoTokenizer, CLIPModel  # here: what is missing is told before seconds of imports

        self.name, self.device = f"clip/{folder.name}@{checksum(folder, Path(weights_dir))[:8]}", device
        self.network = _frozen(CLIPModel, folder, device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.dim = self.network.config.projection_dim
        self.size = self.network.config.vision_config.image_size
        self.max_length = self.network.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        parts = [
            # transformers 5 returns an output object here
            self.network.get_image_features(pixel_values=clip_pixels(batch, self.size).to(self.device)).pooler_output
            for batch in _batches(frames)
        ]
        return torch.cat(parts).float().cpu()

    @torch.inference_mode()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (n dim) of `prompts`, cut to the tokens that CLIP takes (77)."""
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        return (
            self.network.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            .pooler_output.float()
            .cpu()
        )


class DINOFeatures:
    """Class tokens of a DINO ViT in a folder of transformers: 768 of ViT-B/16.

    The short side is scaled to 224 without antialiasing, as VBench does. `unit_pixels=False` gives the network
    pixels in [0, 255], normalised as if they were in [0, 1]: the slip of I2V-Bench's stored code, for its numbers.
    """

    def __init__(
        self,
        *,
        weights: str = "dino_vitb16",
        weights_dir: str = "weights",
        unit_pixels: bool = True,
        device: str = "cpu",
    ):
        folder = find(weights, weights_dir)
        from transformers import ViTModel

        suffix = "" if unit_pixels else " (pixels in [0, 255])"
        self.name = f"dino/{folder.name}@{checksum(folder, Path(weights_dir))[:8]}{suffix}"
        self.unit_pixels, self.device = unit_pixels, device
        self.network = _frozen(ViTModel, folder, device, add_pooling_layer=False)
        self.dim, self.size = self.network.config.hidden_size, self.network.config.image_size

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        return torch.cat([self._features(batch) for batch in _batches(frames)])

    def _features(self, frames: np.ndarray) -> Tensor:
        pixels = as_pixels(frames) * (1 if self.unit_pixels else 255)
        size = _short_side(frames.shape[1:3], self.size)
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        pixels = _normalised(pixels, IMAGENET_MEAN, IMAGENET_STD).to(self.device)
        return self.network(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0].float().cpu()


class InceptionFeatures:
    """The TorchScript Inception of 2015 that FID and the inception score are defined with: 2,048 features."""

    dim = 2048

    def __init__(self, *, weights_dir: str = "weights", device: str = "cpu"):
        path = find("inception_2015", weights_dir)
        self.name, self.device = f"inception_2015@{checksum(path, Path(weights_dir))[:8]}", device
        self.network = torch.jit.load(str(path), map_location=device).eval()

    def __call__(self, frames: np.ndarray) -> Tensor:
        return self._run(frames, return_features=True)

    def probabilities(self, frames: np.ndarray) -> Tensor:
        """Return class probabilities (n 1008), without the classifier's bias, as in the original score."""
        return self._run(frames, no_output_bias=True)

    @torch.inference_mode()
    def _run(self, frames: np.ndarray, **options: bool) -> Tensor:
        batches = (torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2) for batch in _batches(frames))
        return torch.cat([self.network(batch.to(self.device), **options).float().cpu() for batch in batches])


class TorchvisionInceptionFeatures:
    """torchvision's Inception v3 as ConsisID's evaluation feeds it: 299 x 299 pixels in [0, 1]."""

    dim = 2048

    def __init__(self, *, weights_dir: str = "weights", device: str = "cpu"):
        path = find("inception_torchvision", weights_dir)
        self.name, self.device = f"inception_torchvision@{checksum(path, Path(weights_dir))[:8]}", device
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self.network = InceptionV3()
        self.network.load_state_dict(
            {name: w for name, w in weights.items() if not name.startswith(("fc.", "AuxLogits."))}
        )
        self.network.requires_grad_(False).to(device).eval()

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        batches = (F.interpolate(as_pixels(batch), (299, 299), mode="bilinear") for batch in _batches(frames))
        return torch.cat([self.network(batch.to(self.device)).cpu() for batch in batches])


def as_pixels(frames: np.ndarray) -> Tensor:
    """Return `frames` (n h w 3) uint8 as (n 3 h w) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def clip_pixels(frames: np.ndarray, size: int) -> Tensor:
    """Return `frames` (n h w 3) uint8 as CLIP takes them: short side bicubic, middle cut out, normalised (n 3 s s).

    What transformers' CLIPImageProcessor makes of them, to the bit of Pillow's resizing.
    """
    from PIL import Image

    height, width = _short_side(frames.shape[1:3], size)
    top, left = (height - size) // 2, (width - size) // 2
    resized = [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)) for frame in frames]
    cropped = np.stack(resized)[:, top : top + size, left : left + size]
    return _normalised(as_pixels(cropped), CLIP_MEAN, CLIP_STD)


def _short_side(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    height, width = shape
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _batches(frames: np.ndarray) -> list[np.ndarray]:
    return [frames[start : start + BATCH_SIZE] for start in range(0, len(frames), BATCH_SIZE)]


@functools.cache  # metrics that share a network hold it once
def _frozen(model_class: Any, folder: Path, device: str, **options: Any) -> Any:
    model = model_class.from_pretrained(folder, local_files_only=True, **options)
    return model.requires_grad_(False).to(device).eval()


def _filters(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    filters = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
