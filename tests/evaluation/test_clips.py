import json
import logging

import pytest

from likeness.evaluation.clips import find_clips

from ..conftest import clip_sample, write_mp4, write_picture, write_shards


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        write_mp4(tmp_path / "clips" / f"{name}.mp4")
        write_picture(tmp_path / "faces" / f"{name}.png")
    return tmp_path


def test_a_folder_with_pictures_of_the_same_names(folder):
    (folder / "clips" / "a.txt").write_text("a square\n")
    clips = find_clips(str(folder / "clips"), str(folder / "faces"))
    assert [(clip.name, clip.prompt) for clip in clips] == [("a.mp4", "a square"), ("b.mp4", "")]
    assert clips[0].load().references[0].shape == (40, 30, 3)
    assert clips[0].load().video == (folder / "clips" / "a.mp4").read_bytes()


def test_a_video_without_a_picture_is_an_error_that_counts_and_a_picture_too_many_a_warning(folder, caplog):
    (folder / "faces" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"no reference picture for b\.mp4.*\(1 of 2 videos have none\)"):
        find_clips(str(folder / "clips"), str(folder / "faces"))
    write_picture(folder / "faces" / "b.png")
    write_picture(folder / "faces" / "zoe.png")
    with caplog.at_level(logging.WARNING):
        find_clips(str(folder / "clips"), str(folder / "faces"))
    assert "1 pictures" in caplog.text
    assert "zoe.png" in caplog.text


def test_hidden_files_are_no_clips_and_references_that_are_not_there_are_an_error(folder):
    (folder / "clips" / "._a.mp4").write_bytes(b"what macOS leaves")
    write_mp4(folder / "clips" / ".trash" / "c.mp4")
    assert [clip.name for clip in find_clips(str(folder / "clips"), str(folder / "faces"))] == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="references=.*gone does not exist"):
        find_clips(str(folder / "clips"), str(folder / "gone"))


def test_prompts_come_from_a_folder_or_a_file_and_must_be_as_many(folder):
    (folder / "prompts.txt").write_text("first\nsecond\n")
    place = (str(folder / "clips"), str(folder / "faces"))
    assert [clip.prompt for clip in find_clips(*place, str(folder / "prompts.txt"))] == ["first", "second"]
    (folder / "prompts.txt").write_text("first\n")
    with pytest.raises(ValueError, match="has 1 lines, and there are 2 videos"):
        find_clips(*place, str(folder / "prompts.txt"))
    with pytest.raises(ValueError, match="2 of 2 videos have no prompt"):
        find_clips(*place, str(folder / "faces"))


def test_a_list_names_videos_references_prompts_and_people(folder):
    lines = [
        {"video": "clips/a.mp4", "references": ["faces/a.png", "faces/b.png"], "prompt": "two", "people": ["x", "y"]},
        {"video": "clips/a.mp4", "references": "faces/b.png"},
    ]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second = find_clips(str(folder / "list.jsonl"))
    assert (first.name, first.prompt, first.people, len(first.references)) == ("clips/a.mp4", "two", ("x", "y"), 2)
    assert (second.name, len(second.references)) == ("clips/a.mp4#2", 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "line 1: expected an object with `video`"),
        ('{"video": "gone.mp4"}', "there is no file gone.mp4"),
        ('{"video": "clips/a.mp4", "references": ["faces/a.png"], "people": ["x", "y"]}', "2 people for 1 references"),
        ('{"video": "clips/a.mp4"}', "lists no clip with a reference picture"),
        ("", "has no lines"),
        ('{"video": "clips/a.mp4", "prompt": 7}', "line 1: prompt must be text, in quotes; it is 7"),
        ('{"video": "clips/a.mp4", "references": [7]}', "references must be the name of a picture, or a list"),
        ('{"video": "clips/a.mp4", "people": 7}', "people must be a name, or a list of one for each reference"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(folder, line, message):
    (folder / "list.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        find_clips(str(folder / "list.jsonl"))


def test_shards_bring_references_captions_and_ids_and_a_broken_sample_says_so_when_it_is_loaded(tmp_path):
    samples = [clip_sample("a", seed=1), clip_sample("b", seed=2)]
    samples[1][1]["json"] = b"{"
    write_shards(tmp_path / "shards", samples)
    whole, broken = find_clips(str(tmp_path / "shards"))
    assert (whole.name, whole.prompt, whole.people) == ("a", "clip 1", ("1",))
    assert len(whole.load().references) == 1
    with pytest.raises(ValueError, match="broken json member"):
        broken.load()


def test_a_changed_file_has_another_stamp(folder):
    before = find_clips(str(folder / "clips"), str(folder / "faces"))
    write_picture(folder / "faces" / "a.png", seed=7, size=(50, 50))
    after = find_clips(str(folder / "clips"), str(folder / "faces"))
    assert before[0].stamp != after[0].stamp
    assert before[1].stamp == after[1].stamp


def test_references_none_leaves_them_out(folder):
    clips = find_clips(str(folder / "clips"), "none", needs_references=False)
    assert [clip.references for clip in clips] == [(), ()]
    assert clips[0].load().references == []


def test_lists_may_have_other_separators_in_prompts_a_byte_order_mark_and_one_person_without_brackets(folder):
    entry = {"video": "clips/a.mp4", "references": "faces/a.png", "prompt": "one\u2028two", "people": "alice"}
    (folder / "list.jsonl").write_text("\ufeff" + json.dumps(entry, ensure_ascii=False) + "\n")
    (clip,) = find_clips(str(folder / "list.jsonl"))
    assert (clip.prompt, clip.people) == ("one\u2028two", ("alice",))
    (folder / "prompts.txt").write_text("one\u2028two\n")
    (clip,) = find_clips(str(folder / "list.jsonl"), prompts=str(folder / "prompts.txt"))
    assert clip.prompt == "one\u2028two"


def test_references_that_are_given_replace_those_of_lists_and_shards(folder):
    lines = [{"video": "clips/a.mp4", "references": ["faces/gone.png"]}, {"video": str(folder / "clips" / "b.mp4")}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_shards(folder / "shards", [clip_sample("a", seed=3), clip_sample("b", seed=4)])
    for videos in (folder / "list.jsonl", folder / "shards"):
        clips = find_clips(str(videos), str(folder / "faces"))
        assert [clip.references for clip in clips] == [(str(folder / "faces" / f"{name}.png"),) for name in "ab"]
        assert [clip.people for clip in clips] == [None, None]
        assert clips[0].load().references[0].shape == (40, 30, 3)
        assert clips[0].stamp != find_clips(str(videos), str(folder / "faces" / "b.png"))[0].stamp
    (folder / "faces" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"no reference picture for b in .*\(1 of 2 videos have none\)"):
        find_clips(str(folder / "shards"), str(folder / "faces"))


def sampled(folder, *records: dict) -> str:
    """Write what sample.py says of its clips."""
    common = {"prompt": "a square", "references": [], "num_frames": 12}
    (folder / "samples.jsonl").write_text("".join(json.dumps(common | record) + "\n" for record in records))
    return str(folder)


def test_clips_that_sample_py_made_without_a_reference_are_clips_like_the_others(folder):
    write_picture(folder / "clips" / "face.png")
    records = {"video": "a.mp4", "references": ["face.png"]}, {"video": "b.mp4"}
    clips = find_clips(sampled(folder / "clips", *records))
    assert [(clip.name, len(clip.references)) for clip in clips] == [("a.mp4", 1), ("b.mp4", 0)]


def test_references_that_are_given_leave_what_sample_py_says_of_prompts_and_boxes(folder):
    boxes = {"coordinates": "unit", "objects": [{"boxes": [[0, 0, 0, 0.5, 1]], "ends": "hold"}]}
    videos = sampled(
        folder / "clips", {"video": "a.mp4", "boxes": boxes}, {"video": "b.mp4", "references": ["gone.png"]}
    )
    first, second = find_clips(videos, str(folder / "faces"))
    assert (first.prompt, len(first.boxes.boxes)) == ("a square", 12)
    assert [clip.references for clip in (first, second)] == [(str(folder / "faces" / f"{name}.png"),) for name in "ab"]
    assert second.load().references[0].shape == (40, 30, 3)


def test_pictures_are_found_whatever_the_case_of_their_suffix(folder):
    (folder / "clips" / "a.mp4").rename(folder / "clips" / "A.MP4")
    (folder / "faces" / "a.png").unlink()
    write_picture(folder / "faces" / "A.JPG")
    first, _ = find_clips(str(folder / "clips"), str(folder / "faces"))
    assert first.references == (str(folder / "faces" / "A.JPG"),)


def test_videos_beside_an_index_are_no_shards_and_animations_are_said_to_be_no_videos(folder, caplog):
    (folder / "clips" / "index.json").write_text("{}")
    (folder / "clips" / "c.gif").write_bytes(b"GIF89a")
    with caplog.at_level(logging.WARNING):
        assert len(find_clips(str(folder / "clips"), str(folder / "faces"))) == 2
    assert "1 animations (.gif) are no videos: make videos of them, e.g. ffmpeg -i" in caplog.text
    with pytest.raises(ValueError, match=r"real=.* holds no video .*1 animations"):
        find_clips(str(folder / "clips" / "c.gif"), needs_references=False, setting="real")


def test_prompts_of_a_folder_lie_in_the_subfolders_of_the_videos_or_beside_each_other(folder):
    write_mp4(folder / "clips" / "more" / "a.mp4")
    for name in ("a", "b", "more/a"):
        (folder / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "texts" / f"{name}.txt").write_text(name)
    clips = find_clips(str(folder / "clips"), "none", str(folder / "texts"), needs_references=False)
    assert {clip.name: clip.prompt for clip in clips} == {"a.mp4": "a", "b.mp4": "b", "more/a.mp4": "more/a"}
