"""`prepare.py check=DIR`: every problem of a set is listed, by tar and sample, whoever made it."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from likeness.datamodules.shards import ShardFile, write_index
from likeness.media import encode_png
from likeness.preparation.check import check_shards, table

from ..commands import call
from ..conftest import clip_sample


def write(folder: Path, *samples, **info) -> Path:
    """Write one tar with an index."""
    with ShardFile(folder / "000000.tar") as shard:
        for key, members in samples:
            shard.write(key, members)
    write_index(folder, [shard.entry], **info)
    return folder


def kinds(source, **settings) -> list[tuple[str | None, str]]:
    result = check_shards(str(source), num_workers=0, **settings)
    return [(problem.key, problem.kind) for problem in result.problems]


def changed(key: str, info=None, **members) -> tuple[str, dict[str, bytes]]:
    """A good sample, with other members (None: without) and entries in its json."""
    _, good = clip_sample(key, **(info or {}))
    good |= {name.replace("__", "."): data for name, data in members.items()}
    return key, {name: data for name, data in good.items() if data is not None}


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def cached(recipes: str | None) -> bytes:
    return save({"x": np.zeros(3)}, None if recipes is None else {"recipes": recipes})


BOX = [0, 0.1, 0.1, 0.5, 0.5, 0.9]
FACE = {"id": "0", "face": ["face.0.png"]}


@pytest.mark.parametrize("full", [False, True])
def test_a_good_set_has_no_problem(tmp_path, full):
    tracks = [{"label": "car", "boxes": [BOX]}]
    face = {**FACE, "boxes": [BOX], "keypoints": [[11, *[0.5] * 10]], "valid_frames": {"face": [0, 11]}}
    mask = npz(face=np.ones((12, 48, 64), np.uint8))
    picture_mask = encode_png(np.zeros((20, 20), np.uint8))
    good = changed("b", {"identities": [face], "tracks": tracks}, mask__npz=mask, face__0__mask__png=picture_mask)
    folder = write(tmp_path, clip_sample("a"), good, changed("c", latents__safetensors=cached("{}")))
    assert kinds(folder, full=full) == []
    assert kinds(folder / "000000.tar", full=full) == []


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        (changed("x", json=b"{"), "broken json member"),
        (changed("x", json=None), "no json member"),
        (changed("x", json=b"[]"), "no caption"),
        (changed("x", {"caption": " "}), "no caption"),
        (changed("x", mp4=None), "no video member"),
        (changed("x", mp4=b"garbage"), "unreadable video"),
        (changed("x", mp4=clip_sample("x")[1]["mp4"][:900]), "truncated video"),
        (changed("x", {"num_frames": 11}, mp4=clip_sample("x")[1]["mp4"]), "wrong num_frames"),
        (changed("x", {"fps": 25.0}), "wrong fps"),
        (changed("x", {"height": 64, "width": 48}), "wrong size in json"),
        (changed("x", {"fps": "8"}), "broken json member"),
        (changed("x", face__0__png=None), "missing member"),
        (changed("x", face__0__png=b"garbage"), "unreadable image"),
        (changed("x", face__0__mask__png=encode_png(np.zeros((5, 5), np.uint8))), "mask of another size"),
        (changed("x", mask__npz=npz(face=np.ones((11, 48, 64), np.uint8))), "broken masks"),
        (changed("x", mask__npz=npz(face=np.full((12, 48, 64), 2, np.uint8))), "wrong mask"),
        (changed("x", mask__npz=npz(hat=np.ones((12, 48, 64), np.uint8))), "unknown mask"),
        (changed("x", mask__npz=b"garbage"), "broken masks"),
        (changed("x", mask__mp4=b"garbage"), "unreadable mask"),
        (changed("x", {"identities": [{**FACE, "boxes": [[0, -0.1, 0, 0.5, 0.5, 1]]}]}), "outside of the frame"),
        (changed("x", {"identities": [{**FACE, "head_boxes": [[12, 0, 0, 1, 1, 1]]}]}), "no such frame"),
        (changed("x", {"identities": [{**FACE, "boxes": [[0, 0.5, 0.5, 0.2, 0.9, 1]]}]}), "empty box"),
        (changed("x", {"identities": [{**FACE, "boxes": [[0, 0.5]]}]}), "broken json member"),
        (changed("x", {"identities": [{**FACE, "keypoints": [[0, *[1.2] * 10]]}]}), "outside of the frame"),
        (changed("x", {"identities": [{**FACE, "valid_frames": {"face": [99]}}]}), "no such frame"),
        (changed("x", {"tracks": [{"boxes": [[40, 0, 0, 1, 1, 1]]}]}), "no such frame"),
        (changed("x", latents__safetensors=b"garbage"), "unreadable latents"),
        (changed("x", latents__safetensors=cached(None)), "no recipe"),
        (changed("x", face_embeds__npz=b"garbage"), "unreadable embeddings"),
    ],
)
def test_each_kind_of_damage_is_named_and_the_others_are_good(tmp_path, sample, kind):
    assert kinds(write(tmp_path, clip_sample("a"), sample, clip_sample("z"))) == [("x", kind)]


def test_a_sample_cached_in_another_way_than_the_others_is_found(tmp_path):
    samples = [changed(key, latents__safetensors=cached("new" if key == "b" else "old")) for key in "abc"]
    assert kinds(write(tmp_path, *samples)) == [("b", "other recipe")]


def test_damage_that_only_decoding_finds_needs_full(tmp_path):
    data = bytearray(clip_sample("x", num_frames=40)[1]["mp4"])
    folder = write(tmp_path, clip_sample("a"))
    tar = bytearray((folder / "000000.tar").read_bytes())
    tar[-5000] ^= 1
    (folder / "000000.tar").write_bytes(tar)
    assert data and (None, "wrong checksum") not in kinds(folder)
    assert (None, "wrong checksum") in kinds(folder, full=True)


def add_member(tar: tarfile.TarFile, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
    tar.addfile(member, io.BytesIO(data))


def test_unsafe_scattered_and_doubled_members_are_found(tmp_path):
    write(tmp_path, clip_sample("a"), clip_sample("b"))
    with tarfile.open(tmp_path / "000000.tar", "a") as tar:
        add_member(tar, "/etc/cron.d/x.json")
        add_member(tar, "../x.json")
        add_member(tar, "c.json", kind=tarfile.SYMTYPE, data=b"")
        add_member(tar, "b.json")
        add_member(tar, "a.txt")
    found = kinds(tmp_path / "000000.tar")
    assert [kind for _, kind in found].count("unsafe member") == 3
    assert {("c", "unsafe member"), ("b", "duplicate member"), ("a", "scattered sample")} <= set(found)


def test_the_index_is_held_against_the_files(tmp_path):
    entries = []
    for name, samples in (("000000", "ab"), ("000001", "bc"), ("000002", "d"), ("000003", "e")):
        with ShardFile(tmp_path / f"{name}.tar") as shard:
            for key in samples:
                shard.write(*clip_sample(key))
        entries.append(dict(shard.entry))
    entries[0]["num_samples"] = 3
    write_index(tmp_path, [entries[0], entries[1], entries[2], entries[2], {**entries[0], "name": "gone.tar"}])
    cut = tmp_path / "000002.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    result = check_shards(str(tmp_path), num_workers=0)
    found = {(problem.shard, problem.kind) for problem in result.problems}
    assert {
        ("000000.tar", "wrong count"),
        ("000001.tar", "duplicate key"),
        ("000002.tar", "wrong size"),
        ("000002.tar", "listed twice"),
        ("000003.tar", "not in the index"),
        ("gone.tar", "missing shard"),
    } <= found
    assert any("duplicate key" in line and "first: 000001.tar, sample b" in line for line in table(result))
    (tmp_path / "index.json").write_text("{")
    assert (None, "broken index") in kinds(tmp_path)


def test_the_command_ends_with_1_and_a_table_and_writes_the_list(tmp_path, capfd, monkeypatch):
    folder = write(tmp_path / "data", clip_sample("a"), changed("x", {"fps": 25.0}), changed("y", {"fps": 25.0}))
    monkeypatch.chdir(tmp_path)
    outcome = call(capfd, "prepare", f"check={folder}", "num_workers=0")
    assert outcome.code == 1 and "has 2 problems in 3 samples" in outcome.error
    assert "2  wrong fps" in outcome.log and "Traceback" not in outcome.error
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "000000.samples.json",
        "000000.tar",
        "data",
        "index.json",
    ]
    outcome = call(capfd, "prepare", f"check={folder}", f"output={tmp_path / 'out'}", "num_workers=2")
    assert outcome.code == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "check.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["key"], line["kind"]) for line in lines] == [
        ("000000.tar", "x", "wrong fps"),
        ("000000.tar", "y", "wrong fps"),
    ]
    good = write(tmp_path / "good", clip_sample("a"))
    outcome = call(capfd, "prepare", f"check={good}", "num_workers=0", "full=true")
    assert outcome.code == 0 and "1 samples in 1 shards, no problem" in outcome.log
    outcome = call(capfd, "prepare", f"check={tmp_path / 'gone'}", "num_workers=0")
    assert outcome.code == 1 and "expected a folder with index.json" in outcome.error
