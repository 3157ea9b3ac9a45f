"""Boxes that users write: what the files of the documentation say, and what is said of wrong ones."""

import json
import re

import numpy as np
import pytest

from likeness.datamodules.box_files import parse_boxes, read_boxes

from ..conftest import REPOSITORY

EXAMPLES = REPOSITORY / "docs" / "examples"
BOX = [0.1, 0.2, 0.3, 0.4]


def tracked(text: str, tmp_path, name: str = "boxes.csv", num_frames: int = 4, size=(100, 200)):
    (tmp_path / name).write_text(text)
    return read_boxes(tmp_path / name).on_picture(*size).at(num_frames)


def of_json(length: int = 14, **changes):
    entry = {"coordinates": "unit", "objects": [{"boxes": [[0, *BOX]]}], **changes}
    return parse_boxes(entry, "boxes.json").on_picture(100, 200).at(length)


def of_object(length: int = 14, **settings):
    return of_json(length, objects=[{"id": "a", **settings}])


def test_the_documented_example_says_what_the_page_says():
    found = read_boxes(EXAMPLES / "boxes.json").on_picture(320, 512).at(14)
    assert (found.ids, found.labels) == (("anna", "dog", "ball"), ("person", "", ""))
    anna, dog, ball = (found.boxes[:, slot] for slot in range(3))
    np.testing.assert_allclose(anna[[0, 13]], [[0.1, 0.2, 0.35, 0.9], [0.55, 0.2, 0.8, 0.9]])
    np.testing.assert_allclose(np.diff(anna[:, 0]), 0.45 / 13)
    assert np.flatnonzero(~found.present[:, 1]).tolist() == [6, 7, 8]
    np.testing.assert_allclose(dog[[0, 5, 9, 13]][:, 0], [0.6, 0.6, 0.2, 0.2])
    np.testing.assert_allclose(ball[-1] - ball[0], [0.4, 0, 0.4, 0], atol=1e-12)
    assert ball[:, 1].min() < 0.5 and found.present[:, 2].all()
    assert found.colours.tolist() == [[255, 0, 0], [220, 20, 60], [0, 170, 0]]  # the list's first for the dog
    assert np.flatnonzero(~found.soft[:, 0]).tolist() == [0, 13]
    assert np.flatnonzero(~found.soft[:, 2]).tolist() == [0]


def test_the_page_shows_the_file_that_is_tested():
    page = (REPOSITORY / "docs" / "boxes.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.S)
    assert shown == (EXAMPLES / "boxes.json").read_text()


def test_the_csv_example_says_the_same_of_anna():
    rows = read_boxes(EXAMPLES / "boxes.csv").on_picture(320, 512).at(14)
    entry = read_boxes(EXAMPLES / "boxes.json").on_picture(320, 512).at(14)
    np.testing.assert_allclose(rows.boxes[:, 0], entry.boxes[:, 0])
    assert rows.colours[0].tolist() == [255, 0, 0] and rows.labels[0] == "person"
    assert np.flatnonzero(rows.present[:, 1]).tolist() == [2, 3, 4, 5, 9]


def test_records_can_be_read_again():
    first = read_boxes(EXAMPLES / "boxes.json").on_picture(320, 512).at(14)
    again = parse_boxes(json.loads(json.dumps(first.record())), "record").on_picture(1, 1).at(14)
    np.testing.assert_allclose(again.boxes, first.boxes, atol=1e-6)
    for name in ("present", "soft", "colours"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.ids == first.ids


def test_boxes_keep_their_share_of_the_time_in_a_clip_of_another_length():
    rows = [[0, 0.0, 0.0, 0.1, 0.1], [4, 0.4, 0.0, 0.5, 0.1]]
    found = of_json(9, num_frames=5, objects=[{"boxes": rows}])
    np.testing.assert_allclose(found.boxes[:, 0, 0], np.arange(9) / 8 * 0.4)
    assert not found.soft[[0, 8]].any() and found.soft[1:8].all()
    dense = [[frame, frame / 10, 0.0, 0.5, 0.5] for frame in (0, 1, 3, 4)]
    found = of_json(9, num_frames=5, objects=[{"boxes": dense, "between": "absent"}])
    assert found.present[:, 0].tolist() == [True, True, True, False, False, False, True, True, True]
    assert not found.soft.any()
    assert of_json(1, num_frames=5, objects=[{"boxes": rows}]).boxes[0, 0, 0] in (0.0, 0.4)


def test_what_is_seen_for_a_moment_is_not_lost_between_two_frames():
    rows = [[4, *BOX]]
    found = of_json(9, num_frames=25, objects=[{"boxes": rows}])
    assert np.flatnonzero(found.present[:, 0]).tolist() == [1]
    np.testing.assert_allclose(found.boxes[1, 0], BOX)
    found = of_json(9, num_frames=25, objects=[{"boxes": [[5, *BOX], [20, *BOX]], "between": "absent"}])
    assert np.flatnonzero(found.present[:, 0]).tolist() == [2, 7]


def test_an_object_is_absent_beyond_its_boxes_or_held():
    rows = [[3, *BOX], [5, *BOX]]
    assert np.flatnonzero(of_object(8, boxes=rows).present[:, 0]).tolist() == [3, 4, 5]
    held = of_object(8, boxes=rows, ends="hold")
    assert held.present.all() and held.soft[:, 0].tolist() == [True, True, True, False, True, False, True, True]
    gone = of_object(8, boxes=[*rows, [7]], ends="hold")
    assert np.flatnonzero(gone.present[:, 0]).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_path_is_gone_along_at_constant_speed_until_the_object_is_gone():
    path = [[0, 0], [0.3, 0], [0.3, 0.1]]
    found = of_object(8, boxes=[[1, *BOX], [6]], path=path)
    assert np.flatnonzero(found.present[:, 0]).tolist() == [1, 2, 3, 4, 5]
    steps = np.abs(np.diff(found.boxes[1:6, 0], axis=0))
    np.testing.assert_allclose(steps[:, 0] + steps[:, 1], 0.1, atol=1e-12)


def test_pixels_are_of_the_picture_or_of_the_size_that_is_said():
    rows = [{"boxes": [[0, 20, 10, 40, 30]]}]
    np.testing.assert_allclose(of_json(coordinates="pixels", objects=rows).boxes[0, 0], [0.1, 0.1, 0.2, 0.3])
    found = of_json(coordinates="pixels", size=[400, 50], objects=rows)
    np.testing.assert_allclose(found.boxes[0, 0], [0.05, 0.2, 0.1, 0.6])


def test_mot_counts_from_one_and_its_gaps_are_absences(tmp_path):
    text = "1,7,20,10,20,20,1,1,1\n3,7,20,10,20,20,1,1,1\n2,8,190,0,20,50,1\n1,9,0,0,5,5,0\n"
    found = tracked(text, tmp_path, "gt.txt")
    assert found.ids == ("7", "8")
    assert found.present.T.tolist() == [[True, False, True, False], [False, True, False, False]]
    np.testing.assert_allclose(found.boxes[0, 0], [0.1, 0.1, 0.2, 0.3])
    assert found.boxes[1, 1, 2] > 1  # it leaves the picture


def test_csv_in_pixels(tmp_path):
    mark = "\ufeff"  # as spreadsheets write it
    found = tracked(f"{mark}frame,id,x1_px,y1_px,x2_px,y2_px\n0,a,20,10,40,30\n", tmp_path)
    np.testing.assert_allclose(found.boxes[0, 0], [0.1, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinates": None}, '"coordinates" must say unit .* or pixels, not None'),
        ({"size": [2, 3]}, '"size" has no meaning'),
        ({"coordinates": "pixels", "size": [2]}, '"size" .*expected 2 numbers'),
        ({"coordinates": "pixels", "size": [0, 2]}, "above 0"),
        ({"num_frames": 0}, '"num_frames" must be an integer above 0, not 0'),
        ({"object": []}, "'object' is unknown: did you mean objects"),
        ({"objects": []}, '"objects" must be a list of at least one'),
        ({"outside": "x"}, '"outside" must be refused or cut'),
        ({"objects": ["x"]}, "object '0': expected an object with id"),
        ({"objects": [{"boxes": [[0, *BOX]], "colour": [256, 0, 0]}]}, "colour is three integers from 0 to 255"),
        ({"objects": [{"boxes": [[0, *BOX]], "colour": "no"}]}, "colour is three integers .*'#rrggbb' or a name"),
        ({"objects": [{"id": "a", "boxes": [[0, *BOX]]}] * 2}, "objects 'a' and 'a' have the same id"),
        ({"objects": [{"boxes": [[0, *BOX]], "colour": "red"}] * 2}, "'0' and '1' have the same colour"),
        ({"objects": [{"id": [], "boxes": [[0, *BOX]]}]}, '"id" and "label" must be names'),
    ],
)
def test_what_is_wrong_with_a_file_is_named(changes, message):
    with pytest.raises(ValueError, match=rf"^boxes\.json.*{message}"):
        of_json(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, '"boxes" must be a list of rows'),
        ({"boxes": [[0, 0.3, 0.2, 0.3, 0.4]]}, r"frame 0: the box \[0.3, 0.2, 0.3, 0.4\] must have x1 < x2"),
        ({"boxes": [[0, 0.1, 0.2, 1.3, 0.4]]}, r"frame 0: the box .* leaves the picture, 0 to 1: .*\"cut\" allows"),
        ({"boxes": [[14, *BOX]]}, "frame 14 is none of the clip's 0 to 13"),
        ({"boxes": [[-1, *BOX]]}, "a frame is an integer from 0 on, not -1"),
        ({"boxes": [[0.5, *BOX]]}, "a frame is an integer from 0 on, not 0.5"),
        ({"boxes": [[1, *BOX], [1]]}, "object 'a' has two boxes in frame 1"),
        ({"boxes": [[1, *BOX, 1.0]]}, 'a row of "boxes" is'),
        ({"boxes": [[1, 0, 0, "x", 1]]}, "expected 4 numbers"),
        ({"boxes": [[1, 0, 0, float("nan"), 1]]}, "expected 4 numbers"),
        ({"boxes": [[1]]}, "object 'a' has no box"),
        ({"boxes": [[0, *BOX]], "between": "x"}, '"between" must be linear or absent'),
        ({"boxes": [[0, *BOX]], "ends": "x"}, '"ends" must be absent or hold'),
        ({"boxes": [[0, *BOX]], "path": [[0, 0]]}, '"path" must be a list of at least two points'),
        ({"boxes": [[0, *BOX], [2, *BOX]], "path": [[0, 0], [1, 1]]}, 'with "path", "boxes" holds one box'),
        ({"boxes": [[0, *BOX]], "colors": "red"}, "'colors' is unknown: did you mean colour"),
    ],
)
def test_what_is_wrong_with_an_object_is_named(settings, message):
    with pytest.raises(ValueError, match=rf"^boxes\.json, object.*'a'.*{message}"):
        of_object(**settings)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.csv", "frame,id,x1,y1,x2\n", "there is no column 'y2'"),
        ("b.csv", "frame,id,x1,y1,x2,y2,score\n", "column 'score' is unknown"),
        ("b.csv", "frame,id,x1,y1,x2,y2\n", "holds no box"),
        ("b.csv", "frame,id,x1,y1,x2,y2\n0,a,0,0,1\n", "line 2: it has more or fewer values"),
        ("b.csv", "frame,id,x1,y1,x2,y2\n0,a,0,0,1,1,1\n", "line 2: it has more or fewer values"),
        ("b.csv", "frame,id,x1,y1,x2,y2\n0,a,0,0,1,\n", "line 2: expected 4 numbers"),
        ("b.csv", "frame,id,x1,y1,x2,y2\n0,,0,0,1,1\n", "line 2: `id` is empty"),
        ("b.csv", "frame,id,x1,y1,x2,y2\nx,a,0,0,1,1\n", "line 2: a frame is an integer"),
        ("b.csv", "frame,id,x1,y1,x2,y2\n0,a,0,0,1,1\n0,a,0,0,1,1\n", "line 3: object 'a' has two boxes in frame 0"),
        ("b.csv", "frame,id,x1,y1,x2,y2,colour\n0,a,0,0,1,1,red\n1,a,0,0,1,1,blue\n", "several values of colour"),
        ("gt.txt", "1,1,2\n", "line 1: expected frame,id,left,top"),
        ("gt.txt", "0,1,2,2,2,2\n", "line 1: a frame is an integer from 1 on"),
        ("gt.txt", "1,1,2,2,0,2\n", "line 1, frame 0: the box .* must have x1 < x2"),
        ("b.json", "{", "is no JSON"),
        ("b.xml", "", "is not a file of .json, .csv or .txt"),
    ],
)
def test_wrong_lines_are_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*{message}"):
        tracked(text, tmp_path, name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"boxes=.*gone\.json cannot be read"):
        read_boxes(tmp_path / "gone.json")
