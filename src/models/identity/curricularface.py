"""CurricularFace IR-101, the second face recogniser of the ConsisID and OpenS2V evaluations, under its published names.

Source: arXiv 2004.00288; the published file is `glint360k_curricular_face_r101_backbone.bin`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...metrics.model_files import find
from .analyzer import ARCFACE_TEMPLATE, similarity_transform
from .references import warp
from .weights import load_network


class ResidualUnit(nn.Module):
    """Batch norm, two 3 x 3 convolutions, and a shortcut that subsamples or, for another width, projects."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class CurricularFace(nn.Module):
    """Embeddings (b d), not normalised, of aligned faces (b 3 112 112) in [-1, 1], RGB.

    `units`: residual units of each stage; `widths`: of the stem and of each stage; `input_size` in pixels. Every stage
    begins with stride 2. 65,150,912 parameters at the published size.
    """

    def __init__(
        self,
        *,
        units: Sequence[int] = (3, 13, 30, 3),
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        embedding_dim: int = 512,
        input_size: Sequence[int] = (112, 112),
    ):
        super().__init__()
        if len(widths) != len(units) + 1:
            raise ValueError(f"widths={list(widths)} must have one entry more than units={list(units)}: the stem's")
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        self.body = nn.Sequential(
            *(
                ResidualUnit(widths[stage] if first else widths[stage + 1], widths[stage + 1], 2 if first else 1)
                for stage, count in enumerate(units)
                for first in [True] + [False] * (count - 1)
            )
        )
        height, width = (-(-side // 2 ** len(units)) for side in input_size)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(widths[-1] * height * width, embedding_dim),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(faces)))


class CurricularFaceEmbedder:
    """`FaceEmbedder` with the published network, `weights` of `model_files`; `device`: a torch device."""

    name = "curricularface_ir101"
    embedding_dim = 512

    def __init__(self, *, weights: str = "curricularface_ir101", weights_dir: str = "weights", device: str = "cpu"):
        self.network = load_network(CurricularFace, find(weights, weights_dir)).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, keypoints: Sequence[np.ndarray]) -> np.ndarray:
        crops = np.stack([aligned_face(image, points) for points in keypoints])
        faces = torch.from_numpy(crops).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
        return F.normalize(self.network(faces), dim=-1).cpu().numpy()


def aligned_face(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Return the face (112 112 3, uint8) of `image`: warped to ArcFace's template at 224 pixels, then halved."""
    crop = warp(image, similarity_transform(keypoints, 2 * ARCFACE_TEMPLATE), 224)
    # Bilinear at exactly half size is the mean of 2 x 2 pixels, in whole numbers as OpenCV has them.
    sums = crop.reshape(112, 2, 112, 2, 3).sum(axis=(1, 3), dtype=np.uint16)
    return ((sums + 2) >> 2).astype(np.uint8)
