"""Is the reference picture itself pasted into the clip? Then a high face similarity is no success."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..datamodules.images import fit_and_pad
from ..models.identity.analyzer import ARCFACE_TEMPLATE, Face, FaceAnalyzer, similarity_transform
from ..models.identity.references import warp
from .columns import ColumnMetric, mean_of_defined
from .reference_copy import correlation, thumbnails

# Aligned faces, from the hair to below the chin, are cut out of crops of CROP pixels with a margin around them, and are
# compared at THUMBNAIL pixels, so that compression changes nothing.
CROP, FACE, THUMBNAIL = 48, 32, 16
ZOOM = 0.7  # of ArcFace's template
# Keypoints of small faces are off by a pixel or two: the reference is cut out with such faults, and the best counts.
SHIFTS, SCALES = (-0.12, -0.06, 0.0, 0.06, 0.12), (0.8, 0.9, 1.0, 1.12, 1.25)


class FaceCopy(ColumnMetric):
    """Compares pose, expression, pixels and crop of a clip's faces with those of the reference picture.

    In `num_frames` evenly spaced frames, the face whose aligned pixels correlate best with the reference's counts. Its
    five keypoints and the centre of its box, brought onto the reference's by a similarity transform, are still apart by
    `pose_distance` (root mean square, in eye distances of the reference): turning, nodding and talking move them; where
    a face is and how large, does not. A frame is a copy if that is at most `pose_tolerance` and the correlation at
    least `threshold`. Of drawn people, 5 % of the frames of another clip of the person count as copies, and 75 % of a
    photo that is moved and scaled over a wall. `compute` returns means over clips, of several references the one that
    is copied most, over frames with a face:

    - `face_copy`: share of frames that are copies,
    - `pose_distance` and `face_correlation`: as above; `crop_overlap`: intersection over union of the face's boxes in
      the frame and in the picture, as shares of their sides,
    - `face_motion`: pose distance of one analysed frame from the one before; 0 for a picture that is only shifted,
    - `frame_equality`: share of all frames that equal the reference, fitted and padded to the clip.
    """

    descriptions: ClassVar = {
        "face_copy": "share of frames whose face is the reference's pixel for pixel, in pose and expression",
        "pose_distance": "keypoints against the reference's after alignment, in eye distances; 0 is the same pose",
        "face_correlation": "correlation of the aligned face's pixels with the reference's",
        "crop_overlap": "overlap of the face's box with the one in the reference picture",
        "face_motion": "pose distance from one analysed frame to the next; 0 is a frozen face",
        "frame_equality": "share of frames that equal the whole reference picture",
    }

    def __init__(
        self,
        *,
        analyzer: FaceAnalyzer,
        num_frames: int = 16,
        pose_tolerance: float = 0.08,
        threshold: float = 0.97,
        equality: float = 0.98,
    ):
        super().__init__()
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1")
        self.analyzer, self.num_frames = analyzer, num_frames
        self.pose_tolerance, self.threshold, self.equality = pose_tolerance, threshold, equality
        self.features = f"keypoints of {analyzer.name}, pixels"
        flat = torch.zeros(0, dtype=torch.float64)
        self.add_columns(**dict.fromkeys(self.descriptions, flat))
        self.add_columns(**dict.fromkeys(("num_found", "num_references_found"), torch.zeros(0, dtype=torch.long)))

    def update(self, frames: np.ndarray, references: Sequence[np.ndarray]) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, pictures (h w 3), uint8 RGB."""
        if not len(frames) or not len(references):
            raise ValueError(f"a clip has {len(frames)} frames and {len(references)} references: it needs one of each")
        indices = np.linspace(0, len(frames) - 1, min(self.num_frames, len(frames))).round().astype(int)
        views = [[FaceView.of(frames[index], face) for face in self.analyzer(frames[index])] for index in indices]
        found = [(picture, face) for picture in references for face in self.analyzer(picture)[:1]]
        compared = [self._compare(views, FaceView.of(picture, face, with_faults=True)) for picture, face in found]
        # Of several references the one that is copied most: one pasted photo is enough.
        values = max(compared, key=lambda values: (values["face_copy"], values["face_correlation"]), default={})
        values["frame_equality"] = self._equality(frames[indices], references)
        self.append(
            **{name: torch.tensor([values.get(name, torch.nan)]) for name in self.descriptions},
            num_found=torch.tensor([sum(map(bool, views))]),
            num_references_found=torch.tensor([len(compared)]),
        )

    def compute(self) -> dict[str, Tensor]:
        if not len(self.column("num_found")):
            raise ValueError("FaceCopy has seen no clip")
        return {name: mean_of_defined(self.column(name)).float() for name in self.descriptions}

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each clip, in the order of `update`, by name; NaN for what cannot be compared."""
        return {name: self.column(name).float() for name in self.descriptions}

    def notes(self) -> list[str]:
        """Return what the numbers leave out, and a warning where clips are copies."""
        found, pictures = self.column("num_found"), self.column("num_references_found")
        notes = []
        if lost := int((pictures == 0).sum()):
            notes.append(f"{lost} clips have no reference picture with a face: it cannot be told if they copy its face")
        if faceless := int(((found == 0) & (pictures > 0)).sum()):
            notes.append(f"{faceless} clips show no face: it cannot be told if they copy the reference's")
        if still := int(((found == 1) & (pictures > 0)).sum()):
            notes.append(f"{still} clips show a face in one frame only: face_motion leaves them out")
        if copies := int((self.column("face_copy") > 0.5).sum()):
            notes.append(
                f"{copies} of {len(found)} clips show the reference picture's own face, pose and expression in most "
                "frames: their face similarity is no success"
            )
        return notes

    def _compare(self, views: Sequence[Sequence["FaceView"]], picture: "FaceView") -> dict[str, float]:
        """Return the values of one clip, given the faces of its frames, with one reference that shows a face."""
        seen = [max(faces, key=picture.correlation) for faces in views if faces]
        if not seen:
            return dict.fromkeys(("face_copy", "face_correlation"), np.nan)
        distances = np.array([pose_distance(view.points, picture.points) for view in seen])
        correlations = np.array([picture.correlation(view) for view in seen])
        steps = [pose_distance(after.points, before.points) for before, after in pairwise(seen)]
        return {
            "face_copy": float(((distances <= self.pose_tolerance) & (correlations >= self.threshold)).mean()),
            "pose_distance": float(distances.mean()),
            "face_correlation": float(correlations.mean()),
            "crop_overlap": float(np.mean([overlap(view.box, picture.box) for view in seen])),
            "face_motion": float(np.mean(steps)) if steps else np.nan,
        }

    def _equality(self, frames: np.ndarray, references: Sequence[np.ndarray]) -> float:
        """Return the share of `frames` that are the same picture as one of the `references`."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        pictures = torch.stack([fit_and_pad(picture, *frames.shape[1:3]) for picture in references])
        similarity = correlation(thumbnails(pixels), thumbnails(pictures))
        return float((similarity.amax(dim=1) >= self.equality).float().mean())


@dataclass(frozen=True)
class FaceView:
    """A face as it is compared.

    `pixels` (v d): its aligned crop, a row for each variant; `inside` (v d): 1 where that lies in the picture, else 0;
    `points` (6 2): keypoints and the centre of the box; `box` (4,) as shares of the picture's sides.
    """

    pixels: Tensor
    inside: Tensor
    points: np.ndarray
    box: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, face: Face, with_faults: bool = False) -> Self:
        faults = torch.tensor(list(product(SHIFTS, SHIFTS, SCALES)) if with_faults else [(0.0, 0.0, 1.0)])
        pixels = _cut(image, face, faults)
        inside = _cut(np.full_like(image, 255), face, faults) >= 250
        height, width = image.shape[:2]
        points = np.concatenate([face.keypoints, face.box.reshape(2, 2).mean(axis=0, keepdims=True)])
        return cls(pixels, inside.float(), points, face.box / [width, height, width, height])

    def correlation(self, other: "FaceView") -> float:
        """Return the correlation of the best variant with `other`, where both lie inside of their pictures."""
        inside = self.inside * other.inside
        count = inside.sum(dim=1, keepdim=True).clamp_min(1)
        first, second = (
            (pixels - (pixels * inside).sum(dim=1, keepdim=True) / count) * inside
            for pixels in (self.pixels, other.pixels)
        )
        return float(F.cosine_similarity(first, second, dim=1).max())


def _cut(image: np.ndarray, face: Face, faults: Tensor) -> Tensor:
    """Return the aligned face as rows (v d), with `faults` (v 3): shares of its side to the right and down, scale."""
    share = FACE / CROP
    template = ((ARCFACE_TEMPLATE / 112 - 0.5) * ZOOM * share + 0.5) * CROP
    crop = torch.from_numpy(warp(image, similarity_transform(face.keypoints, template), CROP)).permute(2, 0, 1).float()
    theta = torch.zeros(len(faults), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = share / faults[:, 2]
    theta[:, :, 2] = -2 * share * faults[:, :2]
    grid = F.affine_grid(theta, [len(faults), 3, FACE, FACE], align_corners=False)
    cut = F.grid_sample(crop.expand(len(faults), -1, -1, -1), grid, align_corners=False)
    return thumbnails(cut, THUMBNAIL)


def pose_distance(points: np.ndarray, reference: np.ndarray) -> float:
    """Return how far `points` (n 2), eyes first, brought onto `reference` by a similarity transform, stay apart.

    Root mean square over the points, in distances of the reference's eyes.
    """
    matrix = similarity_transform(points, reference)
    apart = points @ matrix[:, :2].T + matrix[:, 2] - reference
    return float(np.sqrt((apart**2).sum(axis=1).mean()) / np.linalg.norm(reference[1] - reference[0]))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return intersection over union of two boxes (4,) xyxy."""
    sides = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0)
    areas = [np.prod(box[2:] - box[:2]) for box in (first, second)]
    return float(np.prod(sides) / max(sum(areas) - np.prod(sides), 1e-12))
