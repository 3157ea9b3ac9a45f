"""What goes with the face of a clip: masks, boxes and keypoints follow the pixels."""

import numpy as np
import pytest

from likeness.datamodules.conditions import Clip
from likeness.datamodules.faces import FaceBoxes, FaceMask, Keypoints
from likeness.datamodules.frames import ChosenFrames
from likeness.datamodules.images import ResizeAndCrop, ShorterSideAndCrop
from likeness.datamodules.masks import MASKS, decode_masks, encode_masks
from likeness.datamodules.samples import BadSample, Sample

NUM_FRAMES, HEIGHT, WIDTH = 4, 32, 64
SHAPE = (NUM_FRAMES, HEIGHT, WIDTH)
RNG = np.random.default_rng(0)


def masks_of_two() -> np.ndarray:
    """Two squares, of persons 1 and 2, that move one pixel a frame."""
    masks = np.zeros(SHAPE, np.uint8)
    for frame in range(NUM_FRAMES):
        masks[frame, 8:16, 20 + frame : 28 + frame] = 1
        masks[frame, 8:16, 40 + frame : 48 + frame] = 2
    return masks


def sample_of(**changes) -> Sample:
    boxes = [[f, (20 + f) / WIDTH, 8 / HEIGHT, (28 + f) / WIDTH, 16 / HEIGHT, 0.9] for f in range(NUM_FRAMES - 1)]
    points = [0.3, 0.2, 0.5, 0.2, 0.4, 0.3, 0.3, 0.4, 0.5, 0.4]
    identities = [{"id": "a", "boxes": boxes, "keypoints": [[2, *points]]}, {"id": "b", "head_boxes": boxes}]
    info = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH, "identities": identities, **changes}
    return Sample("k", "s", {MASKS: encode_masks({"face": masks_of_two()}, SHAPE)}, info)


def clip_of(indices=(0, 2), transform=None, size=(16, 16), **labels) -> Clip:
    """A clip whose pixels are the mask of person 1, so that they can be compared with what is loaded."""
    frames = ((masks_of_two()[list(indices)] == 1) * np.uint8(255))[..., None].repeat(3, axis=-1)
    transform = transform or ResizeAndCrop()
    return Clip(ChosenFrames(list(indices), labels), lambda: transform(frames, *size, np.random.default_rng(0)))


def finished(condition, sample, clip):
    return condition.finish(condition.load(sample, clip), RNG)


@pytest.mark.parametrize("transform", [ResizeAndCrop(), ShorterSideAndCrop(flip_probability=1.0)])
@pytest.mark.parametrize("size", [(16, 16), (32, 32), (16, 32)])
def test_masks_follow_the_pixels(transform, size):
    clip = clip_of(transform=transform, size=size)
    mask = finished(FaceMask(), sample_of(), clip)["face_mask"]
    assert mask.shape == (1, 2, *size)
    bright = clip.frames[:1] >= 128
    assert mask.sum() > 10
    assert (mask.bool() != bright).float().mean() < 0.03  # the pixels may have been resized without antialiasing


def test_the_mask_is_that_of_the_chosen_person():
    first = finished(FaceMask(), sample_of(), clip_of(size=SHAPE[1:]))["face_mask"]
    second = finished(FaceMask(), sample_of(), clip_of(size=SHAPE[1:], identity=1))["face_mask"]
    assert first[0, 1].nonzero()[:, 1].tolist() == [*range(22, 30)] * 8
    assert second[0, 1].nonzero()[:, 1].tolist() == [*range(42, 50)] * 8


def test_clips_without_masks_are_skipped_or_have_empty_ones():
    bare = Sample("k", "s", {}, sample_of().info)
    with pytest.raises(BadSample, match="no masks"):
        FaceMask().load(bare, clip_of())
    assert finished(FaceMask(without_mask="empty"), bare, clip_of())["face_mask"].sum() == 0
    with pytest.raises(BadSample, match="no masks of the kind head"):
        FaceMask(kind="head").load(sample_of(), clip_of())


def test_boxes_say_where_the_face_is_and_where_there_is_none():
    clip = clip_of(indices=(0, 2, 3), size=(32, 32))
    tensors = finished(FaceBoxes(), sample_of(), clip)
    assert tensors["face_boxes_present"].tolist() == [True, True, False]
    rows = clip.frames[0, 1].nonzero()
    edges = (tensors["face_boxes"][1] * 32).round().int().tolist()
    assert edges == [int(rows[:, 1].min()), 8, int(rows[:, 1].max()) + 1, 16]
    assert tensors["face_boxes"][2].sum() == 0
    head = finished(FaceBoxes(key="head_boxes"), sample_of(), clip_of(identity=1))
    assert head["face_boxes_present"].all()


def test_a_face_that_the_crop_cuts_off_is_absent():
    info = sample_of().info
    info["identities"][0]["boxes"] = [[0, 0.0, 0.2, 0.1, 0.4, 0.9]]
    tensors = finished(FaceBoxes(), Sample("k", "s", {}, info), clip_of(size=(32, 32)))
    assert not tensors["face_boxes_present"].any()


def test_keypoints_of_a_mirrored_clip_swap_left_and_right():
    plain = finished(Keypoints(), sample_of(), clip_of(size=(32, 32)))
    flipped_clip = clip_of(transform=ShorterSideAndCrop(flip_probability=1.0), size=(32, 32))
    flipped = finished(Keypoints(), sample_of(), flipped_clip)
    assert plain["face_keypoints_present"].tolist() == [False, True]
    for points in (plain["face_keypoints"][1], flipped["face_keypoints"][1]):
        assert points[0, 0] < points[1, 0]
        assert points[3, 0] < points[4, 0]
    np.testing.assert_allclose(flipped["face_keypoints"][1, 2, 0], 1 - plain["face_keypoints"][1, 2, 0], atol=0.02)


@pytest.mark.parametrize("rows", ["text", [[0, "x", 1, 1, 1]], [[0, 1]], [[0, float("nan"), 0, 1, 1]], [3], [[]]])
def test_broken_rows_skip_the_sample(rows):
    info = sample_of().info
    info["identities"][0]["boxes"] = rows
    with pytest.raises(BadSample, match="broken json member"):
        FaceBoxes().load(Sample("k", "s", {}, info), clip_of())


def test_masks_come_back_in_any_order():
    masks = masks_of_two()
    data = encode_masks({"face": masks, "head": masks * 0}, SHAPE)
    np.testing.assert_array_equal(decode_masks(data, "face", [3, 0, 3], SHAPE), masks[[3, 0, 3]])
    np.testing.assert_array_equal(np.load(__import__("io").BytesIO(data))["face"], masks)
    assert encode_masks({"face": masks}, SHAPE) == encode_masks({"face": masks}, SHAPE)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "other shape", "object array"])
def test_broken_masks_skip_the_sample_before_memory_is_taken(damage):
    import io

    data = encode_masks({"face": masks_of_two()}, SHAPE)
    shape = SHAPE
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "garbage":
        data = b"garbage"
    elif damage == "other shape":
        shape = (10**6, 10**4, 10**4)
    else:
        stream = io.BytesIO()
        np.savez(stream, face=np.array([{"a": 1}], dtype=object))
        data = stream.getvalue()
    with pytest.raises(BadSample, match="broken masks"):
        decode_masks(data, "face", [0], shape)
