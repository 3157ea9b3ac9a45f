import json
import os

import numpy as np
import pytest
from PIL import Image

from likeness.datamodules.shards import list_shards
from likeness.preparation.pipeline import Pipeline
from likeness.preparation.report import write_report
from likeness.preparation.shards import summarise, write_shards
from likeness.preparation.sources.concat_id_json import ConcatIDJson
from likeness.preparation.sources.video_folder import VideoFolder

from ..conftest import drawn_video, read_shard, write_mp4, write_picture


def prepared(source, tmp_path):
    kept, dropped = write_shards(source, tmp_path / "shards", reader="pyav", samples_per_shard=10)
    samples = [raw for shard in list_shards(tmp_path / "shards") for _, raw in read_shard(shard)] if kept else []
    return samples, dropped


def write_json(tmp_path, *entries) -> ConcatIDJson:
    (tmp_path / "train.json").write_text(json.dumps(list(entries)))
    return ConcatIDJson(file=str(tmp_path / "train.json"))


def entry(tmp_path, **changes) -> dict:
    write_mp4(tmp_path / "clip.mp4", drawn_video(12), fps=8)
    write_picture(tmp_path / "face.png")
    return {"video_path": "clip.mp4", "caption": "a person", "image_path": "face.png", **changes}


def test_a_json_entry_becomes_a_sample_with_the_original_bytes(tmp_path):
    (raw,), dropped = prepared(write_json(tmp_path, entry(tmp_path)), tmp_path)
    info = json.loads(raw["json"])
    assert not dropped
    assert raw["mp4"] == (tmp_path / "clip.mp4").read_bytes()
    assert (info["caption"], info["num_frames"], info["fps"], info["height"], info["width"]) == (
        "a person",
        12,
        8.0,
        48,
        64,
    )
    assert [identity["face"] for identity in info["identities"]] == [["face.0.png"]]
    assert raw["face.0.png"].startswith(b"\x89PNG")


def test_several_people_keep_their_order(tmp_path):
    write_picture(tmp_path / "b.jpg", seed=1)
    (raw,), _ = prepared(write_json(tmp_path, entry(tmp_path, image_path="face.png@@b.jpg")), tmp_path)
    assert [identity["face"] for identity in json.loads(raw["json"])["identities"]] == [["face.0.png"], ["face.1.png"]]


def test_a_folder_of_pictures_is_one_person(tmp_path):
    for name in ("1.png", "2.jpg", "notes.txt"):
        write_picture(tmp_path / "person" / name) if name != "notes.txt" else (tmp_path / "person" / name).write_text(
            "x"
        )
    (raw,), _ = prepared(write_json(tmp_path, entry(tmp_path, image_path="person")), tmp_path)
    assert [identity["face"] for identity in json.loads(raw["json"])["identities"]] == [["face.0.png", "face.1.png"]]


def test_empty_image_path_leaves_the_reference_to_the_clip(tmp_path):
    (raw,), dropped = prepared(write_json(tmp_path, entry(tmp_path, image_path="")), tmp_path)
    assert json.loads(raw["json"])["identities"] == []
    assert not dropped


def test_a_mask_goes_with_its_picture(tmp_path):
    Image.fromarray(np.full((40, 30), 255, np.uint8)).save(tmp_path / "mask.png")
    (raw,), _ = prepared(write_json(tmp_path, entry(tmp_path, mask_path="mask.png")), tmp_path)
    assert "face.0.mask.png" in raw


def test_unusable_entries_are_dropped_by_reason_and_the_others_kept(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"garbage")
    (tmp_path / "broken.png").write_bytes(b"garbage")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "small_mask.png")
    good = entry(tmp_path)
    source = write_json(
        tmp_path,
        good,
        {**good, "video_path": "gone.mp4"},
        {**good, "video_path": "broken.mp4"},
        {**good, "image_path": "gone.png"},
        {**good, "image_path": "broken.png"},
        {key: good[key] for key in ("video_path", "image_path")},
        {**good, "caption": " "},
        {**good, "mask_path": "small_mask.png"},
        {**good, "video_path": "train.json"},
        {"caption": "x"},
        {**good, "image_path": "face.png@@b.png", "mask_path": "m.png"},
        good,
    )
    samples, dropped = prepared(source, tmp_path)
    assert len(samples) == 2
    reasons = [one["reason"] for one in dropped]
    assert reasons == [
        "missing file",
        "unreadable video",
        "missing file",
        "unreadable image",
        "no caption",
        "no caption",
        "mask of another size",
        "unknown container",
        "bad entry",
        "bad entry",
    ]
    assert "entry 1" in dropped[0]["place"]
    listed = [json.loads(line) for line in (tmp_path / "shards" / "dropped.jsonl").read_text().splitlines()]
    assert listed == dropped
    lines = list(summarise(2, dropped, 12))
    assert lines[0] == "kept 2 of 12 clips"
    assert next(summarise(5, dropped, 12)) == "kept 5 clips, made of 12"
    assert any("gone.mp4" in line for line in lines)


@pytest.mark.parametrize("field", ["video_path", "image_path"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b.mp4", "missing file"),
        ("\ud83d.mp4", "missing file"),
        ("x" * 5000 + ".mp4", "missing file"),
        ("/dev/zero", "not a file"),
        ("fifo.mp4", "not a file"),
        ("huge.mp4", "too large"),
    ],
)
def test_a_name_that_no_system_takes_or_that_is_no_file_costs_only_its_entry(tmp_path, field, name, reason):
    good = entry(tmp_path)
    os.mkfifo(tmp_path / "fifo.mp4")
    with open(tmp_path / "huge.mp4", "wb") as stream:
        stream.truncate(2**32)
    if name == "/dev/zero":
        (tmp_path / "zero.mp4").symlink_to(name)
        name = "zero.mp4"
    samples, dropped = prepared(write_json(tmp_path, good, {**good, field: name}), tmp_path)
    assert len(samples) == 1
    assert [one["reason"] for one in dropped] == [reason]
    assert "entry 1" in dropped[0]["place"] and dropped[0]["detail"].isprintable()


def test_the_report_shows_captions_that_hold_half_a_character(tmp_path):
    source = write_json(tmp_path, entry(tmp_path, caption="half \ud83d"))
    result = Pipeline({}, tmp_path / "out", reader="pyav", samples_per_shard=9, num_workers=0).prepare(list(source))
    write_report(tmp_path / "report.html", tmp_path / "out", result, title="t", reader="pyav")
    assert "half " in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"video_path": "a.mp4",}]', r"train\.json, line 1: not valid JSON.*a comma before"),
        ("{}", "must hold a list"),
        ("\xff", "not valid JSON"),
        ("[" * 100_000, "not a JSON file|not valid JSON"),
    ],
)
def test_wrong_json_is_an_error_with_its_place(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(ConcatIDJson(file=str(tmp_path / "train.json")))


def test_a_folder_of_videos_with_captions_and_pictures(tmp_path):
    for name in ("a", "b.cut", "c"):
        write_mp4(tmp_path / "videos" / f"{name}.mp4")
    (tmp_path / "videos" / "a.txt").write_text("first\n")
    (tmp_path / "videos" / "b.cut.txt").write_text("second\n")
    for name in ("a.png", "b.cut.0.png", "b.cut.1.png", "a_other.png"):
        write_picture(tmp_path / "pictures" / name)
    source = VideoFolder(folder=str(tmp_path / "videos"), references=str(tmp_path / "pictures"))
    samples, dropped = prepared(source, tmp_path)
    infos = [json.loads(raw["json"]) for raw in samples]
    assert [info["caption"] for info in infos] == ["first", "second"]
    assert [len(info["identities"]) for info in infos] == [1, 2]
    assert [one["reason"] for one in dropped] == ["no caption"]
    assert len({raw["__key__"] for raw in samples}) == 2


def test_empty_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(ValueError, match="holds no video"):
        list(VideoFolder(folder=str(tmp_path)))
    with pytest.raises(ValueError, match=r"source\.folder=.*gone is not a folder"):
        VideoFolder(folder=str(tmp_path / "gone"))
