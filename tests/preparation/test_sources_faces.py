"""Layouts of faces: ConsisID's tree of tracked people, and Celeb Basis' lists of pictures."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from likeness.datamodules.masks import MASKS, decode_masks
from likeness.preparation.clips import clip_sample
from likeness.preparation.sources.celeb_basis import CelebBasis
from likeness.preparation.sources.consisid import ConsisID
from likeness.preparation.sources.consisid_annotations import Person, choose_face_frames

from ..conftest import drawn_video, write_mp4, write_picture
from ..parity.demo import shared_data
from .sources import reasons, written

NUM_FRAMES, HEIGHT, WIDTH = 12, 48, 64


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def item(person, box, confidence=0.96, track=9):
    names = ("x1", "y1", "x2", "y2")
    return {
        "confidence": confidence,
        "box": dict(zip(names, box, strict=True)),
        "track_id": track,
        "new_track_id": person,
    }


def write_tree(root, clip="a", **changes):
    """One clip with two people, the masks of whom have numbers that are not theirs: 4, 5, 6 and 1, 2, 3."""
    data = root / "data"
    write_mp4(data / "videos" / f"{clip}.mp4", drawn_video(NUM_FRAMES), fps=8)
    captions = [{"path": f"{clip}.mp4", "cap": "two people", "fps": 8.0, "duration": NUM_FRAMES / 8}]
    write_json(data / "captions" / "all.json", changes.get("captions", captions))
    boxes = {
        str(frame): {
            "face": [item(1, (10, 10, 20, 20)), item(2, (40.5, 10, 50, 20))],
            "head": [item(1, (8, 6, 22, 24)), item(2, (38, 6, 52, 24))],
            "person": [],
        }
        for frame in range(NUM_FRAMES)
    }
    write_json(data / "refine_bbox_jsons" / f"{clip}.json", changes.get("boxes", boxes))
    objects = {"1": {"face": 4, "head": 5, "person": 6}, "2": {"face": 1, "head": 2, "person": 3}}
    tracks = data / "track_masks_data" / clip
    frames = list(range(NUM_FRAMES))
    valid = {person: {"face": frames[2:], "head": [*frames, NUM_FRAMES], "person": frames} for person in objects}
    control = {person: {"face": 3, "head": 7, "person": 5} for person in objects}
    write_json(tracks / "corresponding_data.json", changes.get("objects", objects))
    write_json(tracks / "valid_frame.json", changes.get("valid", valid))
    write_json(tracks / "control_sam2_frame.json", control)
    for person, left in (("1", 10), ("2", 40)):
        for kind, number in objects[person].items():
            for frame in frames if kind == "face" else frames[::5]:
                mask = np.zeros((HEIGHT, WIDTH), np.uint16)
                mask[10:20, left : left + 10] = number
                path = tracks / "tracking_mask_results" / str(number) / f"annotated_frame_{frame:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
    (root / "total_train_data.txt").write_text("data/videos,data/captions/all.json,data\n")
    return str(root / "total_train_data.txt")


def consisid(file, **settings) -> ConsisID:
    return ConsisID(file=file, **{"min_frames": 10, "num_faces": 3, **settings})


def test_people_come_with_boxes_masks_valid_frames_and_faces(tmp_path):
    (sample,), dropped = written(consisid(write_tree(tmp_path)), tmp_path / "shards")
    assert not dropped
    assert (sample.info["caption"], sample.info["num_frames"], sample.info["faces_from"]) == ("two people", 12, "same")
    first, second = sample.info["identities"]
    assert [first["id"], second["id"]] == ["a/1", "a/2"]
    assert first["valid_frames"]["face"] == list(range(2, 12))
    assert first["valid_frames"]["head"] == list(range(12))  # what lies past the end of the video is left out
    frame, *box, score = second["boxes"][3]
    assert (frame, score) == (3, 0.96)
    np.testing.assert_allclose(box, [40.5 / 64, 10 / 48, 50 / 64, 20 / 48], atol=1e-6)
    assert len(second["head_boxes"]) == 12
    assert first["face"] == ["face.0.png", "face.1.png", "face.2.png"]
    assert second["face"] == ["face.3.png", "face.4.png", "face.5.png"]
    assert first["face_frames"][0] == 7  # the frame that prompted the tracker
    assert min(np.diff(sorted(first["face_frames"]))) >= 3


def test_masks_belong_to_people_by_their_object_numbers(tmp_path):
    (sample,), _ = written(consisid(write_tree(tmp_path)), tmp_path / "shards")
    shape = (NUM_FRAMES, HEIGHT, WIDTH)
    face = decode_masks(sample.members[MASKS], "face", [0, 11, 11], shape)
    assert face.shape == (3, HEIGHT, WIDTH)
    assert (face[:, 10:20, 10:20] == 1).all()
    assert (face[:, 10:20, 40:50] == 2).all()
    assert (face > 0).sum() == 3 * 200


def test_sparse_masks_are_empty_where_none_was_stored(tmp_path):
    (sample,), _ = written(consisid(write_tree(tmp_path)), tmp_path / "shards")
    head = decode_masks(sample.members[MASKS], "head", range(NUM_FRAMES), (NUM_FRAMES, HEIGHT, WIDTH))
    assert [frame for frame in range(NUM_FRAMES) if head[frame].any()] == [0, 5, 10]
    assert sample.info["identities"][0]["mask_frames"] == {"head": [0, 5, 10], "person": [0, 5, 10]}


def test_a_box_that_is_no_box_drops_the_clip_and_names_its_place(tmp_path):
    for box in ([float("nan"), 1, 2, 3], [1, 1, 1e300, 3], [5, 1, 2, 3]):
        (tmp_path / "data").mkdir(exist_ok=True)
        file = write_tree(tmp_path, boxes={"4": {"face": [item(1, box)], "head": [], "person": []}})
        _, dropped = written(consisid(file), tmp_path / "shards")
        assert reasons(dropped) == ["bad annotation"]
        assert "refine_bbox_jsons/a.json" in dropped[0].detail
        assert "nan" in dropped[0].detail or "frame 4" in dropped[0].detail


@pytest.mark.parametrize(
    "changes",
    [
        {"valid": {"1": {"face": [-1], "head": [0]}}},
        {"valid": {"1": {"face": "all", "head": [0]}}},
        {"objects": {"../../x": {"face": 1}}},
        {"objects": {"1": {"face": "../../x"}}},
        {"objects": []},
        {"boxes": {"-3": {"face": []}}},
        {"boxes": {"3": []}},
    ],
)
def test_absurd_annotations_drop_the_clip(tmp_path, changes):
    _, dropped = written(consisid(write_tree(tmp_path, **changes)), tmp_path / "shards")
    assert reasons(dropped) == ["bad annotation"]


def test_captions_list_clips_in_several_forms(tmp_path):
    good = {"cap": "x", "fps": 8.0, "duration": 1.5}
    captions = [
        {**good, "path": "a"},
        {**good, "path": "/their/machine/a.mp4"},
        {**good, "path": "a.mp4", "duration": 1.0},
        {**good, "path": ".."},
        {**good, "path": "a.mp4", "fps": "fast"},
        {**good, "path": "a.mp4", "cap": ""},
        {**good, "path": "unknown.mp4"},
        "a.mp4",
    ]
    samples, dropped = written(consisid(write_tree(tmp_path, captions=captions)), tmp_path / "shards")
    assert len(samples) == 2
    assert reasons(dropped) == ["too short", "bad entry", "bad entry", "no caption", "missing file", "bad entry"]


def test_clips_without_annotations_are_dropped_or_kept_without_people(tmp_path):
    file = write_tree(tmp_path)
    (tmp_path / "data" / "track_masks_data").rename(tmp_path / "elsewhere")
    _, dropped = written(consisid(file), tmp_path / "shards")
    assert reasons(dropped) == ["no annotations"]
    (sample,), _ = written(consisid(file, needs_annotations=False), tmp_path / "shards")
    assert sample.info["identities"] == []


def test_a_wrong_list_of_data_sets_is_an_error(tmp_path):
    (tmp_path / "list.txt").write_text("videos,captions.json\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 1: expected video_folder,caption_file,annotation_folder"):
        list(ConsisID(file=str(tmp_path / "list.txt")))
    with pytest.raises(ValueError, match=r"source\.masks"):
        ConsisID(file=str(tmp_path / "list.txt"), masks=["nose"])


def person_with(confidences: dict[int, float], control: int | None = None) -> Person:
    rows = {frame: (0.0, 0.0, 9.0, 9.0, confidence) for frame, confidence in confidences.items()}
    frames = list(confidences)
    person = Person("1", {}, {"face": frames, "head": frames}, {} if control is None else {"head": control})
    person.boxes.update(face=rows, head=rows)
    return person


def test_faces_come_from_the_surest_frames_that_are_enough():
    confidences = {frame: 0.96 if frame in (20, 40, 60) else 0.92 for frame in range(100)}
    assert choose_face_frames(person_with(confidences), 3, 3) == [20, 40, 60]
    assert choose_face_frames(person_with(confidences, control=40), 3, 3) == [40, 20, 60]
    more = choose_face_frames(person_with(confidences), 4, 3)
    assert len(more) == 4
    assert more[0] == 0
    assert min(np.diff(more)) >= 3
    assert choose_face_frames(person_with({3: 0.2, 4: 0.3}), 5, 3) == [3]
    assert choose_face_frames(person_with({}), 5, 3) == []


def test_the_whole_demo_set_becomes_samples(tmp_path):
    source = ConsisID(file=str(shared_data("consisid_demo") / "total_train_data.txt"), masks=["head"])
    clips = list(source)
    for number, clip in enumerate(clips):
        sample = clip_sample(clip, str(number), "pyav")
        assert sample.info["identities"][0]["face"]
        assert MASKS in sample.members
        assert all(path.exists() for path in clip.files())
    assert clips


# Celeb Basis


def named_faces(folder) -> list[str]:
    for number, name in enumerate(("10.0.png", "9.jpg", "anna.b.c.png")):
        write_picture(folder / name, seed=number)
    return [str(folder / name) for name in ("anna.b.c.png", "9.jpg", "10.0.png")]


@pytest.mark.parametrize("kind", ["pickle", "pkl", "json", "jsonl", "txt"])
def test_a_list_of_faces_keeps_its_order(tmp_path, kind):
    paths = named_faces(tmp_path / "faces")
    file = tmp_path / f"faces.{kind}"
    if kind in ("pickle", "pkl"):
        file.write_bytes(pickle.dumps(paths, protocol=4 if kind == "pickle" else 0))
    elif kind == "json":
        file.write_text(json.dumps(paths))
    else:
        file.write_text("".join((path if kind == "txt" else json.dumps({"path": path})) + "\n" for path in paths))
    samples, dropped = written(CelebBasis(pictures=str(file)), tmp_path / "shards")
    assert not dropped
    assert [sample.info["identities"] for sample in samples] == [
        [{"id": name, "face": []}] for name in ("anna", "9", "10")
    ]
    assert all(sample.info["num_frames"] == 1 and sample.info["caption"] == "" for sample in samples)
    assert samples[1].members["jpg"] == (tmp_path / "faces" / "9.jpg").read_bytes()


def test_a_folder_of_faces_is_read_in_natural_order(tmp_path):
    named_faces(tmp_path / "faces")
    (tmp_path / "faces" / "9.txt").write_text("a smiling person")
    samples, _ = written(CelebBasis(pictures=str(tmp_path / "faces")), tmp_path / "shards")
    assert [sample.info["identities"][0]["id"] for sample in samples] == ["9", "10", "anna"]
    assert [sample.info["caption"] for sample in samples] == ["a smiling person", "", ""]


def test_a_list_of_another_machine_finds_its_pictures_by_name(tmp_path):
    named_faces(tmp_path / "faces")
    (tmp_path / "ffhq.pickle").write_bytes(pickle.dumps(["/their/ffhq/9.jpg", ("/their/ffhq/10.0.png", 0.5), 3]))
    source = CelebBasis(pictures=str(tmp_path / "ffhq.pickle"), root=str(tmp_path / "faces"))
    samples, dropped = written(source, tmp_path / "shards")
    assert [sample.info["identities"][0]["id"] for sample in samples] == ["9", "10"]
    assert samples[1].info["quality"] == 0.5
    assert reasons(dropped) == ["bad entry"]


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, protocol):
    victim = tmp_path / "victim"
    (tmp_path / "ffhq.pickle").write_bytes(pickle.dumps(["a.png", Attack(victim)], protocol=protocol))
    with pytest.raises(ValueError, match=r"ffhq\.pickle is refused, nothing of it was run"):
        list(CelebBasis(pictures=str(tmp_path / "ffhq.pickle")))
    assert not victim.exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"a": 1}),
        pickle.dumps([np.float32(1)]),
        b"\x80\x04](r\xff\xff\xff\x7f.",  # asks for room for two billion values
        b"\x80\x04]q\x00(X\xff\xff\xff\x7fab",
        b"(I1\n",
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"P1\n.",  # a persistent object
        pickle.dumps(["a"])[:-3],
        b"",
        b"not a pickle",
    ],
)
def test_what_is_not_a_pickle_of_a_plain_list_is_refused(tmp_path, data):
    (tmp_path / "ffhq.pickle").write_bytes(data)
    with pytest.raises(ValueError, match=r"ffhq\.pickle"):
        list(CelebBasis(pictures=str(tmp_path / "ffhq.pickle")))


def test_a_pickle_of_something_else_than_a_list_is_refused(tmp_path):
    (tmp_path / "ffhq.pickle").write_bytes(pickle.dumps("a.png"))
    with pytest.raises(ValueError, match="must hold a list of paths, it holds a str"):
        list(CelebBasis(pictures=str(tmp_path / "ffhq.pickle")))
