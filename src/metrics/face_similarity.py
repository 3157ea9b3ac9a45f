"""Does the clip show the person of the reference? Similarity and retrieval, with the detection rate beside them."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ..models.identity.analyzer import Face, FaceAnalyzer
from .states import cat


class FaceSimilarity(Metric):
    """Cosine similarity of a clip's faces with its reference's face, and the rank of that reference among all.

    `num_frames` evenly spaced frames of a clip are analysed (16 as ConsisID, 32 as OpenS2V); the largest face of a
    frame counts. A clip's embedding is the mean over its frames. `compute` returns

    - `face_similarity`: mean over clips of the mean over frames in which a face was found; clips without any are left
      out,
    - `detection_rate`: share of analysed frames with a face. A high similarity at a low rate means little,
    - `retrieval_top1`: share of clips (those without a face count as failures) whose own reference is the most similar
      one,
    - `retrieval_mean_rank`: mean rank (from 1) of the own reference, among clips with a face; `retrieval_chance`: top-1
      of guessing.

    Pictures with equal embeddings count as one entry of the gallery. Values that are not defined are NaN, and `notes`
    says why.
    """

    full_state_update = False
    descriptions: ClassVar = {
        "face_similarity": "mean cosine with the reference's face, over frames with a face",
        "detection_rate": "share of analysed frames in which a face was found",
        "retrieval_top1": "share of clips whose own reference is the most similar of all",
        "retrieval_mean_rank": "mean rank of the own reference, 1 is best",
        "retrieval_chance": "retrieval_top1 of guessing",
    }
    clip_embeddings: list[Tensor]
    reference_embeddings: list[Tensor]
    similarity: list[Tensor]
    num_found: list[Tensor]
    num_analysed: list[Tensor]

    def __init__(self, *, analyzer: FaceAnalyzer, num_frames: int = 16, **kwargs: Any):
        super().__init__(**kwargs)
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1: metrics.face_similarity.num_frames")
        self.analyzer, self.num_frames = analyzer, num_frames
        for name in ("clip_embeddings", "reference_embeddings", "similarity", "num_found", "num_analysed"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._references: dict[bytes, Tensor] = {}

    @property
    def features(self) -> str:
        """What the numbers are taken from."""
        return self.analyzer.name

    def update(self, frames: np.ndarray, reference: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) and its `reference` picture (h w 3), uint8 RGB."""
        indices = np.linspace(0, len(frames) - 1, min(self.num_frames, len(frames))).round().astype(int)
        reference_embedding = self._reference_embedding(reference)
        found = [faces[0] for faces in (self.analyzer(frames[index]) for index in indices) if faces]
        embeddings = (
            torch.from_numpy(np.stack([face.embedding for face in found]))
            if found
            else torch.zeros(0, self.analyzer.embedding_dim)
        )
        # NaN marks what could not be measured; `compute` leaves it out and reports how much there was.
        self.similarity.append((embeddings @ reference_embedding).mean()[None])
        self.clip_embeddings.append(embeddings.mean(dim=0)[None])
        self.reference_embeddings.append(reference_embedding[None])
        self.num_found.append(torch.tensor([len(found)]))
        self.num_analysed.append(torch.tensor([len(indices)]))

    def compute(self) -> dict[str, Tensor]:
        if not len(self.similarity):
            raise ValueError("FaceSimilarity has seen no clip")
        per_clip = self.per_clip()
        rank, found, analysed = per_clip["rank"], per_clip["num_found"], per_clip["num_analysed"]
        return {
            "face_similarity": _mean(per_clip["similarity"]),
            "detection_rate": found.sum() / analysed.sum(),
            "retrieval_top1": (rank == 1).float()[per_clip["reference_found"]].mean(),
            "retrieval_mean_rank": _mean(rank),
            "retrieval_chance": torch.tensor(1 / max(len(self._gallery()), 1)),
        }

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each clip, in the order of `update`, by name."""
        clips, references = cat(self.clip_embeddings), cat(self.reference_embeddings)
        gallery = self._gallery()
        similarity = clips @ gallery.T if len(gallery) else clips.new_zeros(len(clips), 0)
        own_similarity = (clips * references).sum(-1)
        rank = 1 + (similarity > own_similarity[:, None] + 1e-6).sum(-1).float()
        rank[torch.isnan(own_similarity)] = torch.nan
        reference_found = ~torch.isnan(references).any(-1) if len(references) else torch.zeros(0, dtype=torch.bool)
        return {
            "similarity": cat(self.similarity),
            "rank": rank,
            "num_found": cat(self.num_found).float(),
            "num_analysed": cat(self.num_analysed).float(),
            "reference_found": reference_found,
        }

    def notes(self) -> list[str]:
        """Return what the numbers leave out."""
        per_clip, notes = self.per_clip(), []
        if faceless := int((per_clip["num_found"] == 0).sum()):
            notes.append(
                f"{faceless} clips have no face in any analysed frame: they count as failures of retrieval, not for "
                "similarity"
            )
        if lost := int((~per_clip["reference_found"]).sum()):
            notes.append(
                f"{lost} clips have a reference picture without a face: they are left out of similarity and retrieval"
            )
        if len(self._gallery()) < 2:
            notes.append("retrieval needs at least two different reference pictures: its values mean nothing here")
        return notes

    def _gallery(self) -> Tensor:
        """Return the different reference embeddings (n d)."""
        references = cat(self.reference_embeddings)
        valid = references[~torch.isnan(references).any(-1)] if len(references) else references
        return torch.unique(valid, dim=0) if len(valid) else valid

    def _reference_embedding(self, reference: np.ndarray) -> Tensor:
        key = reference.tobytes()
        if key not in self._references:
            faces: Sequence[Face] = self.analyzer(reference)
            value = (
                torch.from_numpy(faces[0].embedding) if faces else torch.full((self.analyzer.embedding_dim,), torch.nan)
            )
            self._references[key] = value
        return self._references[key]


def _mean(values: Tensor) -> Tensor:
    return torch.nanmean(values)
