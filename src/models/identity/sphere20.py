"""CosFace's sphere20, the face recogniser of the Celeb Basis evaluation, under its published names.

Source: arXiv 1801.09414; evaluation of arXiv 2306.00926, trained on VGGFace2.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...metrics.model_files import find
from .analyzer import similarity_transform
from .references import warp
from .weights import load_network

UNITS, WIDTHS = (1, 2, 4, 1), (64, 128, 256, 512)
# Where FFHQ pictures of 512 pixels have eyes, nose and mouth corners.
FFHQ_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    np.float32,
)
# From an FFHQ crop to ArcFace's, as the authors have it, in coordinates in [-1, 1]. It zooms out: the eyes come 25
# pixels apart and not 35.
TO_ARCFACE = ((1.07695457, -0.03625215, -1.56352194 / 512), (0.03625215, 1.07695457, -5.32134629 / 512))


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.PReLU(width)
        self.conv2, self.prelu2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))


class Sphere20(nn.Module):
    """Embeddings (b 512), not normalised, of aligned faces (b 3 112 112) in [-1, 1], RGB. 24,501,952 parameters."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for number, (count, width) in enumerate(zip(UNITS, WIDTHS, strict=True), 1):
            units = [Residual(width) for _ in range(count)]
            setattr(self, f"layer{number}", nn.Sequential(nn.Conv2d(inputs, width, 3, 2, 1), nn.PReLU(width), *units))
            inputs = width
        self.fc = nn.Linear(WIDTHS[-1] * 7 * 7, 512)

    def forward(self, faces: Tensor) -> Tensor:
        x = faces
        for number in range(1, len(UNITS) + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.fc(x.flatten(1))


class Sphere20Embedder:
    """`FaceEmbedder` of the Celeb Basis evaluation, its network `weights` of `model_files`; `device`: a torch device.

    Faces are aligned to FFHQ's template at 512 pixels, then warped and resized to 112.
    """

    name = "cosface_sphere20"
    embedding_dim = 512

    def __init__(self, *, weights: str = "sphere20_vggface2", weights_dir: str = "weights", device: str = "cpu"):
        self.network = load_network(Sphere20, find(weights, weights_dir)).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, keypoints: Sequence[np.ndarray]) -> np.ndarray:
        crops = [warp(image, similarity_transform(points, FFHQ_TEMPLATE), 512) for points in keypoints]
        faces = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
        return F.normalize(self.network(arcface_from_ffhq(faces)), dim=-1).cpu().numpy()


def arcface_from_ffhq(faces: Tensor) -> Tensor:
    """Return (b 3 112 112) of FFHQ crops (b 3 h w), as Celeb Basis brings them to its recognisers."""
    theta = faces.new_tensor(TO_ARCFACE).expand(len(faces), -1, -1)
    grid = F.affine_grid(theta, list(faces.shape), align_corners=True)
    warped = F.grid_sample(faces, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return F.interpolate(warped, (112, 112), mode="bilinear", align_corners=True)
