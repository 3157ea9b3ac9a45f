"""How published evaluations look at a clip's faces: which frames, what without a face, how scores are averaged."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..models.identity.analyzer import Face, FaceAnalyzer
from .states import spread

PADDING, GREY = 0.25, 128


@dataclass(frozen=True)
class Convention:
    """`num_frames` of a clip are looked at, at equal distances.

    `rounds`: to the nearest frame, each at most once; else downwards, and a short clip's frames several times. `pads`:
    where no face is found, the picture is searched again with a grey border. `clamps`: negative similarities count 0.
    `drops_zeros`: frames with similarity 0 are left out. `without_faces`: the score of a clip without a face.
    `det_size`: the detector's pixels.
    """

    num_frames: int
    rounds: bool = False
    pads: bool = True
    clamps: bool = True
    drops_zeros: bool = False
    without_faces: float = 0.0
    det_size: int | None = 320

    def indices(self, total: int) -> np.ndarray:
        """Return which of `total` frames are looked at."""
        if self.rounds:
            return np.linspace(0, total - 1, min(self.num_frames, total)).round().astype(int)
        return spread(total, self.num_frames)

    def scores(self, similarity: Tensor) -> Tensor:
        """Return what cosines `similarity` count, in float64; NaN stays."""
        return similarity.double().clamp_min(0) if self.clamps else similarity.double()

    def average(self, similarity: Tensor) -> Tensor:
        """Return the score (n,) of rows of `similarity` (n f), which are NaN where no face was found."""
        scores = self.scores(similarity)
        if self.drops_zeros:
            scores = torch.where(scores == 0, torch.nan, scores)
        return scores.nanmean(dim=1).nan_to_num(nan=self.without_faces)


# likeness: ours. consisid: `eval/get_facesim_fid.py` of the authors. opens2v: `eval/get_facesim.py` of OpenS2V-Nexus,
# where a slip (a list, and not the score, is compared with 0) keeps the zeros of ArcFace and not CurricularFace's.
CONVENTIONS = {
    "likeness": Convention(
        num_frames=16, rounds=True, pads=False, clamps=False, without_faces=float("nan"), det_size=None
    ),
    "consisid": Convention(num_frames=16),
    "opens2v_arc": Convention(num_frames=32),
    "opens2v_cur": Convention(num_frames=32, drops_zeros=True),
}


def get_convention(name: str, num_frames: int | None, analyzer: FaceAnalyzer) -> Convention:
    """Return the convention `name`, with another number of frames where one is given.

    Raises ValueError for an unknown name, no frames, and an analyzer that detects at another size.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"convention={name} is unknown: choose {', '.join(CONVENTIONS)}")
    convention = CONVENTIONS[name]
    if num_frames is not None:
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1")
        convention = replace(convention, num_frames=num_frames)
    det_size = getattr(analyzer, "det_size", None)
    if convention.det_size is not None and det_size not in (None, convention.det_size):
        raise ValueError(
            f"convention={name} detects at {convention.det_size} pixels, not at analyzer.det_size={det_size}"
        )
    return convention


def find_faces(analyzer: FaceAnalyzer, image: np.ndarray, pads: bool) -> list[Face]:
    """Return the faces of `image`, the largest first; with `pads`, those of the padded picture where it shows none."""
    faces = analyzer(image)
    if faces or not pads:
        return faces
    top, left = (int(side * PADDING) for side in image.shape[:2])
    padded = np.pad(image, ((top, top), (left, left), (0, 0)), constant_values=GREY)
    offset = np.array([left, top], np.float32)
    return [
        replace(face, box=face.box - np.tile(offset, 2), keypoints=face.keypoints - offset) for face in analyzer(padded)
    ]
