import io
import json

import numpy as np
import pytest

from likeness.datamodules.shards import list_shards
from likeness.datamodules.video import get_reader
from likeness.inputs import read_picture, read_requests
from likeness.toy.clips import draw_clip
from likeness.toy.people import make_person
from likeness.toy.world import ToyShards

from ..conftest import read_shard


def people(count: int) -> list:
    return [make_person(np.random.default_rng(seed)) for seed in range(count)]


def draw(seed: int = 0, count: int = 1, **settings):
    size = {"num_frames": 6, "height": 64, "width": 64 * count, "fps": 8.0, **settings}
    return draw_clip(people(count), np.random.default_rng(seed), **size)


def test_same_numbers_draw_the_same_clip_and_others_another():
    assert np.array_equal(draw(3).frames, draw(3).frames)
    assert not np.array_equal(draw(3).frames, draw(4).frames)


def test_a_person_keeps_their_face_and_changes_their_surroundings():
    captions = {draw(seed).caption for seed in range(20)}
    assert len(captions) > 15


def test_captions_do_not_tell_who_is_in_the_clip():
    first, second = (
        draw_clip([person], np.random.default_rng(5), num_frames=1, height=64, width=64, fps=8).caption
        for person in people(2)
    )
    assert first == second


@pytest.mark.parametrize("count", [1, 2])
def test_ground_truth_lies_where_the_faces_are(count):
    clip = draw(1, count)
    assert clip.boxes.shape == (6, count, 4)
    assert clip.keypoints.shape == (6, count, 5, 2)
    for frame in range(6):
        for person in range(count):
            x0, y0, x1, y1 = clip.boxes[frame, person]
            inside = clip.masks["face"][frame] == person + 1
            rows, columns = np.nonzero(inside)
            # Ears stick out of the box by a little; hair may cover the forehead.
            assert x0 - 4 <= columns.min() and columns.max() <= x1 + 4
            assert y0 - 2 <= rows.min() and rows.max() <= y1 + 2
            points = clip.keypoints[frame, person]
            assert ((points > [x0, y0]) & (points < [x1, y1])).all()
            assert points[0, 0] < points[1, 0]
            assert points[3, 1] > points[2, 1] > points[0, 1]


def test_faces_move_within_a_clip():
    moving = [draw(seed, num_frames=12) for seed in range(12)]
    assert sum(np.abs(np.diff(clip.keypoints, axis=0)).max() > 0.5 for clip in moving) > 6


def test_shards_hold_everything_that_the_contract_allows(toy_world):
    shards = list_shards(toy_world / "train")
    samples = [raw for shard in shards for _, raw in read_shard(shard)]
    assert len(samples) == 24
    for raw in samples:
        info = json.loads(raw["json"])
        assert get_reader("pyav").probe(raw["mp4"]).num_frames == info["num_frames"] == 12
        masks = np.load(io.BytesIO(raw["mask.npz"]), allow_pickle=False)
        assert masks["face"].shape == masks["person"].shape == (12, 64, 64)
        (identity,) = info["identities"]
        assert all(suffix in raw for suffix in identity["face"])
        assert len(identity["boxes"]) == len(identity["keypoints"]) == 12
        assert all(len(row) == 6 for row in identity["boxes"])
        assert all(len(row) == 11 for row in identity["keypoints"])
        assert all(-0.2 < value < 1.2 for row in identity["boxes"] for value in row[1:5])
        assert info["faces_from"] == "cross"
        assert info["tracks"][0]["boxes"] == identity["boxes"]


def test_held_out_people_are_not_in_the_training_shards(toy_world):
    def ids(split):
        return {
            identity["id"]
            for shard in list_shards(toy_world / split)
            for _, raw in read_shard(shard)
            for identity in json.loads(raw["json"])["identities"]
        }

    assert (len(ids("train")), len(ids("held_out"))) == (12, 6)
    assert not ids("train") & ids("held_out")


def test_references_come_from_another_clip(toy_world):
    samples = [raw for shard in list_shards(toy_world / "train") for _, raw in read_shard(shard)]
    first, second = samples[:2]
    assert json.loads(first["json"])["identities"][0]["id"] == json.loads(second["json"])["identities"][0]["id"]
    assert first["face.0.png"] != second["face.0.png"]


def test_list_file_can_be_sampled_from(toy_world):
    requests = read_requests(None, [], str(toy_world / "held_out.txt"))
    assert len(requests) == 6
    assert all(request.references[0].is_file() for request in requests)
    assert len(list((toy_world / "clips").glob("*.mp4"))) == 6


def test_first_frames_are_those_of_the_held_out_clips(toy_world):
    reader = get_reader("pyav")
    for clip in (toy_world / "clips").glob("*.mp4"):
        picture = read_picture(toy_world / "first_frames" / f"{clip.stem}.png")
        assert np.array_equal(picture, reader.read(clip.read_bytes(), [0])[0])


def roaming(seed: int):
    return draw(seed, num_frames=5, path="roams")


def ways(path: str, count: int = 20) -> np.ndarray:
    """Centres (n f 2) of the faces of people on their `path`."""
    drawn = [draw(seed, num_frames=5, path=path).boxes[:, 0] for seed in range(count)]
    return np.stack([(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in drawn])


def test_people_walk_to_the_side_that_they_look_to():
    for seed in range(10):
        clip = draw(seed, num_frames=5, path="walks")
        centre = (clip.boxes[:, 0, 0] + clip.boxes[:, 0, 2]) / 2
        nose = clip.keypoints[:, 0, 2, 0]
        assert np.sign(nose[0] - centre[0]) == np.sign(centre[-1] - centre[0])
        assert ("right" if centre[-1] > centre[0] else "left") in clip.caption
        assert np.abs(np.diff(clip.boxes[:, 0, 1])).max() == 0


def test_roaming_people_end_where_their_first_frame_does_not_tell():
    way = ways("roams", 40)
    moved = (way[:, -1] - way[:, 0])[:, 0]
    looks = [clip.keypoints[0, 0, 2, 0] - clip.boxes[0, 0, [0, 2]].mean() for clip in map(roaming, range(40))]
    assert np.abs(moved).min() > 8
    assert abs(np.corrcoef(np.sign(moved), looks)[0, 1]) < 0.4
    assert abs(np.corrcoef(np.sign(moved), way[:, 0, 0])[0, 1]) < 0.4
    assert np.abs(np.diff(way, n=2, axis=1)).max() <= 1.5  # a straight way, up to whole pixels


@pytest.mark.parametrize("path", ["walks", "roams"])
def test_travellers_stay_in_the_picture(path):
    for seed in range(20):
        boxes = draw(seed, num_frames=5, path=path).boxes
        assert boxes.min() >= -1
        assert boxes.max() <= 65


def test_unknown_path_is_refused():
    with pytest.raises(ValueError, match=r"path='flies' is not one of stays, walks, roams: datamodule\.source\.path"):
        ToyShards(folder="x", path="flies")


def test_drawn_world_is_used_again_and_another_one_is_refused(toy_world):
    index = toy_world / "train" / "index.json"
    before = index.stat().st_mtime_ns
    ToyShards(folder=str(toy_world), num_people=12, num_held_out=6).prepare()
    assert index.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"num_people 12 instead of 13.*datamodule\.source\.folder"):
        ToyShards(folder=str(toy_world), num_people=13, num_held_out=6).prepare()


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no toy world"):
        ToyShards(folder=str(tmp_path), num_people=2, num_held_out=2).prepare()
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_several_people_in_a_clip_are_all_described(tmp_path):
    ToyShards(folder=str(tmp_path / "two"), num_people=4, num_held_out=2, people_per_clip=2, width=128).prepare()
    (shard,) = list_shards(tmp_path / "two" / "train")
    info = json.loads(next(raw for _, raw in read_shard(shard))["json"])
    assert [identity["face"] for identity in info["identities"]] == [
        ["face.0.png", "face.1.png"],
        ["face.2.png", "face.3.png"],
    ]
    assert " beside " in info["caption"]


def test_one_clip_a_person_is_refused():
    with pytest.raises(ValueError, match="another clip"):
        ToyShards(folder="x", clips_per_person=1)
