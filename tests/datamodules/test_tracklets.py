"""Tracked boxes of a clip in slots, and boxes drawn into it."""

import numpy as np
import pytest
import torch

from likeness.datamodules.conditions import Clip
from likeness.datamodules.frames import ChosenFrames
from likeness.datamodules.images import ShorterSideAndCrop, Stretch
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.tracklets import COLOURS, LINE_WIDTH, Tracklets

HEIGHT, WIDTH = 40, 80


def track(identity, frames, box=(0.25, 0.25, 0.5, 0.75), **flags):
    return {"id": identity, "label": "thing", "boxes": [[frame, *box, 1.0] for frame in frames], **flags}


def clip_of(indices=(0, 2, 4), transform=None, size=(HEIGHT, WIDTH)) -> Clip:
    frames = np.full((len(indices), HEIGHT, WIDTH, 3), 128, np.uint8)
    transform = transform or Stretch()
    return Clip(ChosenFrames(list(indices)), lambda: transform(frames, *size, np.random.default_rng(0)))


def slots(tracks, clip=None, seed=0, **settings):
    condition = Tracklets(**{"num_slots": 4, **settings})
    sample = Sample("k", "s", {}, {"tracks": tracks})
    return condition.finish(condition.load(sample, clip or clip_of()), np.random.default_rng(seed))


def test_objects_fill_slots_by_number_and_keep_them():
    tensors = slots([track("10", range(6)), track("9", [4]), track("8", [1, 3])])
    assert tensors["track_ids"].tolist() == [9, 10, -1, -1]  # 8 is in none of the clip's frames
    assert tensors["track_masks"].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_allclose(tensors["boxes"][2, 0], [0.25, 0.25, 0.5, 0.75])
    assert tensors["boxes"][0, 0].sum() == 0


def test_the_longest_come_first_where_there_are_too_many():
    tracks = [track(str(number), range(number)) for number in range(1, 6)]
    assert slots(tracks, num_slots=2)["track_ids"].tolist() == [1, 2]
    assert slots(tracks, num_slots=2, order="by_length")["track_ids"].tolist() == [5, 3]


def test_names_are_numbered_in_order():
    assert slots([track("b", [0]), track("a", [0]), track("7", [0])])["track_ids"].tolist() == [0, 1, 2, -1]


def test_crowds_and_occluded_boxes_can_be_left_out():
    tracks = [track("1", range(5), crowd=[0], occluded=[2])]
    assert slots(tracks)["track_masks"][:, 0].tolist() == [1, 1, 1]
    assert slots(tracks, keep_crowds=False)["track_masks"][:, 0].tolist() == [0, 1, 1]
    assert slots(tracks, keep_crowds=False, keep_occluded=False)["track_masks"][:, 0].tolist() == [0, 0, 1]


def test_boxes_follow_the_crop_and_those_outside_are_absent():
    crop = ShorterSideAndCrop(flip_probability=1.0)
    tracks = [track("1", [0], (0.25, 0.0, 0.5, 1.0)), track("2", [0], (0.0, 0.0, 0.2, 1.0))]
    tensors = slots(tracks, clip_of(transform=crop, size=(HEIGHT, HEIGHT)))
    np.testing.assert_allclose(tensors["boxes"][0, 0], [0.5, 0.0, 1.0, 1.0], atol=1e-6)
    assert tensors["track_ids"].tolist() == [1, -1, -1, -1]


def test_colours_change_with_the_epoch_and_differ_between_slots():
    first, again, other = (slots([track("1", [0])], seed=seed)["track_colours"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row) for row in (first * 255).round().int().tolist()}) == 4
    known = {tuple(row) for row in COLOURS.tolist()}
    assert {tuple(row) for row in (first * 255).round().int().tolist()} <= known


def test_boxes_are_drawn_in_their_colour_but_not_into_the_first_frame():
    tensors = slots([track("1", range(6))], draw=True)
    drawn, colour = tensors["drawn_pixel_values"], (tensors["track_colours"][0] * 255).round().byte()
    assert drawn.shape == (3, 3, HEIGHT, WIDTH)
    assert drawn.dtype == torch.uint8
    assert (drawn[:, 0] == 128).all()
    changed = (drawn[:, 1] != 128).any(dim=0)
    assert changed[10 : 10 + LINE_WIDTH, 20:41].all()
    assert not changed[10 + LINE_WIDTH : 30 - LINE_WIDTH, 20 + LINE_WIDTH : 40 - LINE_WIDTH].any()
    assert (drawn[:, 1][:, changed] == colour[:, None]).all()
    assert "drawn_pixel_values" not in slots([track("1", range(6))])


def test_empty_slots_are_drawn_only_as_in_the_original():
    corner = (slice(None), 1, 0, 0)
    assert (slots([], draw=True)["drawn_pixel_values"][corner] == 128).all()
    assert (slots([], draw=True, compat="original")["drawn_pixel_values"][corner] != 128).any()


@pytest.mark.parametrize("tracks", ["x", [3], [{"id": "1", "boxes": [[0, 1]]}], {"id": 1}])
def test_broken_tracks_skip_the_sample(tracks):
    with pytest.raises(BadSample, match="broken json member"):
        slots(tracks)


@pytest.mark.parametrize("settings", [{"num_slots": 0}, {"num_slots": 30}, {"order": "x"}, {"compat": "x"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Tracklets(**settings)
