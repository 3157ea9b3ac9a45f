"""The identity score of Celeb Basis. Source: arXiv 2306.00926, folder `evaluation` of the authors' repository."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.identity.analyzer import FaceAnalyzer, FaceEmbedder
from .columns import ColumnMetric, mean_of_defined

LEAST_MEAN = 1e-6  # prompts whose mean cosine is not above it are left out, as those without any face are


class CelebBasisIdentity(ColumnMetric):
    """Cosine of the pictures made for one prompt with the photo of the person, over pictures in which a face was found.

    `analyzer` finds faces, `embedder` recognises them: not the network that trained, but sphere20 in the paper.
    Frames of a clip are pictures too. `compute` returns

    - `celeb_basis_identity`: mean over prompts of the mean cosine; prompts with a mean of at most 1e-6 and those
      without a face are left out,
    - `celeb_basis_mse`, `celeb_basis_l2`: mean squared difference of the unit vectors' elements, and
      sqrt(mse * d) / 2, over the same prompts,
    - `celeb_basis_detection_rate`: share of generated pictures with a face; `celeb_basis_detection_rate_published`:
      the authors' counters, where the photo of each prompt counts as found, whether or not it was.
    """

    descriptions: ClassVar = {
        "celeb_basis_identity": "mean cosine of found faces with the photo's, prompts at or below 0 left out",
        "celeb_basis_mse": "mean squared difference of the elements of the unit vectors",
        "celeb_basis_l2": "half the distance of the unit vectors",
        "celeb_basis_detection_rate": "share of generated pictures with a face",
        "celeb_basis_detection_rate_published": "the same, where every prompt's photo is counted as one with a face",
    }

    def __init__(self, *, analyzer: FaceAnalyzer, embedder: FaceEmbedder):
        super().__init__()
        self.analyzer, self.embedder = analyzer, embedder
        self.features = f"{embedder.name}, faces found by {analyzer.name}"
        flat, whole = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        self.add_columns(cosine=flat, mse=flat, num_found=whole, num_pictures=whole, has_photo=whole)

    def update(self, frames: Sequence[np.ndarray] | np.ndarray, references: Sequence[np.ndarray]) -> None:
        """Add a prompt: its pictures `frames`, each (h w 3), and one photo of the person, uint8 RGB."""
        if len(references) != 1:
            raise ValueError(
                f"there are {len(references)} references: the Celeb Basis evaluation compares with one photo"
            )
        photo = self._embedding(references[0])
        found = [embedding for frame in frames if (embedding := self._embedding(frame)) is not None]
        cosine = mse = torch.tensor(torch.nan)
        if photo is not None and found:
            scores = compare_embeddings(photo[None], torch.stack(found))
            cosine, mse = scores["cosine"].mean(), scores["mse"]
        self.append(
            cosine=cosine[None],
            mse=mse[None],
            num_found=torch.tensor([len(found)]),
            num_pictures=torch.tensor([len(frames)]),
            has_photo=torch.tensor([photo is not None]),
        )

    def compute(self) -> dict[str, Tensor]:
        if not len(self.column("cosine")):
            raise ValueError("CelebBasisIdentity has seen no picture")
        values = self.per_clip()
        found, pictures = self.column("num_found").sum(), self.column("num_pictures").sum()
        prompts = len(self.column("cosine"))
        mse = mean_of_defined(values["celeb_basis_mse"])
        return {
            "celeb_basis_identity": mean_of_defined(values["celeb_basis_cosine"]).float(),
            "celeb_basis_mse": mse.float(),
            "celeb_basis_l2": half_distance(mse, self.embedder.embedding_dim).float(),
            "celeb_basis_detection_rate": found / pictures,
            "celeb_basis_detection_rate_published": (found + prompts) / (pictures + prompts),
        }

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each prompt, in the order of `update`, by name; NaN for those that are left out."""
        cosine, mse = self.column("cosine"), self.column("mse")
        counts = cosine > LEAST_MEAN
        return {
            "celeb_basis_cosine": torch.where(counts, cosine, torch.nan),
            "celeb_basis_mse": torch.where(counts, mse, torch.nan),
            "celeb_basis_num_found": self.column("num_found").double(),
        }

    def notes(self) -> list[str]:
        """Return what the numbers leave out."""
        cosine, notes = self.column("cosine"), []
        if lost := int((self.column("has_photo") == 0).sum()):
            notes.append(f"{lost} photos show no face: their prompts are left out of the identity score")
        if faceless := int((self.column("num_found") == 0).sum()):
            notes.append(f"{faceless} prompts have no picture with a face: they are left out of the identity score")
        if unlike := int((cosine <= LEAST_MEAN).sum()):
            notes.append(f"{unlike} prompts have a mean cosine of at most 0: the evaluation leaves them out")
        return notes

    def _embedding(self, image: np.ndarray) -> Tensor | None:
        """Return the embedding (d,) of the face with the best score, None without one."""
        faces = self.analyzer(image)
        if not faces:
            return None
        best = max(faces, key=lambda face: face.score)
        return torch.from_numpy(self.embedder(image, [best.keypoints])[0])


def compare_embeddings(photos: Tensor, pictures: Tensor) -> dict[str, Tensor]:
    """Return the `cosine` of each photo (n d) with each picture (m d), (n m); and their `mse` and `l2`, the means."""
    photos, pictures = F.normalize(photos.double(), dim=1), F.normalize(pictures.double(), dim=1)
    mse = ((photos[:, None] - pictures) ** 2).mean()
    return {"cosine": photos @ pictures.T, "mse": mse, "l2": half_distance(mse, photos.shape[1])}


def half_distance(mse: Tensor, dim: int) -> Tensor:
    """Return half the distance of two vectors of `dim` elements with the mean squared difference `mse`."""
    return (mse * dim).sqrt() / 2
