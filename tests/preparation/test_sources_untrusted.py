"""Whatever a file of a data set holds: an entry is used or dropped, or the layout is refused."""

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator

import pytest

from likeness.datamodules.samples import BadSample
from likeness.preparation.clips import clip_sample
from likeness.preparation.sources.celeb_basis import CelebBasis
from likeness.preparation.sources.concat_id_json import ConcatIDJson
from likeness.preparation.sources.mot import Mot
from likeness.preparation.sources.pexels import Pexels
from likeness.preparation.sources.table import Table
from likeness.preparation.sources.webvid import WebVid

from ..conftest import write_mp4, write_picture
from .test_sources_faces import consisid, write_tree
from .test_sources_frames import write_bdd, write_coco, write_mot

JUNK = [None, True, -1, 0, 1.5, 1e308, float("nan"), float("inf"), 10**400, "", "x", "1", "nan", "../..", "/etc/passwd"]
JUNK += ["\0", "\ud800", [], {}, [[]], {"a": 1}, [1, 2, 3, 4]]
NUM_CHANGES = 25


def places(value, path=()) -> list[tuple]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


def changed(value, rng: random.Random):
    """`value` with something in it replaced, renamed or removed."""
    value = copy.deepcopy(value)
    path, junk = rng.choice(places(value)), rng.choice(JUNK)
    if not path:
        return junk
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    way = rng.random()
    if way < 0.15 and isinstance(holder, dict):
        holder[str(rng.choice(JUNK))] = holder.pop(path[-1])
    elif way < 0.3:
        del holder[path[-1]]
    else:
        holder[path[-1]] = junk
    return value


def check(make: Callable) -> None:
    """Read all that `make` lists."""
    try:
        for clip in make():
            clip.files()
            with contextlib.suppress(BadSample):
                json.dumps(clip_sample(clip, "k", "pyav").info, allow_nan=False)
    except ValueError as error:
        if type(error) is not ValueError:  # one that slipped through, such as a UnicodeDecodeError
            raise


def variants(path, rng: random.Random, *, lines: bool = False) -> Iterator[None]:
    """Write the file at `path` again and again, each time with another change; in the end as it was."""
    before = path.read_text()
    content = [json.loads(line) for line in before.splitlines()] if lines else json.loads(before)
    for _ in range(NUM_CHANGES):
        value = changed(content, rng)
        rows = value if isinstance(value, list) else [value]
        path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(value))
        yield
    path.write_text(before)


@pytest.mark.parametrize("name", ["captions/all", "refine_bbox_jsons/a", "corresponding", "valid", "control"])
def test_consisid(tmp_path, name):
    file = write_tree(tmp_path)
    (path,) = [path for path in tmp_path.rglob("*.json") if name in str(path.relative_to(tmp_path))]
    for _ in variants(path, random.Random(0)):
        check(lambda: consisid(file, masks=[]))


def test_tracked_boxes(tmp_path):
    coco, bdd = write_coco(tmp_path / "coco"), write_bdd(tmp_path / "bdd")
    for _ in variants(tmp_path / "coco" / "coco.json", random.Random(1)):
        check(lambda: coco)
    for _ in variants(tmp_path / "bdd" / "labels" / "b1.json", random.Random(2)):
        check(lambda: bdd)
    folder, rng = write_mot(tmp_path), random.Random(3)
    path = tmp_path / "mot" / "MOT17-02" / "gt" / "gt.txt"
    text = path.read_text()
    for _ in range(NUM_CHANGES):
        letters = list(text)
        letters[rng.randrange(len(letters))] = rng.choice(["x", ",", "-", "9" * 50, "\n", "\0", "1e99", ""])
        path.write_text("".join(letters))
        check(lambda: Mot(folder=folder, min_frames=5))


def test_lists(tmp_path):
    video, picture = str(write_mp4(tmp_path / "a.mp4")), str(write_picture(tmp_path / "p.png"))

    def write(name, content) -> str:
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    webvid = write("webvid.jsonl", {"text": "x", "file": "a.mp4", "time": "1", "fps": 8.0})
    pexels = write("pexels.jsonl", {"id": 1, "file": "a.mp4", "fps": 8, "height": 576, "width": 1024})
    captions = write("captions.jsonl", {"id": 1, "text": "x"})
    table = write("table.jsonl", {"path": video, "caption": "x", "references": picture, "n": 1})
    entries = write("concat.json", [{"video_path": video, "caption": "x", "image_path": picture, "mask_path": ""}])
    faces = write("faces.json", [picture, [picture, 0.5]])
    for name, make in {
        "webvid.jsonl": lambda: WebVid(file=webvid, folder=str(tmp_path)),
        "pexels.jsonl": lambda: Pexels(file=pexels, captions=captions, folder=str(tmp_path)),
        "captions.jsonl": lambda: Pexels(file=pexels, captions=captions, folder=str(tmp_path)),
        "table.jsonl": lambda: Table(file=table),
        "concat.json": lambda: ConcatIDJson(file=entries),
        "faces.json": lambda: CelebBasis(pictures=faces),
    }.items():
        for _ in variants(tmp_path / name, random.Random(name), lines=name.endswith("jsonl")):
            check(make)
