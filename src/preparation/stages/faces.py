"""Reference pictures out of the clip itself: finds the people, follows them over its frames and cuts their faces out.

Source: Concat-ID project page (face crop from the same video); the numbers are ours, the paper gives none.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...datamodules.samples import BadSample, Sample
from ...datamodules.video import get_reader
from ...media import encode_png
from ...models.identity.analyzer import Face
from ...models.identity.references import ReferencePreprocessor
from . import SampleStage
from .embed_faces import MEMBER as EMBEDDINGS

BLOCK = 32  # frames that are held at once


@dataclass(eq=False)
class SeenPerson:
    """Someone who was seen in a clip: a face for each frame in which it was found."""

    faces: dict[int, Face] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sum: np.ndarray = np.sum([face.embedding for face in self.faces.values()], axis=0)

    def add(self, index: int, face: Face) -> None:
        self.faces[index] = face
        self._sum = self._sum + face.embedding

    @property
    def embedding(self) -> np.ndarray:
        """Mean embedding (d,), of unit norm."""
        return self._sum / max(float(np.linalg.norm(self._sum)), 1e-12)

    @property
    def last(self) -> Face:
        return next(reversed(self.faces.values()))

    @property
    def area(self) -> float:
        return sum(face.area for face in self.faces.values())


class Faces(SampleStage):
    """Writes `face.N.png` and, with a parser, `face.N.mask.png` for the people of a clip, and where they are.

    `num_frames` evenly spaced frames are looked at, or, for tracks, `every_n_frames`: 1 is all of them. With
    `interpolate`, a box and keypoints between two frames that were looked at are put on the line between theirs, with
    the lower score. Faces count from the detection score `min_score` and the box side
    `min_size` (pixels) on, and are taken for one person by their embeddings, from the cosine `min_similarity` on, or
    half of it in the same place. The `max_identities` largest people that are seen in at least the share `min_presence`
    of the frames get `num_pictures` pictures each, the best one first. A mask is written only where the preprocessor
    would black the background. Clips that have pictures stay as they are, unless `replace`. Raises ValueError for
    settings out of range and without a preprocessor.
    """

    def __init__(
        self,
        *,
        preprocess: ReferencePreprocessor | None,
        reader: str = "pyav",
        num_frames: int = 16,
        every_n_frames: int | None = None,
        interpolate: bool = False,
        num_pictures: int = 3,
        max_identities: int = 3,
        min_score: float = 0.6,
        min_size: float = 64,
        min_similarity: float = 0.4,
        min_presence: float = 0.25,
        replace: bool = False,
    ):
        if preprocess is None:
            raise ValueError("stages=faces needs to know how to cut faces out: preprocess=concat_id, align or toy")
        counts = {"num_frames": num_frames, "num_pictures": num_pictures, "max_identities": max_identities}
        if every_n_frames is not None:
            counts["every_n_frames"] = every_n_frames
        shares = {"min_score": min_score, "min_similarity": min_similarity, "min_presence": min_presence}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count} must be at least 1: stages.faces.{name}")
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must lie in [0, 1]: stages.faces.{name}")
        self.preprocess, self.reader = preprocess, get_reader(reader)
        self.num_frames, self.num_pictures, self.max_identities = num_frames, num_pictures, max_identities
        self.min_score, self.min_size = min_score, min_size
        self.min_similarity, self.min_presence = min_similarity, min_presence
        self.every_n_frames, self.interpolate = every_n_frames, interpolate
        self.replace = replace

    def __call__(self, sample: Sample) -> list[Sample]:
        if not self.replace and any(identity.get("face") for identity in sample.info.get("identities") or []):
            return [sample]
        count = int(sample.info.get("num_frames") or self.reader.probe(sample.video).num_frames)
        indices = self._indices(count)
        size, faces = self._look(sample, indices)
        people = self._people(faces)
        if not people:
            raise BadSample("no face", f"nobody is seen well enough in {len(indices)} frames of {sample.key}")
        members = {
            suffix: data
            for suffix, data in sample.members.items()
            if not suffix.startswith("face.") and suffix != EMBEDDINGS  # those of the pictures that go
        }
        best = [self._best_frames(person) for person in people]
        shown = sorted({index for some in best for index in some})
        frames = dict(zip(shown, self.reader.read(sample.video, shown), strict=True))
        identities, number = [], 0
        for place, (person, chosen) in enumerate(zip(people, best, strict=True)):
            suffixes = []
            for index in chosen:
                members |= self._picture_members(frames[index], person.faces[index], number)
                suffixes.append(f"face.{number}.png")
                number += 1
            rows = _places(person, size)
            if self.interpolate:
                rows = {name: interpolate(some, indices) for name, some in rows.items()}
            identities.append({"id": f"{sample.key}/{place}", "face": suffixes, **rows})
        info = {**sample.info, "identities": identities, "faces_from": "same"}
        return [replace(sample, members=members, info=info)]

    def _indices(self, count: int) -> list[int]:
        if self.every_n_frames is not None:
            return list(range(0, count, self.every_n_frames))
        return np.linspace(0, count - 1, min(self.num_frames, count)).round().astype(int).tolist()

    def _look(self, sample: Sample, indices: Sequence[int]) -> tuple[tuple[int, int], dict[int, list[Face]]]:
        """Return width and height of the frames, and the good faces in those at `indices`."""
        size, found = (0, 0), {}
        for start in range(0, len(indices), BLOCK):
            block = indices[start : start + BLOCK]
            for index, frame in zip(block, self.reader.read(sample.video, block), strict=True):
                size = (frame.shape[1], frame.shape[0])
                found[index] = [face for face in self.preprocess.analyzer(frame) if self._is_good(face)]
        return size, found

    def _people(self, faces: dict[int, list[Face]]) -> list[SeenPerson]:
        """Return who is seen often enough, the largest first. `faces`: by frame."""
        people: list[SeenPerson] = []
        for index, some in faces.items():
            self._assign(people, index, some)
        people = self._merge(people)
        enough = [person for person in people if len(person.faces) >= self.min_presence * len(faces)]
        return sorted(enough, key=lambda person: -person.area)[: self.max_identities]

    def _is_good(self, face: Face) -> bool:
        return face.score >= self.min_score and bool((face.box[2:] - face.box[:2]).min() >= self.min_size)

    def _assign(self, people: list[SeenPerson], index: int, faces: Sequence[Face]) -> None:
        """Give each of the `faces` of frame `index` to one of `people`, the surest first, or to somebody new."""
        likeness = [
            (self._likeness(person, face), place, number)
            for place, person in enumerate(people)
            for number, face in enumerate(faces)
        ]
        given: dict[int, int] = {}
        for value, place, number in sorted(likeness, key=lambda entry: -entry[0]):
            if value > 0 and number not in given and place not in given.values():
                given[number] = place
        for number, face in enumerate(faces):
            if number in given:
                people[given[number]].add(index, face)
            else:
                people.append(SeenPerson({index: face}))

    def _likeness(self, person: SeenPerson, face: Face) -> float:
        """Return how surely `face` is the `person`'s; 0 where it is not."""
        similarity = float(person.embedding @ face.embedding)
        overlap = intersection_over_union(person.last.box, face.box)
        # The place alone proves nothing: after a cut, somebody else may stand there.
        is_same = similarity >= self.min_similarity or (overlap >= 0.5 and similarity >= self.min_similarity / 2)
        return max(similarity + overlap, 1e-6) if is_same else 0.0

    def _merge(self, people: list[SeenPerson]) -> list[SeenPerson]:
        """Join people who are alike and never in the same frame: one who was lost, as after turning away."""
        for first, second in itertools.combinations(people, 2):
            is_apart = not first.faces.keys() & second.faces.keys()
            if is_apart and float(first.embedding @ second.embedding) >= self.min_similarity:
                joined = SeenPerson(dict(sorted({**first.faces, **second.faces}.items())))
                return self._merge([joined, *(person for person in people if person not in (first, second))])
        return people

    def _best_frames(self, person: SeenPerson) -> list[int]:
        """Return the frame with the best face of each of `num_pictures` parts of the person's time, the best first."""
        parts = np.array_split(sorted(person.faces), min(self.num_pictures, len(person.faces)))
        best = [max(part.tolist(), key=lambda index: _quality(person.faces[index])) for part in parts]
        return sorted(best, key=lambda index: -_quality(person.faces[index]))

    def _picture_members(self, frame: np.ndarray, face: Face, number: int) -> dict[str, bytes]:
        prepared = self.preprocess.cut(frame, face)
        members = {f"face.{number}.png": encode_png(prepared.unmasked)}
        if prepared.foreground is not None and prepared.is_masked:
            members[f"face.{number}.mask.png"] = encode_png(prepared.foreground.astype(np.uint8) * 255)
        return members


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """Return the overlap of two boxes (4,) xyxy, in [0, 1]."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]))
    return shared / max(areas - shared, 1e-12)


def interpolate(rows: Sequence[Sequence[float]], looked_at: Sequence[int]) -> list[list[float]]:
    """Return `rows` ([frame, numbers...]) with those between them, where both were seen in frames next to each other of
    those `looked_at`: the numbers lie on the line between the two. A sixth number, a score, is the lower of both.
    """
    following = dict(itertools.pairwise(looked_at))
    filled = [list(rows[0])] if rows else []
    for before, after in itertools.pairwise(rows):
        steps = int(after[0] - before[0]) if following.get(int(before[0])) == after[0] else 1
        for step in range(1, steps):
            share = step / steps
            row = [round(a + share * (b - a), 5) for a, b in zip(before[1:], after[1:], strict=True)]
            if len(before) == 6:
                row[-1] = min(before[-1], after[-1])
            filled.append([before[0] + step, *row])
        filled.append(list(after))
    return filled


def _quality(face: Face) -> float:
    return face.score * face.area


def _places(person: SeenPerson, size: tuple[int, int]) -> dict[str, Any]:
    """Return the boxes and keypoints of the data contract, in [0, 1]. `size`: width and height of the frames."""
    scale = np.array(size, np.float64)

    def unit(points: np.ndarray) -> list[float]:
        return (points.reshape(-1, 2) / scale).clip(0, 1).round(5).ravel().tolist()

    return {
        "boxes": [[index, *unit(face.box), round(face.score, 4)] for index, face in person.faces.items()],
        "keypoints": [[index, *unit(face.keypoints)] for index, face in person.faces.items()],
    }
