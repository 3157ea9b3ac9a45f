"""Face embeddings of the reference pictures, so that nothing that needs them looks for the faces again."""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...datamodules.images import decode_image
from ...datamodules.masks import read_header
from ...datamodules.samples import BadSample, Sample
from ...models.identity.analyzer import Face, FaceAnalyzer
from . import SampleStage

MEMBER = "face_embeds.npz"
MAX_VECTORS, MAX_VECTOR_BYTES = 1024, 2**16  # an archive of a few bytes can promise anything
ANALYZER = "analyzer"  # its name, beside the vectors


@dataclass(frozen=True)
class Embeddings:
    """`vectors`: for each picture (suffix of the member) its embedding (d,) of unit norm, where a face was found.

    `analyzer`: who made them; never compare across names.
    """

    analyzer: str
    vectors: Mapping[str, np.ndarray]


class EmbedFaces(SampleStage):
    """Writes `face_embeds.npz`: one vector for each reference picture. Pictures without a face have none.

    Embeddings that are there stay, unless they were made by another analyzer or for other pictures. Raises ValueError
    without an analyzer.
    """

    def __init__(self, *, analyzer: FaceAnalyzer | None):
        if analyzer is None:
            raise ValueError("stages=embed_faces needs analyzer=insightface (photographs) or analyzer=toy")
        self.analyzer = analyzer

    def __call__(self, sample: Sample) -> list[Sample]:
        identities = sample.info.get("identities") or []
        suffixes = [suffix for identity in identities for suffix in identity.get("face") or []]
        if not suffixes:
            raise BadSample("no picture", f"{sample.key} has no reference picture: run stages=faces first")
        found = {suffix: embed(self.analyzer, decode_image(sample.member(suffix), suffix)) for suffix in suffixes}
        vectors = {suffix: vector for suffix, vector in found.items() if vector is not None}
        return [with_embeddings(sample, Embeddings(self.analyzer.name, vectors))]


def embed(analyzer: FaceAnalyzer, picture: np.ndarray) -> np.ndarray | None:
    """Return the embedding (d,) of the largest face of `picture` (h w 3, uint8); None where there is none."""
    faces = find_faces(analyzer, picture)
    return faces[0].embedding if faces else None


def find_faces(analyzer: FaceAnalyzer, picture: np.ndarray) -> Sequence[Face]:
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    # Detectors miss faces that fill the picture, as they do in aligned crops.
    return analyzer(picture) or analyzer(np.pad(picture, ((rows, rows), (columns, columns), (0, 0)), "edge"))


def with_embeddings(sample: Sample, embeddings: Embeddings) -> Sample:
    """Return the sample with its embeddings."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {ANALYZER: np.array(embeddings.analyzer), **embeddings.vectors}
    np.savez(buffer, **arrays)
    return replace(sample, members={**sample.members, MEMBER: buffer.getvalue()})


def read_embeddings(sample: Sample) -> Embeddings:
    """Return the embeddings of a sample. Raises BadSample where they cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(sample.member(MEMBER))) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if len(names) > MAX_VECTORS:
                raise ValueError(f"{len(names)} arrays, at most {MAX_VECTORS} are read")
            vectors = {name: _vector(archive, name) for name in names}
            return Embeddings(str(vectors.pop(ANALYZER)), vectors)
    except BadSample:
        raise
    except Exception as error:  # zip, numpy and zlib each raise their own
        raise BadSample("unreadable embeddings", f"{MEMBER}: {error}") from error


def _vector(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as stream:
        shape, dtype = read_header(stream)
        num_bytes = math.prod(shape) * dtype.itemsize
        if len(shape) > 1 or num_bytes > MAX_VECTOR_BYTES:
            raise ValueError(f"{name} is {dtype} {shape}, not a vector of at most {MAX_VECTOR_BYTES} bytes")
        return np.frombuffer(stream.read(num_bytes), dtype).reshape(shape)
