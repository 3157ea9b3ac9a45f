"""Samples that others wrote: one that is not as docs/data.md says is skipped with its reason, and costs no other."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from likeness.datamodules.buckets import Buckets
from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.conditions import FirstFrame
from likeness.datamodules.faces import FaceMask
from likeness.datamodules.frame_selection import ConsisIDFrames
from likeness.datamodules.frames import StridedFrames
from likeness.datamodules.masks import MASKS, encode_masks
from likeness.datamodules.resize import resized_window
from likeness.datamodules.samples import BadSample, Sample
from likeness.datamodules.shard_set import ShardSet
from likeness.datamodules.shards import list_shards, scan_tar
from likeness.media import encode_png

from ..conftest import clip_sample, write_shards
from .test_shards import file_entry, numbered, tar_of

HUGE = 10**30
WRONG = [{"num_frames": value} for value in ("abc", [1], -5, 0, 0.5, float("nan"), float("inf"), True, HUGE)]
WRONG += [{"fps": value} for value in ("abc", {}, -1.0, float("nan"))]
WRONG += [{"identities": value} for value in ("abc", ["a"], 5, [{"face": [["a"]]}], [{"face": [3]}], [{"face": "a"}])]
WRONG += [{"identities": [{"valid_frames": value}]} for value in ([1], {"face": ["x"]}, {"face": 1})]
ROWS = (5, ["x"], [[0, 1]], [[0, 0, 0, 1, None]], [[0, 0, 0, 1, float("nan")]], [[0, 0, 0, 1, 10**400]])
WRONG += [{"identities": [{"boxes": value}]} for value in ROWS]
WRONG += [{"tracks": value} for value in ("x", [3], [{"boxes": 5}])]
WRONG += [{"caption": "half \ud83d"}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_json_member_of_other_types_than_documented_makes_a_bad_sample(wrong):
    data = json.dumps({"caption": "x", **wrong}).encode()
    with pytest.raises(BadSample, match="broken json member"):
        Sample.parse({"__key__": "a", "__url__": "x", "json": data})


def module_of(folder, **settings) -> ClipDataModule:
    usual = {"num_frames": 4, "height": 32, "width": 48, "frames": StridedFrames(), "conditions": {}, "batch_size": 2}
    return ClipDataModule(train=str(folder), **(usual | settings))


def served(module: ClipDataModule) -> tuple[list[str], dict[str, str]]:
    keys = sorted(key for batch in module.train_dataloader() for key in batch["key"])
    return keys, {skip.key: skip.reason for skip in module.skipped.values()}


class Stumbles(StridedFrames):
    def __call__(self, info, num_frames, rng):
        if "trap" in info:
            raise eval(info["trap"])
        return super().__call__(info, num_frames, rng)


@pytest.mark.parametrize("error", ["KeyError('a')", "TypeError()", "OverflowError()", "MemoryError()", "IndexError()"])
def test_whatever_one_sample_makes_decoding_stumble_over_costs_no_other(tmp_path, error):
    folder = write_shards(tmp_path / "data", [clip_sample("a"), clip_sample("b", trap=error), clip_sample("c")])
    assert served(module_of(folder, frames=Stumbles())) == (["a", "c"], {"b": "not decodable"})


def test_a_wrong_motion_and_a_mask_without_num_frames_cost_no_other_sample(tmp_path):
    mask = encode_masks({"face": [np.ones((48, 64), np.uint8)] * 12}, (12, 48, 64))
    wrong, (_, bare) = clip_sample("b", motion_bucket_id="x"), clip_sample("c")
    samples = [clip_sample("a"), wrong, ("c", {"mp4": bare["mp4"], "json": b'{"caption": "x"}'})]
    folder = write_shards(tmp_path / "data", [(key, {**members, MASKS: mask}) for key, members in samples])
    conditions = {"first": FirstFrame(height=32, width=48), "mask": FaceMask()}
    assert served(module_of(folder, conditions=conditions)) == (["a", "c"], {"b": "broken json member"})


def test_what_a_json_leaves_out_is_taken_from_the_video(tmp_path):
    bare = [(key, {"mp4": clip_sample(key)[1]["mp4"], "json": b'{"caption": "x"}'}) for key in "ab"]
    folder = write_shards(tmp_path / "data", bare)
    frames = ConsisIDFrames(stride=1, skip_start=0, skip_end=0)
    module = module_of(folder, frames=frames, conditions={"first": FirstFrame(height=32, width=48)})
    (batch,) = module.train_dataloader()
    assert batch["fps"].tolist() == [8, 8]


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_picture_of_which_the_json_says_nothing_is_a_clip_of_one_frame(tmp_path, is_listed):
    picture = encode_png(np.zeros((48, 64, 3), np.uint8))
    folder = write_shards(tmp_path / "data", [("a", {"png": picture, "json": b'{"caption": "x"}'})])
    if not is_listed:
        (folder / "000000.samples.json").unlink()
    buckets = Buckets(sizes=[[32, 48]], lengths=[13, 1], token_budget=10_000)
    (batch,) = module_of(folder, buckets=buckets).train_dataloader()
    assert batch["pixel_values"].shape == (1, 3, 1, 32, 48)


def damaged_zip(method: int, first: int, last: int) -> bytes:
    whole = encode_masks({"face": [np.ones((48, 64), np.uint8)] * 12}, (12, 48, 64))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("face.npy", zipfile.ZipFile(io.BytesIO(whole)).read("face.npy"))
    data = bytearray(buffer.getvalue())
    data[first:last] = b"\xff" * (last - first)
    return bytes(data)


def encrypted(data: bytes) -> bytes:
    flags = data.index(b"PK\x01\x02") + 8
    return data[:flags] + b"\x01" + data[flags + 1 :]


def npy_zip(header: str) -> bytes:
    buffer, text = io.BytesIO(), header.encode()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("face.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "mask",
    [
        damaged_zip(zipfile.ZIP_LZMA, 60, 90),
        damaged_zip(zipfile.ZIP_BZIP2, 45, 70),
        encrypted(damaged_zip(zipfile.ZIP_STORED, 0, 0)),
        npy_zip("{'a': ("),
        npy_zip("(" * 5000),
        npy_zip("{'descr': ',,,', 'fortran_order': False, 'shape': (12, 48, 64)}"),
    ],
    ids=["lzma", "bzip2", "encrypted", "token", "syntax", "dtype"],
)
def test_masks_that_their_library_stumbles_over_cost_no_other_sample(tmp_path, mask):
    good = encode_masks({"face": [np.ones((48, 64), np.uint8)] * 12}, (12, 48, 64))
    samples = [(key, {**clip_sample(key)[1], MASKS: data}) for key, data in (("a", good), ("b", mask))]
    module = module_of(write_shards(tmp_path / "data", samples), conditions={"mask": FaceMask()})
    assert served(module) == (["a"], {"b": "broken masks"})


def test_a_damaged_header_in_the_middle_of_a_tar_is_no_quiet_end(tmp_path):
    path = write_shards(tmp_path, numbered(6), per_shard=6) / "000000.tar"
    start = int(ShardSet(str(tmp_path)).table["start"][3])
    data = bytearray(path.read_bytes())
    data[start + 150] ^= 0xFF  # in the checksum
    path.write_bytes(data)
    samples, problem = scan_tar(path)
    assert samples.columns["key"] == ["k0", "k1"]  # of the last one before the damage, members may be missing
    assert f"damaged header at byte {start}" in problem
    path.write_bytes(data[:start] + bytes(1024) + data[start:])
    assert f"damaged header at byte {start}" in scan_tar(path)[1]
    path.write_bytes(data[:start] + bytes(20_000))
    assert scan_tar(path)[1] is None


def test_a_damaged_header_within_a_listed_sample_is_found(tmp_path):
    folder = write_shards(tmp_path, [clip_sample("a"), clip_sample("b")])
    with tarfile.open(folder / "000000.tar") as tar:
        place = max(member.offset for member in tar if member.name.startswith("a."))
    with open(folder / "000000.tar", "r+b") as stream:
        stream.seek(place + 150)
        stream.write(b"?")
    samples = ShardSet(str(folder))
    assert samples[1].info["caption"]
    with pytest.raises(BadSample, match="damaged header"):
        samples[0]


def test_the_extra_files_of_macos_are_not_part_of_samples(tmp_path):
    members = [("a.mp4", b"x"), ("a.json", b'{"caption": "a"}'), ("b.mp4", b"y"), ("b.json", b'{"caption": "b"}')]
    pairs = [(file_entry(f"._{name}", b"Mac OS X"), file_entry(name, data)) for name, data in members]
    tar_of(tmp_path / "mac.tar", *(entry for pair in pairs for entry in pair), file_entry("README", b"x"))
    samples = ShardSet(str(tmp_path / "mac.tar"))
    assert samples.keys == ["a", "b"]
    assert [sorted(samples[number].members) for number in (0, 1)] == [["json", "mp4"]] * 2


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("num_frames", ["x", "y"]),
        ("num_frames", [HUGE, 1]),
        ("height", [[1], [2]]),
        ("width", [-1, 1]),
        ("references", [None, 1]),
        ("fps", [float("nan"), 1.0]),
        ("key", [1, 2]),
    ],
)
def test_a_list_of_samples_with_other_values_than_numbers_is_made_again(tmp_path, name, column):
    path = write_shards(tmp_path, numbered(2)) / "000000.samples.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: column}))
    assert ShardSet(str(tmp_path)).keys == ["k0", "k1"]
    path.write_text("[" * 100_000)
    assert ShardSet(str(tmp_path)).keys == ["k0", "k1"]


def test_an_index_nested_too_deeply_is_named(tmp_path):
    (write_shards(tmp_path, numbered(1)) / "index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not an index of shards"):
        list_shards(str(tmp_path))


def test_an_extremely_wide_picture_is_refused_before_memory_is_taken():
    wide = np.zeros((1, 2, 4096, 3), np.uint8)
    with pytest.raises(BadSample, match="too large"):
        resized_window(wide, (480, 983_040), range(480), range(720), "bicubic", True)


def test_weights_made_in_parts_are_those_made_at_once(monkeypatch):
    frames = np.random.default_rng(0).integers(0, 255, (1, 61, 83, 3), np.uint8)

    def resized(mode: str, antialias: bool) -> torch.Tensor:
        return resized_window(frames, (47, 131), range(3, 40), range(50, 99), mode, antialias)

    ways = [("bicubic", True), ("bilinear", True), ("bilinear", False)]
    at_once = [resized(*way) for way in ways]
    from likeness.datamodules import resize

    resize._blocks.cache_clear()
    monkeypatch.setattr(resize, "MAX_CHUNK", 1000)
    assert all(torch.equal(resized(*way), whole) for way, whole in zip(ways, at_once, strict=True))
