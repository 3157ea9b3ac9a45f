"""Layouts that are lists of videos: Concat-ID's folders and lists, WebVid, Pexels, both, and tables."""

import json
import time

import pytest

from likeness.preparation.sources.concat_id_folder import ConcatIDFolder
from likeness.preparation.sources.concat_id_list import ConcatIDList
from likeness.preparation.sources.image_folder import ImageFolder
from likeness.preparation.sources.joint import Joint
from likeness.preparation.sources.pexels import Pexels
from likeness.preparation.sources.table import Table
from likeness.preparation.sources.video_folder import VideoFolder
from likeness.preparation.sources.webvid import WebVid

from ..conftest import drawn_video, write_mp4, write_picture
from .sources import reasons, written


def write_lines(path, *entries):
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in entries))
    return str(path)


def test_concat_id_folders_give_captions_and_references(tmp_path):
    for name in ("a", "sub/b", "c"):
        write_mp4(tmp_path / "data" / "videos" / f"{name}.mp4")
    (tmp_path / "data" / "labels").mkdir()
    (tmp_path / "data" / "labels" / "a.txt").write_text("first line\nsecond line\n")
    for name in ("a/1.png", "a/2.jpg", "sub/b/1.png"):
        write_picture(tmp_path / "data" / "images" / name)
    for folder in ("data", "data/videos"):
        samples, dropped = written(ConcatIDFolder(folder=str(tmp_path / folder)), tmp_path / "shards")
        assert [sample.info["caption"] for sample in samples] == ["first line", ""]
        assert [sample.info["identities"][0]["face"] for sample in samples] == [
            ["face.0.png", "face.1.png"],
            ["face.0.png"],
        ]
        assert reasons(dropped) == ["missing references"]
    kept, dropped = written(
        ConcatIDFolder(folder=[str(tmp_path / "data")], needs_references=False), tmp_path / "shards"
    )
    assert [len(sample.info["identities"]) for sample in kept] == [1, 0, 1]
    assert not dropped


def test_concat_id_folders_without_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.mp4"):
        list(ConcatIDFolder(folder=str(tmp_path)))
    write_mp4(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="does not lie in a folder `videos`"):
        list(ConcatIDFolder(folder=str(tmp_path)))


def test_a_list_goes_with_the_clips_that_were_made_of_it(tmp_path):
    write_picture(tmp_path / "me.png")
    lines = ["a man walks@@me.png", "two people@@me.png@@me.png", "no image", "never made@@me.png"]
    file = write_lines(tmp_path / "list.txt", *lines)
    write_mp4(tmp_path / "made" / "0_a_man_walks" / "000000" / "000000.mp4")
    write_mp4(tmp_path / "made" / "0_a_man_walks" / "000001" / "000000.mp4")
    write_mp4(tmp_path / "made" / "00001.mp4")
    samples, dropped = written(ConcatIDList(file=file, videos=str(tmp_path / "made")), tmp_path / "shards")
    assert [sample.info["caption"] for sample in samples] == ["a man walks", "a man walks", "two people"]
    assert [len(sample.info["identities"]) for sample in samples] == [1, 1, 2]
    assert reasons(dropped) == ["bad entry", "missing file"]
    assert "line 3" in dropped[0].detail


def test_a_list_alone_is_for_sampling(tmp_path):
    file = write_lines(tmp_path / "list.txt", "a man walks@@me.png")
    with pytest.raises(ValueError, match=r"sample\.py inputs="):
        ConcatIDList(file=file)


def test_webvid_lines_name_videos_below_the_folder(tmp_path):
    write_mp4(tmp_path / "videos" / "part" / "a.mp4")
    write_mp4(tmp_path / "videos" / "b.mp4")
    file = write_lines(
        tmp_path / "webvid.jsonl",
        {"text": "a square", "file": "part/a.mp4", "time": "1.5", "fps": 8.0},
        {"text": "another", "file": "/somewhere/else/b.mp4", "time": "1.5", "fps": 8.0},
        "not json",
        {"text": "no file"},
        {"text": "outside", "file": "../webvid.mp4"},
        {"file": "b.mp4"},
        {"text": "gone", "file": "gone.mp4"},
    )
    samples, dropped = written(WebVid(file=file, folder=str(tmp_path / "videos")), tmp_path / "shards")
    assert [sample.info["caption"] for sample in samples] == ["a square", "another"]
    assert samples[0].members["mp4"] == (tmp_path / "videos" / "part" / "a.mp4").read_bytes()
    assert reasons(dropped) == ["bad entry", "bad entry", "bad entry", "no caption", "missing file"]
    assert "line 5" in dropped[2].detail


def pexels(tmp_path) -> Pexels:
    for name in ("wide", "tall"):
        write_mp4(tmp_path / "pexels" / f"{name}.mp4")
    file = write_lines(
        tmp_path / "pexels.jsonl",
        {"id": 1, "file": "wide.mp4", "fps": 8, "height": 576, "width": 1024},
        {"id": 2, "file": "tall.mp4", "fps": 8, "height": 1000, "width": 1600},
        {"id": 3, "file": "wide.mp4", "fps": 8, "height": float("nan"), "width": 1024},
        {"id": 4, "file": "wide.mp4", "fps": 8, "height": 576, "width": 0},
        {"id": 4, "file": "wide.mp4", "fps": 8, "height": 576, "width": 10**400},
        {"id": 4, "file": None, "fps": 8, "height": 576, "width": 1024},
        {"id": 5, "file": "wide.mp4", "fps": 8, "height": 576, "width": 1024},
    )
    captions = write_lines(tmp_path / "captions.jsonl", {"id": 1, "text": "wide"}, {"id": 2, "text": "tall"})
    return Pexels(file=file, captions=captions, folder=str(tmp_path / "pexels"))


def test_pexels_keeps_wide_clips_that_have_a_caption(tmp_path):
    samples, dropped = written(pexels(tmp_path), tmp_path / "shards")
    assert [sample.info["caption"] for sample in samples] == ["wide"]
    assert reasons(dropped) == ["too tall", *["bad entry"] * 4, "no caption"]


def test_joint_is_one_source_after_the_other(tmp_path):
    write_mp4(tmp_path / "videos" / "a.mp4")
    webvid = WebVid(
        file=write_lines(tmp_path / "webvid.jsonl", {"text": "a", "file": "a.mp4"}), folder=str(tmp_path / "videos")
    )
    samples, _ = written(Joint(sources={"webvid": webvid, "pexels": pexels(tmp_path)}), tmp_path / "shards")
    assert [sample.info["caption"] for sample in samples] == ["a", "wide"]
    assert len(list(Joint(sources={"webvid": webvid, "pexels": None}))) == 1
    with pytest.raises(ValueError, match="names no source"):
        Joint(sources={"webvid": None})


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables_keep_their_other_columns(tmp_path, kind):
    write_mp4(tmp_path / "clips" / "a.mp4")
    write_picture(tmp_path / "clips" / "me.png")
    rows = [
        {"video": "a.mp4", "text": "one, two", "references": "me.png@@me.png", "score": "0.5"},
        {"video": "", "text": "no path", "references": "", "score": ""},
        {"video": "a.mp4", "text": "", "references": "", "score": ""},
        {"video": "me.png", "text": "a picture", "references": "", "score": ""},
    ]
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        write_lines(path, *rows)
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [list(rows[0])] + [[f'"{value}"' for value in row.values()] for row in rows]
        path.write_text("".join(mark.join(line) + "\n" for line in lines))
    source = Table(file=str(path), folder=str(tmp_path / "clips"), path="video", caption="text")
    samples, dropped = written(source, tmp_path / "shards")
    assert [sample.info["caption"] for sample in samples] == ["one, two", "a picture"]
    assert samples[0].info["columns"] == {"score": "0.5"}
    assert len(samples[0].info["identities"]) == 2
    assert samples[1].info["num_frames"] == 1
    assert reasons(dropped) == ["bad entry", "no caption"]


def test_a_table_without_the_columns_names_those_that_it_has(tmp_path):
    (tmp_path / "table.csv").write_text("file,text\na.mp4,x\n")
    with pytest.raises(ValueError, match=r"no column caption, path, its header is file, text"):
        list(Table(file=str(tmp_path / "table.csv")))
    (tmp_path / "table.txt").write_text("")
    with pytest.raises(ValueError, match=r"must be a \.csv"):
        Table(file=str(tmp_path / "table.txt"))


def test_a_row_with_too_many_values_is_dropped_alone(tmp_path):
    write_mp4(tmp_path / "a.mp4")
    (tmp_path / "table.csv").write_text("path,caption\na.mp4,one,two\na.mp4,one\n")
    samples, dropped = written(Table(file=str(tmp_path / "table.csv")), tmp_path / "shards")
    assert len(samples) == 1
    assert reasons(dropped) == ["bad entry"]


def test_pictures_with_captions_are_clips_of_one_frame(tmp_path):
    from PIL import Image

    for name in ("a.jpg", "b.png", "c.bmp", "d.png"):
        write_picture(tmp_path / "pictures" / name)
        (tmp_path / "pictures" / name).with_suffix(".txt").write_text(f"picture {name}")
    (tmp_path / "pictures" / "d.txt").unlink()
    turned = Image.open(tmp_path / "pictures" / "b.png").convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "pictures" / "b.png", exif=exif)
    samples, dropped = written(ImageFolder(folder=str(tmp_path / "pictures")), tmp_path / "shards")
    assert [sorted(sample.members) for sample in samples] == [["jpg"], ["png"], ["png"]]
    assert samples[1].members["png"] == (tmp_path / "pictures" / "b.png").read_bytes()
    assert samples[0].members["jpg"] == (tmp_path / "pictures" / "a.jpg").read_bytes()
    sizes = [(sample.info["num_frames"], sample.info["height"], sample.info["width"]) for sample in samples]
    assert sizes == [(1, 40, 30), (1, 30, 40), (1, 40, 30)]
    assert reasons(dropped) == ["no caption"]
    free, dropped = written(ImageFolder(folder=str(tmp_path / "pictures"), needs_captions=False), tmp_path / "shards")
    assert [len(free), len(dropped)] == [4, 0]


def test_references_of_many_videos_are_found_at_once(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "pictures").mkdir()
    for number in range(300):
        (tmp_path / "videos" / f"{number}.mp4").touch()
        (tmp_path / "pictures" / f"{number}.png").touch()
    clips = list(VideoFolder(folder=str(tmp_path / "videos"), references=str(tmp_path / "pictures")))
    assert all(clip.identities[0][0].image.stem == clip.video.stem for clip in clips)


def test_a_list_of_a_hundred_thousand_clips_is_read_in_seconds(tmp_path):
    line = json.dumps({"text": "a square that moves", "file": "part/a.mp4", "time": "1.5", "fps": 8.0})
    (tmp_path / "webvid.jsonl").write_text(f"{line}\n" * 100_000)
    started = time.monotonic()
    assert sum(1 for _ in WebVid(file=str(tmp_path / "webvid.jsonl"), folder=str(tmp_path))) == 100_000
    assert time.monotonic() - started < 15


def test_every_file_of_a_clip_is_named(tmp_path):
    write_mp4(tmp_path / "a.mp4", drawn_video(2))
    write_picture(tmp_path / "me.png")
    (tmp_path / "table.jsonl").write_text('{"path": "a.mp4", "caption": "x", "references": "me.png"}\n')
    (clip,) = Table(file=str(tmp_path / "table.jsonl"))
    assert clip.files() == (tmp_path / "a.mp4", tmp_path / "me.png")
