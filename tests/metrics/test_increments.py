import numpy as np
import pytest
import torch

from likeness.metrics.building import build_metrics, update
from likeness.metrics.increments import add_increment, increment
from likeness.toy.clips import draw_clip
from likeness.toy.people import make_person

ANALYZER = {"_target_": "likeness.toy.analyzer.ToyFaceAnalyzer"}
SMALL = {"_target_": "likeness.metrics.image_features.SmallImageFeatures"}
METRICS = {
    "face_similarity": {"_target_": "likeness.metrics.face_similarity.FaceSimilarity", "analyzer": ANALYZER},
    "face_copy": {"_target_": "likeness.metrics.face_copy.FaceCopy", "analyzer": ANALYZER},
    "reference_copy": {"_target_": "likeness.metrics.reference_copy.ReferenceCopy"},
    "fvd": {
        "_target_": "likeness.metrics.frechet.FrechetVideoDistance",
        "protocol": {"_target_": "likeness.metrics.protocols.Protocol", "name": "own"},
        "num_resamples": 5,
    },
    "face_fid": {
        "_target_": "likeness.metrics.face_inception.FaceFrechetDistance",
        "analyzer": ANALYZER,
        "features": SMALL,
        "num_resamples": 5,
    },
    "inception_score": {"_target_": "likeness.metrics.inception_score.InceptionScore", "features": SMALL},
    "flicker": {"_target_": "likeness.metrics.motion.Flicker"},
    "consistency": {"_target_": "likeness.metrics.temporal_consistency.TemporalConsistency", "features": SMALL},
}


@pytest.fixture(scope="module")
def clips() -> list[tuple[np.ndarray, list[np.ndarray]]]:
    found = []
    for number in range(4):
        people = [make_person(np.random.default_rng(number))]
        size = {"num_frames": 6, "height": 64, "width": 64, "fps": 8.0}
        first, second = (draw_clip(people, np.random.default_rng([number, k]), **size) for k in range(2))
        found.append((first.frames, [second.frames[0]]))
    return found


def given(clip) -> dict:
    return {"references": clip[1], "prompt": "x", "fps": 8.0}


@pytest.mark.parametrize("name", METRICS)
def test_increments_added_in_order_give_what_updates_give(name, clips):
    (plain,), (summed,) = (build_metrics({name: METRICS[name]})[0].values() for _ in range(2))
    real = {"real": True} if name == "fvd" else None
    parts = []
    for clip in clips[::-1]:  # measured in another order, as by another process
        parts.append(increment(summed, lambda probe, clip=clip: update(probe, clip[0], **given(clip))))
    for clip in clips if real else []:
        update(plain, clip[0], **real)
        add_increment(summed, increment(summed, lambda probe, clip=clip: update(probe, clip[0], **real)))
    for clip, part in zip(clips, parts[::-1], strict=True):
        update(plain, clip[0], **given(clip))
        add_increment(summed, part)
    expected, found = plain.compute(), summed.compute()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key].nan_to_num(7), found[key].nan_to_num(7)) for key in expected)
    columns = summed.per_clip()
    assert all(torch.equal(value.nan_to_num(7), columns[key].nan_to_num(7)) for key, value in plain.per_clip().items())


def test_taking_an_increment_leaves_the_metric_as_it_was(clips):
    (metric,) = build_metrics({"flicker": METRICS["flicker"]})[0].values()
    update(metric, clips[0][0])
    before = metric.compute()
    increment(metric, lambda probe: update(probe, clips[1][0]))
    assert metric.compute() == before
    assert len(metric.per_clip()["temporal_flickering"]) == 1


def test_an_increment_of_a_distance_holds_rows_and_no_matrix(clips):
    (metric,) = build_metrics({"fvd": METRICS["fvd"]})[0].values()
    part = increment(metric, lambda probe: update(probe, clips[0][0]))
    assert sum(value.numel() for value in part.values()) < 100


def test_metrics_that_look_for_faces_say_that_they_lack_an_analyzer():
    _, disabled = build_metrics({"face_copy": METRICS["face_copy"] | {"analyzer": None}})
    assert "analyzer=insightface" in disabled["face_copy"]
