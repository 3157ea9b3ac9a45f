"""Inception v3 without its classifier, with the parameter names of torchvision's file. Source: arXiv 1512.00567."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = int | tuple[int, int]
WIDE_7, HIGH_7 = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))  # kernel, stride, padding
WIDE_3, HIGH_3 = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))


class InceptionV3(nn.Module):
    """Pictures (n 3 299 299) in [0, 1] -> features (n 2048).

    The network's own change of range expects pictures normalised by ImageNet's statistics; ConsisID's evaluation gives
    it [0, 1] as it is, and so does this class.
    """

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (BlockC(width) for width in (128, 160, 160, 192))
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280), BlockE(2048)

    def forward(self, pixels: Tensor) -> Tensor:
        scale, shift = (
            pixels.new_tensor(values)[:, None, None] for values in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406))
        )
        hidden = (pixels * scale + shift - 0.5) / 0.5
        hidden = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(hidden)))
        hidden = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(hidden, 3, 2)))
        hidden = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(hidden, 3, 2))))
        hidden = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(hidden)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(hidden))).mean(dim=(2, 3))


class Unit(nn.Module):
    def __init__(self, channels: int, width: int, kernel: Size, stride: int = 1, padding: Size = 0):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(hidden)))


class BlockA(nn.Module):
    def __init__(self, channels: int, pooled: int):
        super().__init__()
        self.branch1x1 = Unit(channels, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Unit(channels, 48, 1), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(channels, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(channels, pooled, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden)))
        pooled = self.branch_pool(F.avg_pool2d(hidden, 3, stride=1, padding=1))
        return torch.cat([self.branch1x1(hidden), self.branch5x5_2(self.branch5x5_1(hidden)), double, pooled], dim=1)


class BlockB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Unit(288, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(288, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, hidden: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden)))
        return torch.cat([self.branch3x3(hidden), double, F.max_pool2d(hidden, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.branch1x1 = Unit(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Unit(768, width, 1), Unit(width, width, *WIDE_7)
        self.branch7x7_3 = Unit(width, 192, *HIGH_7)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Unit(768, width, 1), Unit(width, width, *HIGH_7)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Unit(width, width, *WIDE_7), Unit(width, width, *HIGH_7)
        self.branch7x7dbl_5 = Unit(width, 192, *WIDE_7)
        self.branch_pool = Unit(768, 192, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(hidden)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(hidden)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pooled = self.branch_pool(F.avg_pool2d(hidden, 3, stride=1, padding=1))
        return torch.cat([self.branch1x1(hidden), single, double, pooled], dim=1)


class BlockD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(768, 192, 1), Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Unit(768, 192, 1), Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = Unit(192, 192, (7, 1), padding=(3, 0)), Unit(192, 192, 3, stride=2)

    def forward(self, hidden: Tensor) -> Tensor:
        double = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(hidden))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(hidden)), double, F.max_pool2d(hidden, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.branch1x1 = Unit(channels, 320, 1)
        self.branch3x3_1 = Unit(channels, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Unit(384, 384, *WIDE_3), Unit(384, 384, *HIGH_3)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(channels, 448, 1), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Unit(384, 384, *WIDE_3), Unit(384, 384, *HIGH_3)
        self.branch_pool = Unit(channels, 192, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        single = self.branch3x3_1(hidden)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(hidden))
        parts = [self.branch1x1(hidden), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*parts, self.branch_pool(F.avg_pool2d(hidden, 3, stride=1, padding=1))], dim=1)
