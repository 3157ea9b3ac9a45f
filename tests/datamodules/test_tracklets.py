"""Tracked boxes of a clip in slots, and boxes drawn into it."""

import numpy as np
import pytest
import torch

from likeness.datamodules.box_files import parse_boxes
from likeness.datamodules.conditions import Clip, FirstFrame, SampleRequest, check_boxes
from likeness.datamodules.drawing import LINE_WIDTH, overlaid
from likeness.datamodules.frames import ChosenFrames
from likeness.datamodules.images import ShorterSideAndCrop, Stretch
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.tracklets import COLOURS, Tracklets

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


def test_a_sample_without_tracks_is_skipped_and_one_whose_objects_are_gone_is_not():
    with pytest.raises(BadSample, match="no tracks: its json has no tracks"):
        Tracklets().load(Sample("k", "s", {}, {}), clip_of())
    assert not slots([])["track_masks"].any()


@pytest.mark.parametrize("tracks", ["x", [3], [{"id": "1", "boxes": [[0, 1]]}], {"id": 1}])
def test_broken_tracks_skip_the_sample(tracks):
    with pytest.raises(BadSample, match="broken json member"):
        slots(tracks)


@pytest.mark.parametrize(
    "settings",
    [
        *({"num_slots": 0}, {"num_slots": 30}, {"order": "x"}, {"compat": "x"}, {"edge": "x"}, {"box_dim": 5}),
        *({"soft_box_probability": 2, "box_dim": 8}, {"soft_box_probability": 0.5}),
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Tracklets(**settings)


def wanted(num_frames=3, **entry):
    entry = {"coordinates": "unit", "objects": [{"id": "a", "boxes": [[0, 0.0, 0.0, 0.5, 0.5]], **entry}]}
    return parse_boxes(entry | {"outside": "cut"}, "boxes.json").on_picture(1, 1).at(num_frames)


def request(boxes=None, num_frames=3, **settings) -> SampleRequest:
    return SampleRequest("", [], boxes, num_frames, **settings)


def test_a_request_fills_the_slots_in_its_order():
    boxes = wanted(boxes=[[1, 0.0, 0.0, 0.5, 0.5], [2, 0.5, 0.5, 1.0, 1.0]])
    tensors = Tracklets(num_slots=3).from_request(request(boxes))
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "boxes": (3, 3, 4),
        "track_masks": (3, 3),
        "track_ids": (3,),
        "track_colours": (3, 3),
    }
    assert tensors["track_masks"].tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert tensors["track_ids"].tolist() == [0, -1, -1]
    np.testing.assert_allclose(tensors["boxes"][2, 0], [0.5, 0.5, 1, 1])
    np.testing.assert_allclose(tensors["track_colours"] * 255, COLOURS[:3], atol=1e-4)


def test_a_request_has_the_tensors_of_a_loader():
    for box_dim in (7, 8):
        loaded = slots([track("1", range(6))], box_dim=box_dim)
        for boxes in (None, wanted()):
            made = Tracklets(num_slots=4, box_dim=box_dim).from_request(request(boxes))
            assert {name: (value.shape, value.dtype) for name, value in made.items()} == {
                name: (value.shape, value.dtype) for name, value in loaded.items()
            }


def test_without_boxes_a_request_has_no_object():
    tensors = Tracklets(num_slots=2).from_request(request())
    assert tensors["track_masks"].sum() == 0 and tensors["boxes"].sum() == 0


def test_more_objects_than_slots_and_other_lengths_are_refused():
    many = [{"id": str(number), "boxes": [[0, 0, 0, 1, 1]]} for number in range(3)]
    boxes = parse_boxes({"coordinates": "unit", "objects": many}, "boxes.json").on_picture(1, 1).at(3)
    with pytest.raises(ValueError, match=r"boxes\.json: 3 objects, and the model of ckpt has room for 2 .*num_slots"):
        Tracklets(num_slots=2).from_request(request(boxes))
    with pytest.raises(ValueError, match=r"boxes\.json: boxes for 3 frames, and the clip has 5"):
        Tracklets(num_slots=3).from_request(request(boxes, num_frames=5))


def test_boxes_for_a_model_that_follows_none_are_refused():
    with pytest.raises(ValueError, match=r"boxes\.json: the model of ckpt follows no boxes.*\(first_frame\)"):
        check_boxes({"first_frame": FirstFrame(height=8, width=8)}, [wanted()])
    check_boxes({"tracklets": Tracklets()}, [wanted()])


def test_soft_boxes_reach_beyond_their_object_and_say_so():
    tracks = [track(str(number), range(6)) for number in range(20)]
    plain = slots(tracks, num_slots=20)
    soft = slots(tracks, num_slots=20, box_dim=8, soft_box_probability=0.8)
    hard = soft["box_hardness"] == 1
    assert 0.1 < hard.float().mean() < 0.35
    assert torch.equal(soft["boxes"][hard], plain["boxes"][hard])
    grown = (soft["boxes"] - plain["boxes"])[~hard] * torch.tensor([-1, -1, 1, 1])
    assert (grown > 0).all() and (soft["boxes"] >= 0).all() and (soft["boxes"] <= 1).all()
    assert 0.08 < grown.mean() < 0.14  # 1/9 in the mean, less what the edges cut off
    assert (slots(tracks, num_slots=20, box_dim=8)["box_hardness"] == 1).all()
    assert torch.equal(soft["object_boxes"], plain["boxes"])  # what metrics and overlays compare with
    again = slots(tracks, num_slots=20, box_dim=8, soft_box_probability=0.8)
    assert torch.equal(again["boxes"], soft["boxes"])


def test_drawn_is_where_the_object_is_also_where_its_box_is_soft():
    settings = {"draw": True, "box_dim": 8}
    soft = slots([track("1", range(6))], soft_box_probability=1.0, **settings)
    hard = slots([track("1", range(6))], **settings)
    where = [(one["drawn_pixel_values"] != 128).any(dim=0) for one in (soft, hard)]
    assert torch.equal(*where)


def test_between_key_boxes_of_a_request_boxes_are_soft():
    boxes = wanted(boxes=[[0, 0.2, 0.2, 0.5, 0.5], [2, 0.2, 0.2, 0.5, 0.5]])
    condition = Tracklets(num_slots=2, box_dim=8)
    tensors = condition.from_request(request(boxes, seed=1))
    assert tensors["box_hardness"][:, 0].tolist() == [1, 0, 1]
    first, between, last = tensors["boxes"][:, 0]
    assert torch.equal(first, last)
    assert ((between - first) * torch.tensor([-1, -1, 1, 1]) > 0).all()
    assert torch.equal(tensors["boxes"], condition.from_request(request(boxes, seed=1))["boxes"])
    assert not torch.equal(tensors["boxes"], condition.from_request(request(boxes, seed=2))["boxes"])
    assert torch.equal(Tracklets(num_slots=2).from_request(request(boxes))["boxes"][1, 0], first)


def test_what_the_crop_left_out_can_have_a_line_on_the_border():
    crop = ShorterSideAndCrop(flip_probability=0.0)
    tracks = [track("1", range(6), (0.0, 0.25, 0.2, 0.75)), track("2", range(6), (0.5, 0.5, 0.5, 0.6))]
    tensors = slots(tracks, clip_of(transform=crop, size=(HEIGHT, HEIGHT)), edge="border", draw=True)
    assert tensors["track_ids"].tolist() == [1, -1, -1, -1]  # the second is no box anywhere
    np.testing.assert_allclose(tensors["boxes"][1, 0], [0, 0.25, 0, 0.75])
    assert (tensors["drawn_pixel_values"] == 128).all()
    leaving = wanted(boxes=[[0, 0.8, 0.2, 0.9, 0.4], [2, 1.2, 0.2, 1.3, 0.4]])
    boxes, masks = (Tracklets(edge="border").from_request(request(leaving))[name] for name in ("boxes", "track_masks"))
    np.testing.assert_allclose(boxes[:, 0], [[0.8, 0.2, 0.9, 0.4], [1, 0.2, 1, 0.4], [1, 0.2, 1, 0.4]])
    assert masks[:, 0].tolist() == [1, 1, 1]
    assert Tracklets().from_request(request(leaving))["track_masks"][:, 0].tolist() == [1, 0, 0]


def test_overlays_show_the_boxes_in_their_colours():
    frames = np.full((3, 320, 400, 3), 128, np.uint8)
    shown = overlaid(frames, wanted(colour="red", ends="hold", boxes=[[1, 0.25, 0.25, 0.75, 0.75]]))
    assert (frames == 128).all()
    assert (shown[:, 80:84, 100:301] == [255, 0, 0]).all()
    assert (shown[:, 85:230, 105:290] == 128).all()
    assert (overlaid(frames[:, ::5, ::5], wanted(colour="red"))[0, 0, :41] == [255, 0, 0]).all()
