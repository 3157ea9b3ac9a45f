"""Overlap of found and given boxes, and average precision, on cases whose values can be counted by hand."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from likeness.datamodules.box_files import parse_boxes
from likeness.evaluation.clips import find_clips
from likeness.metrics.boxes import BoxAP, BoxIoU, average_precision, best_overlaps, hits_of, overlap
from likeness.models.identity.analyzer import Face

from ..conftest import clip_sample, write_mp4, write_picture, write_shards

LEFT, RIGHT, TOP = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5)


@dataclass
class Finder:
    """An analyzer that finds (box, score) pairs in a frame, by the value of its pixels."""

    found: dict = field(default_factory=dict)
    name = "finder"
    embedding_dim = 1

    def __call__(self, image):
        height, width = image.shape[:2]
        scale = np.array([width, height, width, height])
        return [
            Face(np.array(box) * scale, np.zeros((5, 2)), score, np.ones(1))
            for box, score in self.found[image[0, 0, 0]]
        ]


def clip(*values: int) -> np.ndarray:
    return np.stack([np.full((20, 40, 3), value, np.uint8) for value in values])


def given(num_frames: int, *rows_of_objects):
    objects = [
        {"id": str(number), "between": "absent", "boxes": [[frame, *box] for frame, box in rows]}
        for number, rows in enumerate(rows_of_objects)
    ]
    return parse_boxes({"coordinates": "unit", "objects": objects}, "boxes").on_picture(1, 1).at(num_frames)


def throughout(num_frames: int, *boxes):
    return given(num_frames, *([(frame, box) for frame in range(num_frames)] for box in boxes))


def test_overlap_is_intersection_over_union():
    boxes = np.array([LEFT, TOP])
    np.testing.assert_allclose(overlap(boxes, boxes), [[1, 1 / 3], [1 / 3, 1]])
    np.testing.assert_allclose(overlap(boxes[:1], np.array([RIGHT])), [[0]])
    assert overlap(boxes, np.zeros((0, 4))).shape == (2, 0)


def test_boxes_are_matched_one_to_one_so_that_the_sum_is_greatest():
    np.testing.assert_allclose(best_overlaps(np.array([[0.6, 0.5], [0.5, 0.0]])), [0.5, 0.5])
    np.testing.assert_allclose(best_overlaps(np.array([[0.6], [0.5]])), [0.6, 0.0])
    np.testing.assert_allclose(best_overlaps(np.zeros((2, 0))), [0, 0])


def test_iou_of_a_clip_is_the_mean_over_its_given_boxes_after_the_first_frame():
    metric = BoxIoU(analyzer=Finder({0: [], 1: [(LEFT, 0.9)], 2: [(TOP, 0.9), (RIGHT, 0.8)]}))
    metric.update(clip(0, 1, 2), throughout(3, LEFT))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == pytest.approx(
        {"box_iou": (1 + 1 / 3) / 2, "box_iou_last": 1 / 3, "box_found": 1.0, "box_success": 0.5}, abs=1e-6
    )
    whole = BoxIoU(analyzer=metric.analyzer, skip_frames=0)
    whole.update(clip(0, 1, 2), throughout(3, LEFT))
    assert whole.compute()["box_iou"].item() == pytest.approx((1 + 1 / 3) / 3, abs=1e-6)


def test_clips_without_a_given_box_have_no_value_and_a_note():
    metric = BoxIoU(analyzer=Finder({0: [(LEFT, 0.9)]}))
    metric.update(clip(0, 0), given(2, [(0, LEFT)]))
    metric.update(clip(0, 0), given(2, [(1, LEFT)]))
    assert metric.compute()["box_iou"].item() == 1
    assert "1 of 2 clips are left out, which have no given box" in metric.notes()[0]


def test_boxes_of_another_length_are_refused():
    for metric in (BoxIoU(analyzer=Finder({0: []})), BoxAP(analyzer=Finder({0: []}))):
        with pytest.raises(ValueError, match="boxes: boxes for 3 frames, and the clip has 2"):
            metric.update(clip(0, 0), throughout(3, LEFT))


def test_what_leaves_the_frame_is_compared_inside_of_it():
    entry = {"coordinates": "unit", "outside": "cut", "objects": [{"boxes": [[0, -0.5, 0, 0.5, 1]], "ends": "hold"}]}
    boxes = parse_boxes(entry, "boxes").on_picture(1, 1).at(2)
    metric = BoxIoU(analyzer=Finder({0: [(LEFT, 0.9)]}))
    metric.update(clip(0, 0), boxes)
    assert metric.compute()["box_iou"].item() == 1


def test_average_precision_of_a_list_counted_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.7])
    hits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    # Right, wrong, right of two: precision 1 up to recall 0.5 (51 of 101 recalls), 2/3 up to 1.
    expected = [(51 + 50 * 2 / 3) / 101, 1.0, 0.0]
    torch.testing.assert_close(average_precision(scores, hits, 2), torch.tensor(expected, dtype=torch.float64))
    assert average_precision(scores[:0], hits[:0], 2).tolist() == [0, 0, 0]
    assert average_precision(scores, hits, 0).isnan().all()


def test_boxes_of_any_detector_can_be_counted_without_an_analyzer():
    metric = BoxAP()
    metric.add_found([np.array([[0.1, 0.1, 0.5, 0.5]])], [(np.array([[0.1, 0.1, 0.5, 0.5]]), np.array([0.9]))])
    assert metric.compute()["box_ap"] == 1
    with pytest.raises(ValueError, match="BoxAP has no analyzer"):
        metric.update(np.zeros((2, 8, 8, 3), np.uint8), None)


def test_equal_scores_count_together_in_any_order():
    scores, hits = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([[1.0], [0.0], [1.0]])
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        assert average_precision(scores, hits[list(order)], 2).item() == pytest.approx(2 / 3)


def test_a_given_box_is_taken_once_by_the_best_score():
    hits = hits_of(np.array([[0.62, 0.97]]), np.array([0.9, 0.8]))
    assert hits[0].tolist() == [1, 1, 1] + [0] * 7
    assert hits[1].tolist() == [0, 0, 0] + [1] * 7


def test_precision_is_that_of_the_last_frame_or_of_all():
    finder = Finder({0: [(LEFT, 0.9)], 1: [(RIGHT, 0.9)], 2: [(LEFT, 0.8), (RIGHT, 0.7)]})
    values = {}
    for frames in ("last", "all"):
        metric = BoxAP(analyzer=finder, frames=frames)
        metric.update(clip(0, 1, 2), throughout(3, LEFT))
        metric.update(clip(0, 0), throughout(2, LEFT))
        values[frames] = metric.compute()["box_ap"].item()
    assert values["last"] == pytest.approx(1.0)
    # 0.9 twice, one of them right; 0.8 right; 0.7 wrong: precision 2/3 up to recall 2/3, and that is all, of three.
    both = BoxAP(analyzer=finder, frames="all")
    both.update(clip(0, 1, 2), throughout(3, LEFT))
    both.update(clip(0, 0), throughout(2, LEFT))
    assert values["all"] == pytest.approx(67 / 101 * 2 / 3)
    np.testing.assert_allclose(both.per_clip()["box_ap_of_clip"], [(51 * 0.5) / 101, 1.0])


def test_thresholds_are_those_of_coco():
    shifted = (0.0, 0.0, 0.5, 0.72)  # IoU 0.72 with the left half: right at 0.5 to 0.7
    metric = BoxAP(analyzer=Finder({0: [(shifted, 0.9)]}))
    metric.update(clip(0, 0), throughout(2, LEFT))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == pytest.approx({"box_ap": 0.5, "box_ap50": 1.0, "box_ap75": 0.0})


@pytest.mark.parametrize("settings", [{"frames": "first"}, {"skip_frames": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        BoxAP(analyzer=Finder(), **settings)


@pytest.fixture(scope="module")
def walk():
    """A clip of a drawn person, and boxes of the face."""
    from likeness.toy.clips import draw_clip
    from likeness.toy.people import make_person

    person = make_person(np.random.default_rng(3))
    drawn = draw_clip([person], np.random.default_rng(0), num_frames=5, height=64, width=64, fps=8)
    rows = [[frame, *(box[0] / 64).round(4).tolist()] for frame, box in enumerate(drawn.boxes)]
    return drawn.frames, rows


def test_moving_the_boxes_away_lowers_the_values(walk):
    from likeness.toy.analyzer import ToyFaceAnalyzer

    frames, rows = walk
    values = []
    for shift in (0.0, 0.05, 0.4):
        moved = [[row[0], row[1] + shift, row[2], row[3] + shift, row[4]] for row in rows]
        entry = {"coordinates": "unit", "outside": "cut", "objects": [{"boxes": moved}]}
        metric = BoxIoU(analyzer=ToyFaceAnalyzer())
        metric.update(frames, parse_boxes(entry, "boxes").on_picture(1, 1).at(5))
        values.append(metric.compute()["box_iou"].item())
    assert values[0] > 0.8 > values[1] > values[2]


def test_a_sampled_folder_and_shards_are_measured_with_their_boxes(walk, tmp_path, capfd):
    from ..commands import call

    frames, rows = walk
    entry = {"coordinates": "unit", "objects": [{"boxes": rows}]}
    record = parse_boxes(entry, "boxes").on_picture(1, 1).at(5).record()
    for number in range(2):
        write_mp4(tmp_path / "s" / f"clips/{number}.mp4", frames)
    write_mp4(tmp_path / "s" / "boxes/0.mp4", frames)
    common = {"prompt": "", "references": [], "num_frames": 5}
    lines = [
        {"video": "clips/0.mp4", **common, "boxes": record, "overlay": "boxes/0.mp4"},
        {"video": "clips/1.mp4", **common, "boxes": None},
    ]
    (tmp_path / "s" / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = call(capfd, "evaluate", f"videos={tmp_path / 's'}", "references=none", "metrics=boxes")
    assert outcome.code == 0, outcome.error
    result = json.loads((tmp_path / "s" / "evaluation" / "metrics.json").read_text())
    assert result["metrics"]["box_iou"] > 0.8 and result["metrics"]["box_ap50"] == 1
    assert result["clips"][0]["box_iou"] == result["metrics"]["box_iou"] and "box_iou" not in result["clips"][1]
    assert any("it has no boxes of where things were to be" in note for note in result["notes"])
    picture = write_picture(tmp_path / "someone.png")
    assert [clip.name for clip in find_clips(str(tmp_path / "s"), str(picture))] == ["clips/0.mp4", "clips/1.mp4"]
    key, members = clip_sample("0", num_frames=5, height=64, width=64, tracks=[{"id": "a", "boxes": rows}])
    from likeness.media import encode_mp4

    members["mp4"] = encode_mp4(frames, 8)
    write_shards(tmp_path / "shards", [(key, members)])
    arguments = ["references=none", "metrics=boxes", f"output={tmp_path / 'e'}"]
    assert call(capfd, "evaluate", f"videos={tmp_path / 'shards'}", *arguments).code == 0
    shards = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert shards["metrics"]["box_iou"] == pytest.approx(result["metrics"]["box_iou"], abs=1e-6)
