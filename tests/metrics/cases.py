"""A small case of every metric of `likeness.metrics`. A new metric needs one: add it to `CASES`.

A case makes the metric, given the folder of the tiny models; of what `drawn_clips` has of a clip (references, prompt,
people, fps, boxes) the metric gets what its `update` takes. One that takes anything else brings its own clips: pairs of
what `update` gets first, and of its other arguments by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from likeness.datamodules.box_files import parse_boxes
from likeness.datamodules.boxes import TrackedBoxes
from likeness.metrics.boxes import BoxAP, BoxIoU
from likeness.metrics.building import arguments, update
from likeness.metrics.celeb_basis_identity import CelebBasisIdentity
from likeness.metrics.clip_score import AestheticPredictor, AestheticScore, CLIPScore
from likeness.metrics.face_copy import FaceCopy
from likeness.metrics.face_inception import FaceFrechetDistance, FaceInceptionDistance
from likeness.metrics.face_similarity import FaceSimilarity
from likeness.metrics.first_frame import FirstFramePSNR
from likeness.metrics.flow import FarnebackFlow
from likeness.metrics.frechet import FeatureDistance, FrechetInceptionDistance, FrechetVideoDistance
from likeness.metrics.image_features import CLIPFeatures, DINOFeatures, SmallImageFeatures
from likeness.metrics.inception_score import InceptionScore
from likeness.metrics.motion import Flicker, Motion, MotionSmoothness
from likeness.metrics.protocols import Protocol
from likeness.metrics.reference_copy import ReferenceCopy
from likeness.metrics.temporal_consistency import FirstFrameConsistency, ImageConsistency, TemporalConsistency
from likeness.models.identity.analyzer import CachedAnalyzer
from likeness.toy.analyzer import ToyFaceAnalyzer
from likeness.toy.clips import draw_clip
from likeness.toy.people import make_person

Clip = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    make: Callable[[str], Metric]
    clips: Callable[[], Sequence[Clip]]


def tracked(boxes: np.ndarray) -> TrackedBoxes:
    """Return the boxes (f 4) in [0, 1] of one thing."""
    rows = [[frame, *map(float, box)] for frame, box in enumerate(boxes)]
    entry = {"coordinates": "unit", "objects": [{"id": "1", "between": "absent", "boxes": rows}]}
    return parse_boxes(entry, "boxes").on_picture(1, 1).at(len(boxes))


@cache
def drawn_clips(num_clips: int = 6) -> list[Clip]:
    """Return clips of one person each, the second in one frame only, the third without a prompt."""
    clips: list[Clip] = []
    for number in range(num_clips):
        person = make_person(np.random.default_rng(number % 3))
        rng, size = np.random.default_rng([number, 1]), {"height": 64, "width": 64, "fps": 8.0}
        drawn = draw_clip([person], rng, num_frames=1 if number == 1 else 5 + number % 3, **size)
        picture = draw_clip([person], rng, num_frames=1, **size).frames[0]
        prompt = "" if number == 2 else "abc"[number % 3] * (1 + number // 3)
        frames = drawn.frames
        if number == 3:
            frames[-1] = picture  # ends in its reference
        given = {"references": [picture], "prompt": prompt, "people": [f"p{number % 3}"], "fps": 8.0}
        clips.append((frames, given | {"boxes": tracked(drawn.boxes[:, 0] / 64)}))
    return clips


@cache
def clips_of_groups() -> list[Clip]:
    """Return the drawn clips, one without a face, and one of two people with their two pictures."""
    people = [make_person(np.random.default_rng(seed)) for seed in (0, 1)]
    rng = np.random.default_rng(7)
    together = draw_clip(people, rng, num_frames=5, height=64, width=96, fps=8.0).frames
    pictures = [given["references"][0] for _, given in drawn_clips()[:2]]
    empty = np.zeros((4, 64, 64, 3), np.uint8)
    return [
        *drawn_clips(),
        (empty, {"references": pictures[:1], "people": ["p0"]}),
        (together, {"references": pictures, "people": ["p0", "p1"]}),
    ]


def feature_rows() -> list[Clip]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 6, generator=generator) + 0.1 * number, {}) for number in range(20)]


class FirstPixels:
    """A recogniser that knows faces by the colours around their first two keypoints."""

    name, embedding_dim = "first pixels", 6

    def __call__(self, image: np.ndarray, keypoints: Sequence[np.ndarray]) -> np.ndarray:
        places = [points[:2].clip(0, len(image) - 1).astype(int) for points in keypoints]
        rows = np.stack([image[place[:, 1], place[:, 0]].flatten() for place in places]) - 127.5
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


SMALL = SmallImageFeatures()
FACES = CachedAnalyzer(ToyFaceAnalyzer(), num_pictures=10_000)
FEW = {"num_resamples": 3}


def feature_distance(_: str) -> Metric:
    return FeatureDistance(name="d", features="given", comparison="test", dim=6, ddof=1, num_resamples=3)


CASES: dict[type[Metric], Case] = {
    metric: Case(make, drawn_clips)
    for metric, make in {
        AestheticScore: lambda weights: AestheticScore(
            predictor=AestheticPredictor(
                features=CLIPFeatures(weights="clip_vit_l14", weights_dir=weights), weights_dir=weights
            )
        ),
        BoxAP: lambda _: BoxAP(analyzer=FACES, frames="all"),
        BoxIoU: lambda _: BoxIoU(analyzer=FACES),
        CelebBasisIdentity: lambda _: CelebBasisIdentity(analyzer=FACES, embedder=FirstPixels()),
        CLIPScore: lambda weights: CLIPScore(features=CLIPFeatures(weights_dir=weights)),
        FaceCopy: lambda _: FaceCopy(analyzer=FACES, num_frames=3),
        FaceFrechetDistance: lambda _: FaceFrechetDistance(analyzer=FACES, features=SMALL, num_frames=3, **FEW),
        FaceInceptionDistance: lambda _: FaceInceptionDistance(analyzer=FACES, features=SMALL, num_frames=3),
        FirstFrameConsistency: lambda weights: FirstFrameConsistency(
            features=DINOFeatures(weights_dir=weights), name="subject_consistency"
        ),
        FirstFramePSNR: lambda _: FirstFramePSNR(),
        Flicker: lambda _: Flicker(),
        FrechetInceptionDistance: lambda _: FrechetInceptionDistance(features=SMALL, num_frames=3, **FEW),
        FrechetVideoDistance: lambda _: FrechetVideoDistance(protocol=Protocol(name="own"), **FEW),
        ImageConsistency: lambda weights: ImageConsistency(features=DINOFeatures(weights_dir=weights)),
        InceptionScore: lambda _: InceptionScore(features=SMALL, num_frames=4, num_splits=3),
        Motion: lambda _: Motion(flow=FarnebackFlow()),
        MotionSmoothness: lambda _: MotionSmoothness(),
        ReferenceCopy: lambda _: ReferenceCopy(),
        TemporalConsistency: lambda weights: TemporalConsistency(features=CLIPFeatures(weights_dir=weights)),
    }.items()
} | {
    FaceSimilarity: Case(lambda _: FaceSimilarity(analyzer=FACES, num_frames=3, threshold=0.5), clips_of_groups),
    FeatureDistance: Case(feature_distance, feature_rows),
}


def measured(case: Case, weights_dir: str, places: Sequence[int]) -> dict[str, float]:
    """Return the values of the metric of a case after the clips at `places`, the last half of all as real ones."""
    return {name: value.item() for name, value in measured_metric(case, weights_dir, places).compute().items()}


def measured_metric(case: Case, weights_dir: str, places: Sequence[int]) -> Any:
    """Return the metric of a case after the clips at `places`, the last half of all as real ones."""
    metric, clips = case.make(weights_dir), case.clips()
    takes_real = "real" in arguments(metric)
    for place in places:
        first, given = clips[place]
        is_real = {"real": True} if takes_real and place >= len(clips) // 2 else {}
        update(metric, first, **given, **is_real)
    return metric
