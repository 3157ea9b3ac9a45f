"""The face stack of the toy world: a small detector and recogniser, trained on drawn people by `train_analyzer`.

It plays the part that insightface plays for photographs, behind the same interface, and needs no download: its weights
(`analyzer.safetensors`) ship with the package.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.identity.analyzer import Face, similarity_transform

WEIGHTS = Path(__file__).with_name("analyzer.safetensors")
FRAME_HEIGHT = 64  # frames are resized to this height before detection
STRIDE = 4
CROP = 32
# Left eye, right eye, nose, mouth corners of an aligned crop, as fractions of its side: the head and its hair fit in.
TEMPLATE = np.array([[0.38, 0.50], [0.62, 0.50], [0.50, 0.60], [0.40, 0.71], [0.60, 0.71]], np.float32)


class ToyFaceDetector(nn.Module):
    """Per cell of 4 x 4 pixels: face score (logit), box sides and five keypoints relative to the cell's centre."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            _conv(3, width // 2, 2),
            _conv(width // 2, width, 2),
            _conv(width, width),
            _conv(width, width, dilation=2),
            _conv(width, width, dilation=4),
            _conv(width, width, dilation=2),
            _conv(width, width),
            nn.Conv2d(width, 15, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return (b 15 h/4 w/4) for `images` (b 3 h w) in [-1, 1]: logit, 4 box and 10 keypoint values, in cells."""
        return self.layers(images)


class ToyFaceEmbedder(nn.Module):
    """Unit vector (b 64) of aligned crops (b 3 32 32) in [-1, 1]."""

    def __init__(self, width: int = 48, dim: int = 64):
        super().__init__()
        self.layers = nn.Sequential(
            _conv(3, width),
            _conv(width, width, 2),
            _conv(width, width),
            _conv(width, 2 * width, 2),
            _conv(2 * width, 2 * width),
            nn.Conv2d(2 * width, width // 2, 1),
            nn.Flatten(),
            nn.Linear(width // 2 * 64, dim),
        )

    def forward(self, crops: Tensor) -> Tensor:
        return F.normalize(self.layers(crops), dim=-1)


class ToyFaceAnalyzer:
    """`FaceAnalyzer` for drawn people. `threshold`: least face score in [0, 1]; `weights`: a safetensors file."""

    name = "toy"
    embedding_dim = 64

    def __init__(self, *, threshold: float = 0.5, weights: str | Path = WEIGHTS):
        from safetensors.torch import load_file

        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold} of the toy face analyzer must lie between 0 and 1")
        self.threshold = threshold
        self.detector, self.embedder = ToyFaceDetector().eval(), ToyFaceEmbedder().eval()
        nn.ModuleDict({"detector": self.detector, "embedder": self.embedder}).load_state_dict(load_file(weights))

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> list[Face]:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        scale = image.shape[0] / FRAME_HEIGHT
        frame = F.interpolate(
            pixels, scale_factor=1 / scale, mode="bilinear", antialias=True, recompute_scale_factor=True
        )
        found = decode_faces(self.detector(frame)[0], self.threshold)
        if not found:
            return []
        keypoints = np.stack([face[1] for face in found])
        crops = align(frame.expand(len(found), -1, -1, -1), keypoints)
        embeddings = self.embedder(crops).numpy()
        faces = [
            Face(box=box * scale, keypoints=keypoints * scale, score=score, embedding=embedding)
            for (box, keypoints, score), embedding in zip(found, embeddings, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


def decode_faces(output: Tensor, threshold: float) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Return box (4,), keypoints (5, 2) and score of each local maximum of the detector's `output` (15 h w)."""
    scores = output[0].sigmoid()
    peaks = (scores == F.max_pool2d(scores[None], 5, stride=1, padding=2)[0]) & (scores > threshold)
    faces = []
    for row, column in peaks.nonzero().tolist():
        centre = np.array([column + 0.5, row + 0.5], np.float32)
        values = output[1:, row, column].numpy()
        box = np.concatenate([centre - values[:2], centre + values[2:4]]) * STRIDE
        keypoints = (centre + values[4:].reshape(5, 2)) * STRIDE
        faces.append((box, keypoints, float(scores[row, column])))
    return faces


def align(images: Tensor, keypoints: np.ndarray, size: int = CROP) -> Tensor:
    """Return crops (b 3 size size) of `images` (b 3 h w) whose five `keypoints` (b 5 2) fall on `TEMPLATE`."""
    height, width = images.shape[-2:]
    to_unit = np.diag([2 / width, 2 / height])
    theta = np.empty((len(images), 2, 3), np.float32)
    for i, points in enumerate(keypoints):
        matrix = similarity_transform(TEMPLATE * size, points)  # crop -> image, both with pixel edges at integers
        theta[i, :, :2] = to_unit @ matrix[:, :2] * (size / 2)
        theta[i, :, 2] = to_unit @ (matrix[:, :2] @ np.full(2, size / 2) + matrix[:, 2]) - 1
    grid = F.affine_grid(torch.from_numpy(theta), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation), nn.GroupNorm(8, outputs), nn.SiLU()
    )
