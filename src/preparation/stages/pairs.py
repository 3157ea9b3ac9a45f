"""Training pairs: each clip with reference pictures of the same people, out of the clip itself or out of other clips.

Source: Concat-ID project page, arXiv 2503.14151: pre-training, cross-video and trade-off pairs.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...datamodules.images import decode_image
from ...datamodules.samples import BadSample, Sample
from ...models.identity.analyzer import FaceAnalyzer
from ..sources.shards import StoredSample
from . import PlannedEntry, Rejected, SetStage
from .embed_faces import MEMBER, Embeddings, embed, read_embeddings, with_embeddings

PICTURE = re.compile(r"face\.\d+\.png")
KINDS = ("same", "cross", "trade_off")
BLOCK_BYTES = 2**28  # of similarities that are held at once


@dataclass(frozen=True)
class Pictures:
    """The pictures of one identity of a clip: `suffixes` of the members and their `embeddings` (n d) of unit norm."""

    suffixes: tuple[str, ...]
    embeddings: np.ndarray


@dataclass(frozen=True)
class Reference:
    """A picture that is to stand for an identity: where it lies, and its similarity to the clip's own pictures."""

    stored: StoredSample
    suffix: str
    similarity: float | None = None


class Pairs(SetStage):
    """Gives each identity of each clip a reference picture; a clip of which one identity gets none is dropped.

    `kind` is `same` (the clip's own pictures), `cross` (a random picture among those of other clips whose similarity
    lies in the range `cross`: the lower bound counts, the upper one does not) or `trade_off` (the least similar picture
    in the range `trade_off`). The similarity of a picture to a clip is its mean cosine with the clip's pictures of that
    identity. Choices follow from `seed` and the clips' keys, whatever the order of the samples. Raises ValueError for
    an unknown kind, an impossible range and a missing analyzer.
    """

    def __init__(
        self,
        *,
        kind: str,
        analyzer: FaceAnalyzer | None = None,
        cross: tuple[float, float] = (0.7, 0.9),
        trade_off: tuple[float, float] = (0.9, 0.99),
        seed: int = 0,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}: stages.pairs.kind")
        for name, bounds in (("cross", cross), ("trade_off", trade_off)):
            if len(bounds) != 2 or not -1 <= bounds[0] < bounds[1] <= 1:
                raise ValueError(f"{name}={list(bounds)} must be two cosines, the lower one first: stages.pairs.{name}")
        if analyzer is None and kind != "same":
            raise ValueError(
                f"stages.pairs.kind={kind} needs a face analyzer: analyzer=insightface (photographs) or analyzer=toy"
            )
        self.kind, self.analyzer, self.seed = kind, analyzer, seed
        self.bounds = trade_off if kind == "trade_off" else cross

    def inspect(self, stored: StoredSample) -> list[Pictures]:
        """Return the pictures of each identity; those in which no face is found are left out."""
        sample = stored.read() if self.kind == "same" else self._with_pictures(stored)
        identities = sample.info.get("identities") or []
        if not identities or not all(identity.get("face") for identity in identities):
            raise BadSample("no picture", f"{stored.key} has an identity without a picture: run stages=faces first")
        if sample.info.get("faces_from", "same") != "same":
            raise BadSample(
                "pictures of another clip",
                f"{stored.key} has pictures that are not its own (faces_from): run stages=faces with "
                "stages.faces.replace=true first",
            )
        if self.kind == "same":
            return [Pictures(tuple(identity["face"]), np.zeros((0, 0))) for identity in identities]
        return [self._embed(sample, identity["face"]) for identity in identities]

    def plan(self, stored: Sequence[StoredSample], known: Sequence[list[Pictures]]) -> list[PlannedEntry]:
        if self.kind == "same":
            own = [
                [[Reference(clip, suffix) for suffix in pictures.suffixes] for pictures in identities]
                for clip, identities in zip(stored, known, strict=True)
            ]
            return [PairedClip(clip, references, "same") for clip, references in zip(stored, own, strict=True)]
        chosen = self._choose(dict(zip([clip.key for clip in stored], zip(stored, known, strict=True), strict=True)))
        return [self._pair(clip, len(identities), chosen) for clip, identities in zip(stored, known, strict=True)]

    def _with_pictures(self, stored: StoredSample) -> Sample:
        """Return the sample with its embeddings, if it has those of our analyzer, or else with its pictures."""
        assert self.analyzer is not None
        if MEMBER in stored.spans:
            sample = stored.read(MEMBER)
            if read_embeddings(sample).analyzer == self.analyzer.name:
                return sample
        return stored.read(*(suffix for suffix in stored.spans if PICTURE.fullmatch(suffix)))

    def _embed(self, sample: Sample, suffixes: Sequence[str]) -> Pictures:
        assert self.analyzer is not None
        known = read_embeddings(sample).vectors if MEMBER in sample.members else None
        found = {}
        for suffix in suffixes:
            if known is not None:
                vector = known.get(suffix)
            else:
                vector = embed(self.analyzer, decode_image(sample.member(suffix), suffix))
            if vector is not None:
                found[suffix] = vector
        if not found:
            raise BadSample("no face in picture", f"{sample.key}: none was found in {', '.join(suffixes)}")
        return Pictures(tuple(found), np.stack(list(found.values())))

    def _choose(
        self, clips: dict[str, tuple[StoredSample, list[Pictures]]]
    ) -> dict[tuple[str, int], Reference | float]:
        """Return, for each key and number of an identity, its reference; without one, the best similarity there is."""
        keys = sorted(clips)  # from here on, the order in which samples were written plays no part
        anchors = [(key, number) for key in keys for number in range(len(clips[key][1]))]
        pictures = [
            (key, suffix, embedding)
            for key in keys
            for identity in clips[key][1]
            for suffix, embedding in sorted(
                zip(identity.suffixes, identity.embeddings, strict=True), key=lambda x: x[0]
            )
        ]
        if not pictures:
            return {}
        embeddings = np.stack([embedding for _, _, embedding in pictures])
        owners = [key for key, _, _ in pictures]
        means = np.stack([clips[key][1][number].embeddings.mean(0) for key, number in anchors])
        chosen: dict[tuple[str, int], Reference | float] = {}
        block = max(1, BLOCK_BYTES // (4 * len(pictures)))
        for start in range(0, len(anchors), block):
            similarities = means[start : start + block] @ embeddings.T
            for similarity, anchor in zip(similarities, anchors[start : start + block], strict=True):
                # The clip's own pictures, which lie side by side.
                similarity[bisect_left(owners, anchor[0]) : bisect_right(owners, anchor[0])] = -np.inf
                index = self._pick(similarity, *anchor)
                if index is None:
                    chosen[anchor] = float(similarity.max())
                else:
                    key, suffix, _ = pictures[index]
                    chosen[anchor] = Reference(clips[key][0], suffix, float(similarity[index]))
        return chosen

    def _pick(self, similarity: np.ndarray, key: str, number: int) -> int | None:
        """Return the index of the picture for identity `number` of the clip `key`; None where none is in the range."""
        low, high = self.bounds
        candidates = np.flatnonzero((similarity >= low) & (similarity < high))
        if not len(candidates):
            return None
        if self.kind == "trade_off":
            return int(candidates[similarity[candidates].argmin()])
        digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        return int(np.random.default_rng([self.seed, digest, number]).choice(candidates))

    def _pair(self, clip: StoredSample, count: int, chosen: dict[tuple[str, int], Reference | float]) -> PlannedEntry:
        references = []
        for number in range(count):
            choice = chosen[clip.key, number]
            if not isinstance(choice, Reference):
                span = f"[{self.bounds[0]}, {self.bounds[1]})"
                detail = (
                    f"{clip.key}, identity {number}: the best similarity to another clip is {choice:.3f}, not in {span}"
                )
                return Rejected(clip, "no partner", detail)
            references.append([choice])
        return PairedClip(clip, references, "cross")


@dataclass(frozen=True)
class PairedClip:
    """A clip whose reference pictures (and their masks) are replaced by `references`, a list for each identity."""

    base: StoredSample
    references: list[list[Reference]]
    faces_from: str

    @property
    def place(self) -> str:
        return self.base.place

    @property
    def video(self) -> str:
        return self.base.video

    def fingerprint(self, digests: Mapping[str, str]) -> Any:
        references = [[[digests[one.stored.key], _source(one)] for one in some] for some in self.references]
        return ["paired", references, self.faces_from]

    def load(self) -> Sample:
        sample = self.base.load()
        members = {
            suffix: data
            for suffix, data in sample.members.items()
            if not suffix.startswith("face.") and suffix != MEMBER
        }
        number = 0
        identities: list[dict[str, Any]] = []
        vectors: dict[str, np.ndarray] = {}
        analyzers = set()
        for identity, references in zip(sample.info["identities"], self.references, strict=True):
            suffixes: list[str] = []
            sources: list[dict[str, Any]] = []
            for reference in references:
                made, embeddings = _picture_members(reference, number)
                members |= made
                suffixes.append(f"face.{number}.png")
                if embeddings is not None:
                    analyzers.add(embeddings.analyzer)
                    if reference.suffix in embeddings.vectors:
                        vectors[suffixes[-1]] = embeddings.vectors[reference.suffix]
                sources.append(_source(reference))
                number += 1
            identities.append({**identity, "face": suffixes, "face_sources": sources})
        info = {**sample.info, "identities": identities, "faces_from": self.faces_from}
        paired = replace(sample, members=members, info=info)
        return with_embeddings(paired, Embeddings(analyzers.pop(), vectors)) if len(analyzers) == 1 else paired


def _picture_members(reference: Reference, number: int) -> tuple[dict[str, bytes], Embeddings | None]:
    """Return picture and mask under the new `number`, and the embeddings of the clip that they come from, if any."""
    mask_suffix = f"{reference.suffix.rpartition('.')[0]}.mask.png"
    source = reference.stored.read(reference.suffix, mask_suffix, MEMBER)
    members = {f"face.{number}.png": source.member(reference.suffix)}
    if mask_suffix in source.members:
        members[f"face.{number}.mask.png"] = source.members[mask_suffix]
    return members, read_embeddings(source) if MEMBER in source.members else None


def _source(reference: Reference) -> dict[str, Any]:
    """Return where a reference picture comes from, for the `json` member."""
    source: dict[str, Any] = {"key": reference.stored.key, "member": reference.suffix}
    return source if reference.similarity is None else {**source, "similarity": round(reference.similarity, 5)}
