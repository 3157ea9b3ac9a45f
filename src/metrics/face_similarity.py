"""Does the clip show the person of the reference? Similarity, retrieval and drift, beside the detection rate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..inputs import read_picture
from ..models.identity.analyzer import Face, FaceAnalyzer, FaceEmbedder, digest
from .columns import ColumnMetric, mean_of_defined, mean_over_parts, num_defined_in_parts
from .face_conventions import find_faces, get_convention
from .identity_scores import (
    VERIFICATION_THRESHOLDS,
    best_assignment,
    drift_of_thirds,
    drift_slope,
    matching_share,
    person_number,
    rank_among_people,
)

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

DESCRIPTIONS = {
    "face_similarity": "mean cosine with the reference's face, over frames with a face",
    "face_similarity_all_frames": "the same, where frames without a face count 0",
    "detection_rate": "share of analysed frames in which a face was found",
    "match_rate": "share of analysed frames whose face is verified as the reference's",
    "drift_slope": "change of the similarity from the first to the last frame, along a line",
    "drift_thirds": "mean similarity in the last third of the frames, less the first third's",
    "retrieval_top1": "share of clips whose own reference is the most similar of all",
    "retrieval_mean_rank": "mean rank of the own reference, 1 is best",
    "retrieval_chance": "retrieval_top1 of guessing",
    "confusion_rate": "several references: share of faces that are more similar to another one than their own",
    "assignment_accuracy": "several references: share of faces most similar to the one at their own place",
    "assignment_chance": "assignment_accuracy of guessing",
    "all_faces_rate": "several references: share of analysed frames in which every face was found",
}


class FaceSimilarity(ColumnMetric):
    """Cosine similarity of a clip's faces with its reference's face, frame by frame, and what follows from it.

    `num_frames` evenly spaced frames of a clip are analysed (None: as the convention says). The largest face of a frame
    counts; with k references, the k largest, each given to one reference so that the sum of similarities is greatest.
    Every reference of a clip counts for itself; pictures of one person are one reference. Its embedding in the clip is
    the mean over frames. `convention`: `likeness`, or a published one, `consisid`, `opens2v_arc` or `opens2v_cur`:
    other frames, another `face_similarity`. `embedder`: recognises in place of the analyzer, which then only finds
    faces. `threshold`: least similarity of a match (None: what is known for the embedding space). `distractors`: a
    folder with pictures of other people, who join the gallery. `prefix`: of every name, where several such metrics
    stand in one table. `compute` returns

    - `face_similarity`: mean over references of the mean over frames in which their face was found; those without any
      are left out; `face_similarity_all_frames`: the same, where a frame without the face counts 0,
    - `detection_rate`: share of analysed frames with a face. A high similarity at a low rate means little,
    - `match_rate`: share of analysed frames whose face is verified as the reference's,
    - `drift_slope`: change of the similarity from the first to the last frame, along a line; `drift_thirds`: its mean
      in the last third of the frames, less that in the first,
    - `retrieval_top1`: share of references (those without a face in the clip count as failures) that are the most
      similar one of all,
    - `retrieval_mean_rank`: mean rank (from 1) of the own reference, among clips with a face; `retrieval_chance`: top-1
      of guessing,
    - where a clip has k > 1 references: `confusion_rate`, the share of faces that are more similar to another reference
      of the clip than to the one that they are given to (`confusion` tells which); and, if the references are listed
      from left to right, `assignment_accuracy`: among frames with k faces, the share of faces that are most similar to
      the reference at their own place and not to another of the clip; `assignment_chance`; and `all_faces_rate`, the
      share of analysed frames in which all k faces were found.

    Values that are not defined are NaN, and `notes` says why.
    """

    def __init__(
        self,
        *,
        analyzer: FaceAnalyzer,
        convention: str = "likeness",
        num_frames: int | None = None,
        embedder: FaceEmbedder | None = None,
        threshold: float | None = None,
        distractors: str | Path | None = None,
        prefix: str = "",
    ):
        super().__init__()
        self.analyzer, self.embedder, self.prefix = analyzer, embedder, prefix
        self.convention = get_convention(convention, num_frames, analyzer)
        self.space = (embedder or analyzer).name
        self.threshold = VERIFICATION_THRESHOLDS.get(self.space) if threshold is None else threshold
        self.features = self.space if convention == "likeness" else f"{self.space}, faces as {convention}"
        if embedder is not None:
            self.features += f", found by {analyzer.name}"
        self.descriptions = {prefix + name: text for name, text in DESCRIPTIONS.items()}
        flat, whole = torch.zeros(0), torch.zeros(0, dtype=torch.long)
        rows = torch.zeros(0, (embedder or analyzer).embedding_dim)
        self.add_columns(num_references=whole, num_frames=whole, num_own=whole, num_complete=whole)  # a clip
        self.add_columns(clip_embeddings=rows, reference_embeddings=rows, people=whole)  # a reference
        self.add_columns(similarity=flat, has_face=whole, most_similar=whole)  # a frame of a reference
        self._embeddings: dict[bytes, Tensor] = {}
        self._distractors, self._num_faceless_distractors = rows, 0
        if distractors is not None:
            self._add_distractors(Path(distractors))

    def update(self, frames: np.ndarray, references: Sequence[np.ndarray], people: Sequence[str] | None = None) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, pictures (h w 3), uint8 RGB.

        `people`: names of the references' persons, where several pictures show one: they are one reference, with the
        mean of their embeddings. Without, each picture that looks different is someone else.
        """
        if not len(frames) or not len(references):
            raise ValueError(f"a clip has {len(frames)} frames and {len(references)} references: it needs one of each")
        pictures = torch.stack([self._reference_embedding(reference) for reference in references])
        shown: list[str | bytes] = [*map(digest, references)] if people is None else [*people]
        places = [[place for place, one in enumerate(shown) if one == person] for person in dict.fromkeys(shown)]
        gallery = torch.stack([embedding_of(pictures[own]) for own in places])
        indices = self.convention.indices(len(frames)).tolist()
        looks = {index: self._look(frames[index], gallery) for index in set(indices)}
        embeddings = torch.stack([looks[index].embeddings for index in indices], dim=1)  # k f d
        cosines = embeddings @ gallery.T
        most_similar = torch.where(cosines.isnan().any(dim=2), -1, cosines.nan_to_num().argmax(dim=2))
        names = [row.numpy().tobytes() for row in gallery] if people is None else dict.fromkeys(shown)
        in_place = [looks[index].in_place for index in indices]
        self.append(
            num_references=torch.tensor([len(gallery)]),
            num_frames=torch.tensor([len(indices)]),
            num_complete=torch.tensor([sum(count is not None for count in in_place)]),
            num_own=torch.tensor([sum(count or 0 for count in in_place)]),
            clip_embeddings=embeddings.nanmean(dim=1),
            reference_embeddings=gallery,
            people=torch.tensor([person_number(name) for name in names]),
            similarity=cosines.diagonal(dim1=0, dim2=2).T.flatten(),
            has_face=(~embeddings.isnan().any(dim=2)).flatten(),
            most_similar=most_similar.flatten(),
        )

    def compute(self) -> dict[str, Tensor]:
        values = self._per_reference()
        if not len(values["rank"]):
            raise ValueError("FaceSimilarity has seen no clip")
        result = {
            "face_similarity": mean_of_defined(values["similarity"]),
            "face_similarity_all_frames": mean_of_defined(values["similarity_all_frames"]),
            "detection_rate": values["num_found"].sum() / values["num_analysed"].sum(),
            "match_rate": mean_of_defined(values["match_rate"]),
            "drift_slope": mean_of_defined(values["drift_slope"]),
            "drift_thirds": mean_of_defined(values["drift_thirds"]),
            "retrieval_top1": mean_of_defined(values["retrieval_top1"]),
            "retrieval_mean_rank": mean_of_defined(values["rank"]),
            "retrieval_chance": 1 / values["rank"].new_tensor(max(self._num_people(), 1)),
        } | self._assignment()
        return {self.prefix + name: value.float() for name, value in result.items()}

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each clip, the mean over its references, in the order of `update`, by name."""
        counts = self.column("num_references").tolist()
        values = self._per_reference()
        return {self.prefix + name: mean_over_parts(column, counts).float() for name, column in values.items()}

    def clip_weights(self) -> dict[str, Tensor]:
        """Return how much each clip counts in the mean of each value of `per_clip`: its references that have one.

        The detection rate is one of frames, so there it is the clip's analysed frames, for each of its references.
        """
        counts = self.column("num_references").tolist()
        weights = {name: num_defined_in_parts(column, counts) for name, column in self._per_reference().items()}
        weights["detection_rate"] = self.column("num_references") * self.column("num_frames")
        return {self.prefix + name: column for name, column in weights.items()}

    def per_frame(self) -> list[Tensor]:
        """Return the similarity (k f) of each analysed frame with each reference of each clip; NaN without a face."""
        shapes = zip(self.column("num_references").tolist(), self.column("num_frames").tolist(), strict=True)
        sizes = [count * frames for count, frames in shapes]
        parts = self.column("similarity").split(sizes) if sizes else []
        counts = self.column("num_references").tolist()
        return [part.view(count, -1) for part, count in zip(parts, counts, strict=True)]

    def confusion(self) -> Tensor:
        """Return how many faces that were given to reference i of a clip are most similar to its reference j, (k k)."""
        table, _ = self._table("most_similar", -1)
        rows = torch.cat([torch.arange(count) for count in self.column("num_references").tolist()] or [torch.zeros(0)])
        num_people = int(self.column("num_references").max()) if len(table) else 0
        pairs = torch.stack([rows.long().to(table.device)[:, None].expand_as(table), table])[:, table >= 0]
        return torch.bincount(pairs[0] * num_people + pairs[1], minlength=num_people**2).view(num_people, num_people)

    def notes(self) -> list[str]:
        """Return what the numbers leave out."""
        values = self._per_reference()
        faceless, lost = int((values["num_found"] == 0).sum()), int((values["reference_found"] == 0).sum())
        undefined, assignment = int(values["drift_thirds"].isnan().sum()), self._assignment()
        notes = [
            (
                faceless,
                f"{faceless} references have no face in any analysed frame of their clip: {self._faceless_text()}",
            ),
            (lost, f"{lost} reference pictures show no face: they are left out of everything but the detection rate"),
            (
                undefined,
                f"{undefined} references have no face at the start or the end of their clip: they are left out of "
                "drift_thirds, and with fewer than two faces of drift_slope",
            ),
            (
                self._num_people() < 2,
                "retrieval_top1 and retrieval_mean_rank mean nothing here: they need at least two different references",
            ),
            (
                assignment and assignment["assignment_accuracy"].isnan(),
                "no frame shows all people of its clip: assignment_accuracy and its chance are undefined",
            ),
            (
                assignment and assignment["confusion_rate"].isnan(),
                "no face can be compared with all references of its clip: confusion_rate is undefined",
            ),
            (
                self.threshold is None,
                f"no verification threshold is known for {self.space}: match_rate is undefined, set threshold",
            ),
            (
                self._num_faceless_distractors,
                f"{self._num_faceless_distractors} pictures of distractors show no face: they are left out",
            ),
        ]
        return [text for applies, text in notes if applies]

    def _faceless_text(self) -> str:
        similarity = "they count 0" if self.convention.without_faces == 0 else "not"
        return f"they count as failures of retrieval, {similarity} for similarity"

    def _per_reference(self) -> dict[str, Tensor]:
        """Return the values of each reference of each clip, by name."""
        similarity, counts = self._table("similarity", torch.nan)
        references = self.column("reference_embeddings")
        known = ~references.isnan().any(dim=1)
        num_found, num_analysed = self._table("has_face", 0)[0].sum(dim=1).double(), counts.double()
        rank = rank_among_people(self.column("clip_embeddings"), references, self.column("people"), *self._gallery())

        def defined(values: Tensor) -> Tensor:
            return torch.where(known, values, torch.nan)

        return {
            "similarity": defined(self.convention.average(similarity)),
            "similarity_all_frames": defined(self.convention.scores(similarity).nansum(dim=1) / counts),
            "rank": rank,
            "retrieval_top1": defined((rank == 1).double()),
            "match_rate": defined(matching_share(similarity, counts, self.threshold)),
            "drift_slope": drift_slope(similarity, counts),
            "drift_thirds": drift_of_thirds(similarity, counts),
            "detection_rate": num_found / num_analysed,
            "num_found": num_found,
            "num_analysed": num_analysed,
            "reference_found": known.double(),
        }

    def _assignment(self) -> dict[str, Tensor]:
        """Return the values over clips with several references; nothing where there is none."""
        references = self.column("num_references")
        several = references > 1
        if not several.any():
            return {}
        table, _ = self._table("most_similar", -1)
        own_row = torch.cat([torch.arange(count) for count in references.tolist()]).to(table.device)
        judged = (table >= 0) & several.repeat_interleave(references)[:, None]
        own, complete = self.column("num_own")[several], self.column("num_complete")[several]
        return {
            "confusion_rate": ((table != own_row[:, None]) & judged).sum() / judged.sum(),
            "assignment_accuracy": own.sum() / (complete * references[several]).sum(),
            "assignment_chance": complete.sum() / (complete * references[several]).sum(),
            "all_faces_rate": complete.sum() / self.column("num_frames")[several].sum(),
        }

    def _table(self, name: str, empty: float) -> tuple[Tensor, Tensor]:
        """Return a column of frames as (n f), a row for each reference, filled with `empty`; and its frames (n,)."""
        counts = self.column("num_frames").repeat_interleave(self.column("num_references"))
        values = self.column(name)
        table = values.new_full((len(counts), int(counts.max()) if len(counts) else 0), empty)
        table[torch.arange(table.shape[1], device=table.device) < counts[:, None]] = values
        return table, counts

    def _gallery(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings (g d) of all reference pictures and distractors, and the numbers of their people."""
        pictures = torch.cat([self.column("reference_embeddings"), self._distractors.to(self.device)])
        others = [person_number(row.numpy().tobytes()) for row in self._distractors]
        people = torch.cat([self.column("people"), torch.tensor(others, dtype=torch.long, device=self.device)])
        known = ~pictures.isnan().any(dim=1)
        return pictures[known], people[known]

    def _num_people(self) -> int:
        return len(self._gallery()[1].unique())

    def _look(self, image: np.ndarray, gallery: Tensor) -> "Look":
        faces = self._faces(image)[: len(gallery)]
        embeddings = torch.full_like(gallery, torch.nan)
        for row, embedding in match_faces(faces, gallery).items():
            embeddings[row] = embedding
        complete = len(faces) == len(gallery) and not gallery.isnan().any()
        return Look(embeddings, count_own(faces, gallery) if complete else None)

    def _faces(self, image: np.ndarray) -> list[Face]:
        """Return the faces of a picture, the largest first, with the embeddings that are compared."""
        faces = find_faces(self.analyzer, image, self.convention.pads)
        if self.embedder is None or not faces:
            return faces
        embeddings = self.embedder(image, [face.keypoints for face in faces])
        return [replace(face, embedding=embedding) for face, embedding in zip(faces, embeddings, strict=True)]

    def _reference_embedding(self, reference: np.ndarray) -> Tensor:
        key = digest(reference)
        if key not in self._embeddings:
            faces = self._faces(reference)
            dim = self._distractors.shape[1]
            self._embeddings[key] = torch.from_numpy(faces[0].embedding) if faces else torch.full((dim,), torch.nan)
        return self._embeddings[key]

    def _add_distractors(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_EXTENSIONS)
        if not files:
            raise ValueError(f"distractors={folder} holds no picture ({', '.join(PICTURE_EXTENSIONS)})")
        rows = torch.stack([self._reference_embedding(read_picture(path)) for path in files])
        self._distractors = rows[~rows.isnan().any(dim=1)]
        self._num_faceless_distractors = len(rows) - len(self._distractors)


def embedding_of(pictures: Tensor) -> Tensor:
    """Return the embedding (d) of who is seen in `pictures` (n d): their mean, of unit length; NaN: none has a face."""
    known = pictures[~pictures.isnan().any(dim=1)].unique(dim=0)
    return known[0] if len(known) == 1 else F.normalize(known.mean(dim=0), dim=0)


@dataclass(frozen=True)
class Look:
    """One frame: the `embeddings` (k d) of the faces that were given to k references, NaN where there is none.

    `in_place`: how many of k faces are, from left to right, most similar to the reference at their place; None where
    fewer were found.
    """

    embeddings: Tensor
    in_place: int | None


def match_faces(faces: Sequence[Face], gallery: Tensor) -> dict[int, Tensor]:
    """Return the embeddings of the largest `faces` (largest first) by the row of `gallery` (k d) that each is given to.

    At most k faces, one a row, so that the sum of cosines is greatest. A row that is NaN is given what is left.
    """
    embeddings = [torch.from_numpy(face.embedding) for face in faces[: len(gallery)]]
    if not embeddings:
        return {}
    similarity = (torch.stack(embeddings) @ gallery.T).nan_to_num(-2.0)
    return dict(zip(best_assignment(similarity.numpy()), embeddings, strict=True))


def count_own(faces: Sequence[Face], gallery: Tensor) -> int:
    """Return how many of k `faces`, from left to right, are most similar to their own row of `gallery` (k d)."""
    ordered = sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))
    similarity = torch.stack([torch.from_numpy(face.embedding) for face in ordered]) @ gallery.T
    return int((similarity.argmax(dim=1) == torch.arange(len(ordered))).sum())
