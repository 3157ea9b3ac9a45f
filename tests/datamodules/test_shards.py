import json

import pytest

from likeness.datamodules.samples import BadSample
from likeness.datamodules.shards import Shard, ShardWriter, list_shards, read_shard

from ..conftest import write_shards


def numbered(count: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"k{i}", {"json": b"{}", "mp4": bytes([i]) * 2000}) for i in range(count)]


def test_written_shards_are_read_back_in_order(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(10), per_shard=4)
    shards = list_shards(folder)
    assert [shard.num_samples for shard in shards] == [4, 4, 2]
    samples = [raw for shard in shards for _, raw in read_shard(shard)]
    assert [sample["__key__"] for sample in samples] == [f"k{i}" for i in range(10)]
    assert samples[7]["mp4"] == bytes([7]) * 2000


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 3), (2, 2), (3, 4), (0, 1)])
def test_part_of_a_shard(tmp_path, start, stop):
    (shard,) = list_shards(write_shards(tmp_path / "data", numbered(4)))
    assert [(place, raw["__key__"]) for place, raw in read_shard(shard, start, stop)] == [
        (i, f"k{i}") for i in range(start, stop)
    ]


def test_shards_without_an_index_are_counted(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(10), per_shard=4)
    (folder / "index.json").unlink()
    for source in (
        folder,
        f"{folder}/*.tar",
        f"{folder}/{{000000..000002}}.tar",
        [f"{folder}/000000.tar", f"{folder}/00000[12].tar"],
    ):
        assert [shard.num_samples for shard in list_shards(source)] == [4, 4, 2]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_tar_cut_short_gives_the_whole_samples_and_reports_the_others(tmp_path, share):
    (shard,) = list_shards(write_shards(tmp_path / "data", numbered(4)))
    tar = tmp_path / "data" / "000000.tar"
    data = tar.read_bytes().rstrip(b"\0")
    tar.write_bytes(data[: int(len(data) * share)])
    found = list(read_shard(shard))
    assert [place for place, _ in found] == [0, 1, 2, 3]
    whole = [raw for _, raw in found if not isinstance(raw, BadSample)]
    assert all(len(raw["mp4"]) == 2000 and "json" in raw for raw in whole)
    assert 0 < len(whole) < 4
    assert all(raw.reason == "damaged shard" for _, raw in found[len(whole) :])


def test_noise_instead_of_a_tar_is_reported_sample_by_sample(tmp_path):
    path = tmp_path / "noise.tar"
    path.write_bytes(b"noise" * 1000)
    found = list(read_shard(Shard(str(path), 3)))
    assert [(place, raw.reason) for place, raw in found] == [(i, "damaged shard") for i in range(3)]


def test_shard_that_ends_early_is_not_trusted_with_its_last_sample(tmp_path):
    (shard,) = list_shards(write_shards(tmp_path / "data", numbered(3)))
    found = list(read_shard(Shard(shard.url, 4)))
    assert [raw["__key__"] for _, raw in found[:2]] == ["k0", "k1"]
    assert all("it ends after 3 of 4 samples" in raw.detail for _, raw in found[2:])


def test_index_knows_sizes_and_hashes(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(3))
    (entry,) = json.loads((folder / "index.json").read_text())["shards"]
    assert entry["num_bytes"] == (folder / entry["name"]).stat().st_size
    assert len(entry["sha256"]) == 64


def test_same_samples_make_the_same_bytes(tmp_path):
    first, second = (write_shards(tmp_path / name, numbered(3)) for name in "ab")
    assert (first / "000000.tar").read_bytes() == (second / "000000.tar").read_bytes()


def test_large_samples_start_a_new_shard(tmp_path):
    writer = ShardWriter(tmp_path, max_samples=100, max_bytes=5000)
    for number in range(3):
        writer.write(f"k{number}", {"mp4": bytes(20_000)})
    writer.close()
    assert [shard.num_samples for shard in list_shards(tmp_path)] == [1, 1, 1]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"shards": [{"name": "x.tar"}]}'])
def test_broken_index_is_named(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is not an index of shards"):
        list_shards(tmp_path)


def test_missing_shards_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no shards at"):
        list_shards(tmp_path)
    (tmp_path / "index.json").write_text('{"shards": [{"name": "gone.tar", "num_samples": 3}]}')
    with pytest.raises(ValueError, match=r"gone\.tar"):
        list_shards(tmp_path)
