"""Does the clip show the person of the reference? Similarity and retrieval, with the detection rate beside them."""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ..models.identity.analyzer import Face, FaceAnalyzer
from .states import cat

PER_REFERENCE = ("clip_embeddings", "reference_embeddings", "similarity", "num_found", "num_analysed")
PER_CLIP = ("num_references", "num_own", "num_complete")


class FaceSimilarity(Metric):
    """Cosine similarity of a clip's faces with its reference's face, and the rank of that reference among all.

    `num_frames` evenly spaced frames of a clip are analysed (16 as ConsisID, 32 as OpenS2V). The largest face of
    a frame counts; with k references, the k largest, each given to one reference so that the sum of similarities is
    greatest. Every reference of a clip counts for itself. Its embedding in the clip is the mean over frames.
    `compute` returns

    - `face_similarity`: mean over references of the mean over frames in which their face was found; those without any
      are left out,
    - `detection_rate`: share of analysed frames with a face. A high similarity at a low rate means little,
    - `retrieval_top1`: share of references (those without a face in the clip count as failures) that are the most
      similar one of all,
    - `retrieval_mean_rank`: mean rank (from 1) of the own reference, among clips with a face; `retrieval_chance`: top-1
      of guessing,
    - where a clip has k > 1 references, listed from left to right, `assignment_accuracy`: among frames with k faces,
      the share of faces that are most similar to the reference at their own place and not to another of the clip;
      `assignment_chance`; and `all_faces_rate`, the share of analysed frames in which all k faces were found.

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
        "assignment_accuracy": "several references: share of faces most similar to the one at their own place",
        "assignment_chance": "assignment_accuracy of guessing",
        "all_faces_rate": "several references: share of analysed frames in which every face was found",
    }
    clip_embeddings: list[Tensor]
    reference_embeddings: list[Tensor]
    similarity: list[Tensor]
    num_found: list[Tensor]
    num_analysed: list[Tensor]
    num_references: list[Tensor]
    num_own: list[Tensor]
    num_complete: list[Tensor]

    def __init__(self, *, analyzer: FaceAnalyzer, num_frames: int = 16, **kwargs: Any):
        super().__init__(**kwargs)
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1: metrics.face_similarity.num_frames")
        self.analyzer, self.num_frames = analyzer, num_frames
        for name in (*PER_REFERENCE, *PER_CLIP):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._references: dict[bytes, Tensor] = {}

    @property
    def features(self) -> str:
        """What the numbers are taken from."""
        return self.analyzer.name

    def update(self, frames: np.ndarray, references: Sequence[np.ndarray]) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, one picture (h w 3) an identity, uint8 RGB."""
        indices = np.linspace(0, len(frames) - 1, min(self.num_frames, len(frames))).round().astype(int)
        gallery = torch.stack([self._reference_embedding(reference) for reference in references])
        found: list[list[Tensor]] = [[] for _ in references]
        own = complete = 0
        for index in indices:
            faces = self.analyzer(frames[index])[: len(references)]
            for place, embedding in match_faces(faces, gallery).items():
                found[place].append(embedding)
            if len(faces) == len(references) and not gallery.isnan().any():
                complete, own = complete + 1, own + count_own(faces, gallery)
        for reference, embeddings in zip(gallery, found, strict=True):
            stacked = torch.stack(embeddings) if embeddings else gallery.new_zeros(0, gallery.shape[1])
            # NaN marks what could not be measured; `compute` leaves it out and reports how much there was.
            self.similarity.append((stacked @ reference).mean()[None])
            self.clip_embeddings.append(stacked.mean(dim=0)[None])
            self.reference_embeddings.append(reference[None])
            self.num_found.append(torch.tensor([len(embeddings)]))
            self.num_analysed.append(torch.tensor([len(indices)]))
        self.num_references.append(torch.tensor([len(references)]))
        self.num_own.append(torch.tensor([own]))
        self.num_complete.append(torch.tensor([complete]))

    def compute(self) -> dict[str, Tensor]:
        if not len(self.similarity):
            raise ValueError("FaceSimilarity has seen no clip")
        values = self._per_reference()
        rank, found, analysed = values["rank"], values["num_found"], values["num_analysed"]
        return {
            "face_similarity": torch.nanmean(values["similarity"]),
            "detection_rate": found.sum() / analysed.sum(),
            "retrieval_top1": (rank == 1).float()[values["reference_found"].bool()].mean(),
            "retrieval_mean_rank": torch.nanmean(rank),
            "retrieval_chance": torch.tensor(1 / max(len(self._gallery()), 1)),
        } | self._assignment()

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each clip, the mean over its references, in the order of `update`, by name."""
        counts = [int(count) for count in cat(self.num_references)]
        values = self._per_reference()
        return {
            name: torch.stack([torch.nanmean(part) for part in column.split(counts)]) if counts else column
            for name, column in values.items()
        }

    def _assignment(self) -> dict[str, Tensor]:
        """Return the values over clips with several references; nothing where there is none."""
        references = cat(self.num_references)
        several = references > 1
        if not several.any():
            return {}
        references = references[several]
        own, complete = cat(self.num_own)[several], cat(self.num_complete)[several]
        first = (cat(self.num_references).cumsum(0) - cat(self.num_references)).long()[several]
        return {
            "assignment_accuracy": own.sum() / (complete * references).sum(),
            "assignment_chance": complete.sum() / (complete * references).sum(),
            "all_faces_rate": complete.sum() / cat(self.num_analysed)[first].sum(),
        }

    def _per_reference(self) -> dict[str, Tensor]:
        """Return the values of each reference of each clip, by name."""
        clips, references = cat(self.clip_embeddings), cat(self.reference_embeddings)
        gallery = self._gallery()
        similarity = clips @ gallery.T if len(gallery) else clips.new_zeros(len(clips), 0)
        own_similarity = (clips * references).sum(-1)
        rank = 1 + (similarity > own_similarity[:, None] + 1e-6).sum(-1).float()
        rank[torch.isnan(own_similarity)] = torch.nan
        reference_found = (~torch.isnan(references).any(-1)).float() if len(references) else torch.zeros(0)
        return {
            "similarity": cat(self.similarity),
            "rank": rank,
            "num_found": cat(self.num_found).float(),
            "num_analysed": cat(self.num_analysed).float(),
            "reference_found": reference_found,
        }

    def notes(self) -> list[str]:
        """Return what the numbers leave out."""
        values, notes = self._per_reference(), []
        if faceless := int((values["num_found"] == 0).sum()):
            notes.append(
                f"{faceless} references have no face in any analysed frame of their clip: they count as failures of "
                "retrieval, not for similarity"
            )
        if lost := int((values["reference_found"] == 0).sum()):
            notes.append(f"{lost} reference pictures show no face: they are left out of similarity and retrieval")
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


def match_faces(faces: Sequence[Face], gallery: Tensor) -> dict[int, Tensor]:
    """Return the embeddings of the largest `faces` (largest first) by the row of `gallery` (k d) that each is given to.

    At most k faces, one a row, so that the sum of cosines is greatest. A row that is NaN is given what is left.
    """
    embeddings = [torch.from_numpy(face.embedding) for face in faces[: len(gallery)]]
    if not embeddings:
        return {}
    similarity = (torch.stack(embeddings) @ gallery.T).nan_to_num(-2.0)
    rows = max(
        itertools.permutations(range(len(gallery)), len(embeddings)),
        key=lambda rows: sum(float(similarity[face, row]) for face, row in enumerate(rows)),
    )
    return dict(zip(rows, embeddings, strict=True))


def count_own(faces: Sequence[Face], gallery: Tensor) -> int:
    """Return how many of k `faces`, from left to right, are most similar to their own row of `gallery` (k d)."""
    ordered = sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))
    similarity = torch.stack([torch.from_numpy(face.embedding) for face in ordered]) @ gallery.T
    return int((similarity.argmax(dim=1) == torch.arange(len(ordered))).sum())
