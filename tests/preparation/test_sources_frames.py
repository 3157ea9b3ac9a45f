"""Layouts of frames: folders of pictures, and tracked boxes in CocoVID, BDD100K and MOT files."""

import json

import numpy as np
import pytest
from PIL import Image

from likeness.datamodules.video import get_reader
from likeness.preparation.sources.bdd100k import BDD100K
from likeness.preparation.sources.coco_vid import CocoVid
from likeness.preparation.sources.frame_folders import FrameFolders
from likeness.preparation.sources.mot import Mot

from .sources import reasons, written

NUM_FRAMES, HEIGHT, WIDTH = 5, 40, 60


def write_frames(folder, names=None, height=HEIGHT, width=WIDTH):
    """Frames of one grey each, 10, 30, 50..., so that their order can be told."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f"{index}.png" for index in range(NUM_FRAMES)]
    for index, name in enumerate(names):
        Image.fromarray(np.full((height, width, 3), 10 + 20 * index, np.uint8)).save(folder / name)
    return folder


def greys(sample) -> list[int]:
    frames = get_reader("pyav").read(sample.members["mp4"], range(sample.info["num_frames"]))
    return [round(float(frame.mean()) / 20 - 0.5) for frame in frames]


def test_frames_become_a_clip_in_natural_order(tmp_path):
    write_frames(tmp_path / "data" / "a", ["f1.jpg", "f2.jpg", "f10.jpg", "f11.JPG"])
    (tmp_path / "data" / "a" / "notes.txt").write_text("not a frame")
    (tmp_path / "data" / "a" / ".hidden.png").write_text("not a frame")
    (tmp_path / "data" / "a.txt").write_text("a grey wall")
    (sample,), dropped = written(FrameFolders(folder=str(tmp_path / "data"), fps=5, min_frames=4), tmp_path / "shards")
    assert not dropped
    assert greys(sample) == [0, 1, 2, 3]
    info = sample.info
    assert [info[name] for name in ("fps", "num_frames", "height", "width")] == [5.0, 4, HEIGHT, WIDTH]
    assert info["caption"] == "a grey wall"
    probed = get_reader("pyav").probe(sample.members["mp4"])
    assert (probed.num_frames, probed.fps, probed.height, probed.width) == (4, 5.0, HEIGHT, WIDTH)


def test_frames_of_any_kind_become_rgb_and_keep_their_pixels(tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = Image.fromarray(np.stack([4 * x, 6 * y, 255 - 4 * x], axis=-1).astype(np.uint8))
    (tmp_path / "data" / "a").mkdir(parents=True)
    picture.save(tmp_path / "data" / "a" / "0.png")
    picture.convert("RGBA").save(tmp_path / "data" / "a" / "1.png")
    picture.convert("L").save(tmp_path / "data" / "a" / "2.png")
    (sample,), _ = written(FrameFolders(folder=str(tmp_path / "data"), fps=5, min_frames=1, crf=4), tmp_path / "shards")
    first, second, third = get_reader("pyav").read(sample.members["mp4"], [0, 1, 2]).astype(float)
    assert np.abs(first - np.asarray(picture)).mean() < 3
    assert np.abs(first - second).mean() < 1
    assert third.std(axis=-1).max() < 3


def test_folders_that_make_no_clip_are_dropped_with_the_reason(tmp_path):
    write_frames(tmp_path / "data" / "good")
    write_frames(tmp_path / "data" / "short", ["0.png"])
    write_frames(tmp_path / "data" / "torn")
    (tmp_path / "data" / "torn" / "2.png").write_bytes(b"garbage")
    write_frames(tmp_path / "data" / "uneven")
    write_frames(tmp_path / "data" / "uneven", ["9.png"], height=20)
    samples, dropped = written(FrameFolders(folder=str(tmp_path / "data"), fps=5, min_frames=5), tmp_path / "shards")
    assert len(samples) == 1
    assert reasons(dropped) == ["too short", "unreadable image", "frames of several sizes"]
    assert "2.png" in dropped[1].detail


def test_odd_sizes_lose_a_pixel(tmp_path):
    write_frames(tmp_path / "data" / "a", height=41, width=61)
    (sample,), _ = written(FrameFolders(folder=str(tmp_path / "data"), fps=5, min_frames=5), tmp_path / "shards")
    assert (sample.info["height"], sample.info["width"]) == (40, 60)


def test_a_rate_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"source\.fps=0"):
        FrameFolders(folder=str(tmp_path), fps=0)
    with pytest.raises(ValueError, match="holds no folder of frames"):
        list(FrameFolders(folder=str(tmp_path), fps=5))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"fps": 0}, r"source\.fps=0 must be above 0"), ({"crf": 99}, r"source\.crf=99 must lie in \[0, 51\]")],
)
def test_frames_that_cannot_be_encoded_as_asked_are_refused(tmp_path, setting, message):
    (tmp_path / "list.json").write_text("{}")
    folder, settings = str(tmp_path), {"fps": 5, **setting}
    for make in (
        lambda: FrameFolders(folder=folder, **settings),
        lambda: BDD100K(folder=folder, labels=folder, **settings),
        lambda: Mot(folder=folder, **settings),
        lambda: CocoVid(file=str(tmp_path / "list.json"), folder=folder, **settings),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_all_frames_belong_to_the_files_of_a_clip(tmp_path):
    folder = write_frames(tmp_path / "data" / "a")
    (clip,) = FrameFolders(folder=str(tmp_path / "data"), fps=5)
    assert clip.files() == (folder,)  # too few frames: the folder is all that can be named
    (clip,) = FrameFolders(folder=str(tmp_path / "data"), fps=5, min_frames=5)
    assert clip.files() == tuple(folder / f"{index}.png" for index in range(NUM_FRAMES))


# Tracked boxes


def write_coco(tmp_path, **changes):
    write_frames(tmp_path / "images" / "v1", [f"{index:05d}.jpg" for index in range(NUM_FRAMES)])
    images = [
        {"id": 100 + index, "video_id": 1, "frame_id": 4 - index, "file_name": f"v1/{4 - index:05d}.jpg"}
        for index in range(NUM_FRAMES)
    ]
    annotations = [
        {"image_id": image, "video_id": 1, "instance_id": 7, "category_id": 3, "bbox": [6, 4, 12, 20], **flags}
        for image, flags in ((104, {}), (103, {"iscrowd": 1}), (100, {"occluded": True}))
    ]
    content = {
        "videos": [{"id": 1, "name": "v1"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "person"}],
        **changes,
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return CocoVid(file=str(tmp_path / "coco.json"), folder=str(tmp_path / "images"), fps=6, min_frames=5)


def test_coco_vid_tracks_come_with_labels_and_flags(tmp_path):
    (sample,), dropped = written(write_coco(tmp_path), tmp_path / "shards")
    assert not dropped
    assert greys(sample) == [0, 1, 2, 3, 4]
    (track,) = sample.info["tracks"]
    assert (track["id"], track["label"], track["crowd"], track["occluded"]) == ("7", "person", [1], [4])
    assert [row[0] for row in track["boxes"]] == [0, 1, 4]
    np.testing.assert_allclose(track["boxes"][0][1:], [0.1, 0.1, 0.3, 0.6, 1.0], atol=1e-6)
    assert sample.info["fps"] == 6.0


@pytest.mark.parametrize("bbox", [[float("nan"), 0, 3, 3], [0, 0, 1e300, 3], [1, 2, 3], "box", [[1], 2, 3, 4]])
def test_absurd_boxes_drop_the_clip(tmp_path, bbox):
    annotation = {"image_id": 104, "video_id": 1, "instance_id": 7, "category_id": 3, "bbox": bbox}
    _, dropped = written(write_coco(tmp_path, annotations=[annotation]), tmp_path / "shards")
    assert reasons(dropped) == ["bad annotation"]
    assert "coco.json, video 0" in dropped[0].detail


def test_thin_boxes_and_those_outside_are_left_out(tmp_path):
    boxes = {104: [5, 5, 0.005, 9], 103: [70, 5, 9, 9], 102: [-6, -4, 12, 8], 101: [5, 5, 9, -9]}
    annotations = [
        {"image_id": image, "video_id": 1, "instance_id": 7, "category_id": 3, "bbox": bbox}
        for image, bbox in boxes.items()
    ]
    (sample,), _ = written(write_coco(tmp_path, annotations=annotations), tmp_path / "shards")
    assert sample.info["tracks"][0]["boxes"] == [[2, 0.0, 0.0, 0.1, 0.1, 1.0]]


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "", "v1/../../secret.jpg"])
def test_file_names_cannot_leave_the_folder(tmp_path, name):
    write_frames(tmp_path, ["secret.jpg"])
    images = [{"id": 104, "video_id": 1, "frame_id": 0, "file_name": name}]
    _, dropped = written(write_coco(tmp_path, images=images, annotations=[]), tmp_path / "shards")
    assert reasons(dropped) == ["bad entry"]


def test_one_bad_video_does_not_stop_the_listing(tmp_path):
    videos = [{"id": 2}, "video", {"name": "no id"}, {"id": 1, "name": "v1"}]
    samples, dropped = written(write_coco(tmp_path, videos=videos), tmp_path / "shards")
    assert (len(samples), reasons(dropped)) == (1, ["bad entry"] * 3)
    with pytest.raises(ValueError, match="the lists videos, images, annotations, categories"):
        list(write_coco(tmp_path, videos=None))


def write_bdd(tmp_path, frames=None, **settings):
    names = [f"b1-{index:07d}.jpg" for index in range(1, NUM_FRAMES + 1)]
    write_frames(tmp_path / "images" / "b1", names)
    labels = [
        {"id": "00091078", "category": "car", "box2d": {"x1": 6, "y1": 4, "x2": 18, "y2": 24}},
        {
            "id": "2",
            "category": "pedestrian",
            "attributes": {"occluded": True, "crowd": False},
            "box2d": {"x1": 0, "y1": 0, "x2": 6, "y2": 4},
        },
        {"id": "3", "category": "trailer", "box2d": {"x1": 0, "y1": 0, "x2": 6, "y2": 4}},
    ]
    frames = frames or [{"name": name, "frameIndex": index, "labels": labels} for index, name in enumerate(names)]
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "b1.json").write_text(json.dumps(frames))
    return BDD100K(folder=str(tmp_path / "images"), labels=str(tmp_path / "labels"), min_frames=5, **settings)


def test_bdd100k_tracks_are_found_by_the_names_of_frames(tmp_path):
    (sample,), dropped = written(write_bdd(tmp_path), tmp_path / "shards")
    assert not dropped
    car, pedestrian = sample.info["tracks"]
    assert (car["id"], car["label"], len(car["boxes"])) == ("00091078", "car", 5)
    assert car["boxes"][0] == [0, 0.1, 0.1, 0.3, 0.6, 1.0]
    assert pedestrian["occluded"] == [0, 1, 2, 3, 4]
    assert sample.info["fps"] == 5.0


def test_bdd100k_fields_may_have_other_names(tmp_path):
    frames = [{"index": 2, "objects": [{"track": 5, "type": "bus", "bbox": {"x1": 6, "y1": 4, "x2": 18, "y2": 24}}]}]
    fields = {"frame": "index", "labels": "objects", "id": "track", "category": "type", "box": "bbox"}
    (sample,), _ = written(write_bdd(tmp_path, frames, fields=fields), tmp_path / "shards")
    assert [(track["id"], track["label"], track["boxes"][0][0]) for track in sample.info["tracks"]] == [("5", "bus", 2)]
    with pytest.raises(ValueError, match=r"source\.fields names colour"):
        write_bdd(tmp_path, fields={"colour": "x"})


@pytest.mark.parametrize(
    "frames",
    [
        [{"frameIndex": -1, "labels": [{"id": 1, "box2d": {"x1": 0, "y1": 0, "x2": 5, "y2": 5}}]}],
        [{"frameIndex": 0, "labels": [{"id": 1, "box2d": {"x1": "left", "y1": 0, "x2": 5, "y2": 5}}]}],
        [{"frameIndex": 0, "labels": [{"id": 1, "box2d": {"x1": 0, "y1": 0, "x2": 5, "y2": 5}}] * 2}],
        [{"frameIndex": 0, "labels": [{"box2d": {"x1": 0, "y1": 0, "x2": 5, "y2": 5}}]}],
        ["frame"],
        {"no": "frames"},
    ],
)
def test_bdd100k_files_that_make_no_sense_drop_the_clip(tmp_path, frames):
    _, dropped = written(write_bdd(tmp_path, frames), tmp_path / "shards")
    assert reasons(dropped) == ["bad annotation"]
    assert "b1.json" in dropped[0].detail


def write_mot(tmp_path, text="1,3,6,4,12,20,1,1,0.9\n5,3,6,4,12,20,1,1,0.2\n2,4,6,4,12,20,0,1,1\n3,5,0,0,6,4,1,3,1\n"):
    sequence = tmp_path / "mot" / "MOT17-02"
    write_frames(sequence / "img1", [f"{index:06d}.jpg" for index in range(1, NUM_FRAMES + 1)])
    (sequence / "gt").mkdir(exist_ok=True)
    (sequence / "gt" / "gt.txt").write_text(text)
    (sequence / "seqinfo.ini").write_text("[Sequence]\nname=MOT17-02\nframeRate=30\n")
    return str(tmp_path / "mot")


def test_mot_counts_frames_from_one_and_leaves_out_what_does_not_count(tmp_path):
    (sample,), dropped = written(Mot(folder=write_mot(tmp_path), min_frames=5), tmp_path / "shards")
    assert not dropped
    tracks = {track["id"]: track for track in sample.info["tracks"]}
    assert sorted(tracks) == ["3", "5"]
    assert tracks["3"]["boxes"] == [[0, 0.1, 0.1, 0.3, 0.6, 1.0], [4, 0.1, 0.1, 0.3, 0.6, 1.0]]
    assert (tracks["3"]["label"], tracks["5"]["label"]) == ("pedestrian", "car")
    assert tracks["3"]["occluded"] == [4]
    assert sample.info["fps"] == 30.0
    (only,), _ = written(Mot(folder=write_mot(tmp_path), min_frames=5, classes=["car"]), tmp_path / "shards")
    assert [track["id"] for track in only.info["tracks"]] == ["5"]


@pytest.mark.parametrize(
    "line", ["0,3,6,4,12,20,1,1,1", "1,3,6,4", "1,x,6,4,12,20", "1,3,nan,4,12,20", "1.5,3,6,4,1,1"]
)
def test_mot_lines_that_make_no_sense_drop_the_clip(tmp_path, line):
    folder = write_mot(tmp_path, f"1,3,6,4,12,20,1,1,1\n{line}\n")
    _, dropped = written(Mot(folder=folder, min_frames=5), tmp_path / "shards")
    assert reasons(dropped) == ["bad annotation"]
    assert "gt.txt, line 2" in dropped[0].detail


def test_mot_without_a_rate_asks_for_one(tmp_path):
    folder = write_mot(tmp_path)
    (tmp_path / "mot" / "MOT17-02" / "seqinfo.ini").unlink()
    with pytest.raises(ValueError, match=r"set source\.fps"):
        list(Mot(folder=folder))
    assert [clip.frames.fps for clip in Mot(folder=folder, fps=14)] == [14.0]


def test_ids_of_any_kind_are_read(tmp_path):
    categories = [{"id": None, "name": "x"}, {"id": [3], "name": "y"}, {"id": "3", "name": "person"}, "z"]
    annotations = [
        {"image_id": "104", "video_id": "1", "instance_id": 7, "category_id": 3, "bbox": [6, 4, 12, 20]},
        {"image_id": 104, "video_id": [1], "instance_id": 8, "bbox": [6, 4, 12, 20]},
        "annotation",
    ]
    (sample,), _ = written(write_coco(tmp_path, categories=categories, annotations=annotations), tmp_path / "shards")
    assert [(track["id"], track["label"]) for track in sample.info["tracks"]] == [("7", "person")]
