"""Preparing and checking shards that others wrote: what is wrong with a sample is reported, and no other is lost."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from likeness.datamodules.images import decode_image
from likeness.datamodules.masks import encode_masks
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.shard_set import ShardSet
from likeness.media import encode_png
from likeness.preparation.check import check_shards
from likeness.preparation.sources.celeb_basis import CelebBasis
from likeness.preparation.sources.shards import ShardFolder
from likeness.preparation.stages.embed_faces import read_embeddings
from likeness.preparation.stages.shots import Shots

from ..commands import call
from ..conftest import clip_sample, write_shards
from ..datamodules.test_foreign_samples import WRONG
from ..datamodules.test_shards import file_entry, link_entry, tar_of
from .test_check import changed, kinds, write

MINIMAL = ("a", {"mp4": clip_sample("a", num_frames=40)[1]["mp4"], "json": b'{"caption": "x"}'})


def prepare(capfd, folder: Path, output: Path, *arguments: str):
    words = ("source=shards", f"source.folder={folder}", f"output={output}", "num_workers=0", *arguments)
    return call(capfd, "prepare", *words)


def wrong_samples() -> list[tuple[str, dict[str, bytes]]]:
    _, good = clip_sample("x")
    info = json.loads(good["json"])
    return [(f"x{n:02d}", {**good, "json": json.dumps(info | wrong).encode()}) for n, wrong in enumerate(WRONG)]


def test_wrong_json_is_one_problem_of_its_sample(tmp_path):
    found = kinds(write(tmp_path, clip_sample("a"), *wrong_samples()))
    assert found == [(key, "broken json member") for key, _ in wrong_samples()]


def test_whatever_check_stumbles_over_is_a_problem_of_that_sample(tmp_path, monkeypatch):
    folder = write(tmp_path, clip_sample("a"), clip_sample("b"))
    whole = Sample.parse

    def parse(raw):
        if raw["__key__"] == "b":
            raise KeyError("something nobody thought of")
        return whole(raw)

    monkeypatch.setattr(Sample, "parse", parse)
    assert kinds(folder) == [("b", "cannot be checked")]


def test_samples_with_wrong_json_are_dropped_and_the_report_is_written(tmp_path, capfd):
    turned = [[0, 0.5, 0.5, 0.2, 0.9, 1.0]]
    wide = {"png": encode_png(np.zeros((1, 100_000, 3), np.uint8)), "json": b'{"caption": "x"}'}
    samples = [clip_sample("a", identities=[{"id": "\ud83d", "face": ["face.0.png"], "boxes": turned}]), ("wide", wide)]
    samples += wrong_samples()
    outcome = prepare(capfd, write_shards(tmp_path / "data", samples), tmp_path / "out")
    assert outcome.code == 0, outcome.error
    assert f"kept 2 of {len(samples)} clips" in outcome.log
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure><div class=frames>") == 2


def test_a_report_that_fails_does_not_fail_the_preparation(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("likeness.preparation.report.write_atomically", lambda path, data: 1 / 0)
    outcome = prepare(capfd, write_shards(tmp_path / "data", [clip_sample("a")]), tmp_path / "out")
    assert outcome.code == 0
    assert "report.html could not be written" in outcome.log


def test_unsafe_members_do_not_get_into_our_shards(tmp_path, capfd):
    good = [file_entry(f"good.{suffix}", data) for suffix, data in clip_sample("good")[1].items()]
    _, members = clip_sample("x", 1)
    evil = [file_entry(f"{key}.{one}", members[one]) for key in ("../../evil", "/abs") for one in ("mp4", "json")]
    link = [link_entry("link.mp4", tarfile.SYMTYPE), file_entry("link.json", members["json"])]
    (tmp_path / "data").mkdir()
    tar_of(tmp_path / "data" / "000000.tar", *good, *evil, *link)
    outcome = prepare(capfd, tmp_path / "data", tmp_path / "out")
    assert "kept 1 of 4 clips" in outcome.log
    assert "dropped 3: unsafe member" in outcome.log
    assert ShardSet(str(tmp_path / "out")).keys == ["good"]


def test_a_damaged_header_is_reported_by_source_and_check(tmp_path):
    folder = write_shards(tmp_path, [clip_sample(key) for key in "abc"])
    start = int(ShardSet(str(folder)).table["start"][2])
    with open(folder / "000000.tar", "r+b") as stream:
        stream.seek(start + 150)
        stream.write(b"?")
    (folder / "index.json").unlink()
    assert any(
        f"damaged header at byte {start}" in str(one) for one in check_shards(str(folder), num_workers=0).problems
    )
    first, damaged = ShardFolder(folder=str(folder))
    assert first.load().key == "a"
    with pytest.raises(BadSample, match="damaged header"):
        damaged.load()


def test_the_extra_files_of_macos_change_nothing(tmp_path):
    _, members = clip_sample("a")
    entries = [(file_entry(f"._a.{suffix}", b"x"), file_entry(f"a.{suffix}", data)) for suffix, data in members.items()]
    tar_of(tmp_path / "000000.tar", *(entry for pair in entries for entry in pair))
    (stored,) = ShardFolder(folder=str(tmp_path))
    assert stored.load().members == members
    assert kinds(tmp_path) == []


def test_what_a_minimal_json_leaves_out_is_filled_in(tmp_path, capfd):
    folder = write_shards(tmp_path / "data", [MINIMAL])
    assert kinds(folder) == []
    stages = ("stages=[filter,shots]", "stages.filter.frames=[30,50]", "stages.filter.side=[48,48]")
    assert "kept 1 of 1 clips" in prepare(capfd, folder, tmp_path / "out", *stages).log
    info = ShardSet(str(tmp_path / "out"))[0].info
    assert (info["num_frames"], info["fps"], info["height"], info["width"]) == (40, 8.0, 48, 64)


def bomb(name: str, shape: tuple[int, ...]) -> bytes:
    """Return a small archive of an array that would be large."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        stream.write(bytes(2**20))
    return buffer.getvalue()


def test_arrays_larger_than_they_can_be_are_refused_by_their_header(tmp_path):
    members = {"mask__npz": bomb("face", (2**40,)), "face_embeds__npz": bomb("face.0.png", (2**40,))}
    assert kinds(write(tmp_path, changed("x", **members))) == [("x", "broken masks"), ("x", "unreadable embeddings")]
    sample = Sample("x", "", {**changed("x")[1], "face_embeds.npz": bomb("analyzer", (2**40,))}, {})
    with pytest.raises(BadSample, match="not a vector of at most"):
        read_embeddings(sample)


def test_masks_of_a_shot_are_those_of_its_frames():
    masks = np.arange(12, dtype=np.uint8)[:, None, None] + np.zeros((12, 49, 64), np.uint8)
    _, members = clip_sample("a")
    info = {**json.loads(members["json"]), "height": 49}
    sample = Sample("a", "", {**members, "mask.npz": encode_masks({"head": masks}, masks.shape)}, info)
    cut = Shots(min_frames=1)._cut(sample, 0, 3, 7)
    with np.load(io.BytesIO(cut.members["mask.npz"])) as arrays:
        assert (arrays["head"] == masks[3:7, :48]).all()


def test_a_pickle_that_grows_without_end_is_named_by_its_type(tmp_path):
    entry: list = ["x"]
    for _ in range(40):
        entry = [entry, entry]
    deep = b"\x80\x02]" + b"]" * 100_000 + b"a" * 100_000 + b"."
    for data in (pickle.dumps([entry]), deep):
        (tmp_path / "ffhq.pickle").write_bytes(data)
        (clip,) = CelebBasis(pictures=str(tmp_path / "ffhq.pickle"))
        assert clip.problem is not None
        assert "expected the path of a picture, got a list" in clip.problem[1]


def test_check_knows_clips_of_which_only_the_cache_is_left(tmp_path):
    from .test_check import cached

    left = changed("x", {"video_sha256": "0" * 64}, mp4=None, latents__safetensors=cached("{}"))
    assert kinds(write(tmp_path, clip_sample("a"), left)) == []


def test_check_opens_nothing_outside_of_the_folder(tmp_path):
    folder = write(tmp_path / "data", clip_sample("a"))
    write(tmp_path / "outside", changed("z", mp4=b"garbage"))
    index = json.loads((folder / "index.json").read_text())
    index["shards"].append({"name": "../outside/000000.tar", "num_samples": 1})
    (folder / "index.json").write_text(json.dumps(index))
    assert kinds(folder) == [(None, "unsafe name")]
    (folder / "index.json").write_text("[" * 100_000)
    assert kinds(folder) == [(None, "broken index")]


def test_check_decodes_reference_pictures_of_any_format(tmp_path):
    face = {"identities": [{"id": "0", "face": ["face.0.jpg"]}]}
    broken = changed("x", face, face__0__png=None, face__0__jpg=b"garbage")
    assert decode_image(clip_sample("a")[1]["face.0.png"], "a").shape == (20, 20, 3)
    assert kinds(write(tmp_path, broken)) == [("x", "unreadable image")]
