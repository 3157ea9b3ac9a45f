"""Metrics of identity move the right way when clips of drawn people are damaged."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from likeness.datamodules.video import get_reader
from likeness.inputs import read_picture
from likeness.metrics.face_copy import FaceCopy
from likeness.metrics.face_similarity import FaceSimilarity
from likeness.models.identity.analyzer import CachedAnalyzer
from likeness.toy.analyzer import ToyFaceAnalyzer

Clips = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def analyzer() -> CachedAnalyzer:
    return CachedAnalyzer(ToyFaceAnalyzer())


@pytest.fixture(scope="module")
def clips(toy_world) -> Clips:
    reader, videos = get_reader("pyav"), sorted((toy_world / "clips").glob("*.mp4"))
    references = [read_picture(toy_world / "references" / f"{video.stem}.0.png") for video in videos]
    return [(reader.read(video.read_bytes(), range(12)), ref) for video, ref in zip(videos, references, strict=True)]


def similarity(analyzer, clips: Clips) -> dict[str, float]:
    metric = FaceSimilarity(analyzer=analyzer)
    for frames, reference in clips:
        metric.update(frames, [reference])
    return {name: value.item() for name, value in metric.compute().items()}


def copying(analyzer, clips: Clips) -> dict[str, float]:
    metric = FaceCopy(analyzer=analyzer)
    for frames, reference in clips:
        metric.update(frames, [reference])
    return {name: value.item() for name, value in metric.compute().items()}


def blurred(frames: np.ndarray, size: int) -> np.ndarray:
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = F.interpolate(pixels, (size, size), mode="area")
    return F.interpolate(small, frames.shape[1:3], mode="bilinear").permute(0, 2, 3, 1).round().byte().numpy()


def test_real_clips_show_their_people(analyzer, clips):
    result = similarity(analyzer, clips)
    assert result["face_similarity"] > 0.8
    assert result["match_rate"] > 0.95
    assert result["retrieval_top1"] == result["detection_rate"] == 1
    assert abs(result["drift_slope"]) < 0.1


def test_the_more_blur_the_less_likeness(analyzer, clips):
    results = [
        similarity(analyzer, [(blurred(frames, size), ref) for frames, ref in clips]) for size in (64, 20, 12, 8)
    ]
    alike, matching = ([result[name] for result in results] for name in ("face_similarity_all_frames", "match_rate"))
    assert alike == sorted(alike, reverse=True)
    assert matching == sorted(matching, reverse=True)
    assert matching[-1] < 0.6 < matching[0]


def test_wrong_person_is_unlike_and_does_not_match(analyzer, clips):
    others = [ref for _, ref in clips[1:] + clips[:1]]
    result = similarity(analyzer, [(frames, other) for (frames, _), other in zip(clips, others, strict=True)])
    assert result["face_similarity"] < 0.5
    assert result["match_rate"] < 0.1
    assert result["retrieval_top1"] == 0
    assert result["detection_rate"] == 1


def test_person_who_becomes_another_one_drifts(analyzer, clips):
    frames = [np.concatenate([a[:6], b[6:]]) for (a, _), (b, _) in zip(clips, clips[1:] + clips[:1], strict=True)]
    result = similarity(analyzer, [(changed, ref) for changed, (_, ref) in zip(frames, clips, strict=True)])
    assert result["drift_thirds"] < -0.4
    assert result["drift_slope"] < -0.4


def test_reversed_motion_reverses_the_drift_and_nothing_else(analyzer, clips):
    forward, backward = similarity(analyzer, clips), similarity(analyzer, [(f[::-1], ref) for f, ref in clips])
    for name in ("drift_slope", "drift_thirds"):
        assert backward[name] == pytest.approx(-forward[name], abs=1e-5)
    for name in ("face_similarity", "match_rate", "detection_rate", "retrieval_mean_rank"):
        assert backward[name] == pytest.approx(forward[name], abs=1e-5)


def test_shuffled_frames_keep_the_likeness_and_lose_the_smooth_motion(analyzer, clips):
    order = np.random.default_rng(0).permutation(12)
    shuffled = [(frames[order], ref) for frames, ref in clips]
    assert similarity(analyzer, shuffled)["face_similarity"] == pytest.approx(
        similarity(analyzer, clips)["face_similarity"], abs=1e-5
    )
    assert copying(analyzer, shuffled)["face_motion"] > copying(analyzer, clips)["face_motion"]


def test_frozen_clip_has_no_face_motion_and_no_drift(analyzer, clips):
    frozen = [(frames[:1].repeat(12, axis=0), ref) for frames, ref in clips]
    assert copying(analyzer, frozen)["face_motion"] < 1e-5 < copying(analyzer, clips)["face_motion"]
    assert similarity(analyzer, frozen)["drift_slope"] == pytest.approx(0, abs=1e-5)


def test_pasted_photo_is_very_like_and_told_as_a_copy(analyzer, clips):
    pasted = [(ref[None].repeat(12, axis=0), ref) for _, ref in clips]
    honest = copying(analyzer, clips)
    assert similarity(analyzer, pasted)["face_similarity"] > similarity(analyzer, clips)["face_similarity"]
    assert honest["face_copy"] < 0.2
    assert honest["frame_equality"] == 0
    assert copying(analyzer, pasted)["face_copy"] == copying(analyzer, pasted)["frame_equality"] == 1


def test_photo_that_slides_over_a_wall_is_told_from_a_person(analyzer, clips):
    sliding = []
    for _, ref in clips:
        frames = np.full((12, 80, 96, 3), 110, np.uint8)
        for index, frame in enumerate(frames):
            frame[8:72, 2 * index : 2 * index + 64] = ref
        sliding.append((frames, ref))
    moved, honest = copying(analyzer, sliding), copying(analyzer, clips)
    assert moved["frame_equality"] == 0
    assert moved["face_copy"] > 0.5 > honest["face_copy"]
    assert moved["pose_distance"] < honest["pose_distance"]
