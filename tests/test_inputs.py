import numpy as np
import pytest
from PIL import Image

from likeness.inputs import read_picture, read_requests

from .conftest import write_picture


def test_command_line_request(tmp_path):
    picture = write_picture(tmp_path / "a.png")
    (request,) = read_requests("a person", [str(picture)], None)
    assert (request.prompt, request.references) == ("a person", (picture,))


def test_list_file_of_the_original(tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name)
    (tmp_path / "list.txt").write_text("one@@a.png\n\ntwo, with a comma@@a.png@@b.png\n")
    first, second = read_requests(None, [], str(tmp_path / "list.txt"))
    assert first.references == (tmp_path / "a.png",)
    assert (second.prompt, len(second.references)) == ("two, with a comma", 2)


def test_json_lines(tmp_path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "list.jsonl").write_text('{"prompt": "one", "references": ["a.png"], "seed": 7}\n')
    (request,) = read_requests(None, [], str(tmp_path / "list.jsonl"))
    assert (request.prompt, request.seed) == ("one", 7)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "one@@a.png\nno picture\n", r"list\.txt, line 2: expected prompt@@image"),
        ("list.txt", "one@@a.png\n\n@@a.png\n", r"list\.txt, line 3: expected prompt@@image"),
        ("list.txt", "one@@gone.png\n", r"list\.txt, line 1: there is no picture gone\.png"),
        ("list.txt", "\n", "has no lines"),
        ("list.jsonl", "{}\n", r"list\.jsonl, line 1: expected an object with `prompt`"),
        ("list.jsonl", "not json\n", r"list\.jsonl, line 1"),
    ],
)
def test_wrong_lines_are_named(tmp_path, name, text, message):
    write_picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_requests(None, [], str(tmp_path / name))


@pytest.mark.parametrize("arguments", [(None, [], None), ("a", [], "list.txt")])
def test_prompt_and_list_exclude_each_other(arguments):
    with pytest.raises(ValueError, match="give either prompt"):
        read_requests(*arguments)


def test_missing_list_is_named():
    with pytest.raises(ValueError, match="inputs=gone.txt does not exist"):
        read_requests(None, [], "gone.txt")


def test_pictures_are_turned_upright(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert read_picture(tmp_path / "a.png").shape == (8, 4, 3)


def test_unreadable_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
        read_picture(tmp_path / "a.png")


def test_boxes_of_the_command_line_are_those_of_lines_without_their_own(tmp_path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "all.csv").write_text("frame,id,x1,y1,x2,y2\n0,all,0,0,1,1\n")
    (tmp_path / "own.csv").write_text("frame,id,x1,y1,x2,y2\n0,own,0,0,1,1\n")
    (tmp_path / "list.jsonl").write_text('{"references": ["a.png"]}\n{"references": ["a.png"], "boxes": "own.csv"}\n')
    requests = read_requests(None, [], str(tmp_path / "list.jsonl"), str(tmp_path / "all.csv"))
    assert [request.boxes.key_boxes.objects[0].id for request in requests] == ["all", "own"]
    assert read_requests(None, [], str(tmp_path / "list.jsonl"))[0].boxes is None


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ('"gone.json"', r"list\.jsonl, line 1: there is no file of boxes gone\.json"),
        ('{"objects": []}', r'list\.jsonl, line 1, boxes: "coordinates" must say'),
        ("3", r"list\.jsonl, line 1, boxes: expected an object with coordinates"),
    ],
)
def test_wrong_boxes_of_a_line_are_named(tmp_path, boxes, message):
    write_picture(tmp_path / "a.png")
    (tmp_path / "list.jsonl").write_text(f'{{"references": ["a.png"], "boxes": {boxes}}}\n')
    with pytest.raises(ValueError, match=message):
        read_requests(None, [], str(tmp_path / "list.jsonl"))
