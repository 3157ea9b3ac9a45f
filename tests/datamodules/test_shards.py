import io
import json
import subprocess
import tarfile

import pytest

from likeness.datamodules.samples import BadSample
from likeness.datamodules.shard_set import ShardSet
from likeness.datamodules.shards import ShardFile, ShardWriter, list_shards

from ..conftest import clip_sample, write_shards


def numbered(count: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"k{i}", {"json": b'{"caption": "x"}', "mp4": bytes([i]) * 2000}) for i in range(count)]


def readable(samples: ShardSet) -> dict[int, bytes]:
    found = {}
    for number in range(len(samples)):
        try:
            found[number] = samples[number].video
        except BadSample as error:
            # A cut right behind a member shows as a sample that lacks the next one.
            assert error.reason in ("damaged shard", "no video member")  # noqa: PT017 - the others must be read
    return found


def test_written_samples_are_read_back_by_number(tmp_path):
    samples = ShardSet(str(write_shards(tmp_path / "data", numbered(10), per_shard=4)))
    assert [shard.num_samples for shard in samples.shards] == [4, 4, 2]
    assert samples.keys == [f"k{i}" for i in range(10)]
    assert samples[7].members["mp4"] == bytes([7]) * 2000
    assert samples[2].shard.endswith("000000.tar")


def test_what_is_known_of_samples_is_the_same_with_and_without_the_list_beside_the_shard(tmp_path):
    clips = [clip_sample(f"k{i}", i, height=40 + i, identities=[{"face": ["face.0.png"]}] * (i % 3)) for i in range(6)]
    folder = write_shards(tmp_path / "data", clips)
    listed = ShardSet(str(folder))
    for path in folder.glob("*.samples.json"):
        path.unlink()
    scanned = ShardSet(str(folder))
    assert listed.keys == scanned.keys
    assert listed.table.keys() == scanned.table.keys()
    assert all((listed.table[name] == scanned.table[name]).all() for name in listed.table)
    assert listed.table["height"].tolist() == [40, 41, 42, 43, 44, 45]
    assert listed.table["references"].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_list_that_belongs_to_another_tar_is_not_trusted(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(4))
    old = (folder / "000000.samples.json").read_bytes()
    write_shards(folder, numbered(3))
    (folder / "000000.samples.json").write_bytes(old)
    assert len(ShardSet(str(folder))) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1, "num_bytes": 10240}', '{"version": 1, "key": ["a"]}'])
def test_a_damaged_list_is_made_again_from_the_tar(tmp_path, text):
    folder = write_shards(tmp_path / "data", numbered(4))
    (folder / "000000.samples.json").write_text(text)
    assert readable(ShardSet(str(folder))).keys() == {0, 1, 2, 3}


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
@pytest.mark.parametrize("is_listed", [True, False])
def test_tar_cut_short_gives_the_whole_samples_and_reports_the_others(tmp_path, share, is_listed):
    folder = write_shards(tmp_path / "data", numbered(4))
    tar = folder / "000000.tar"
    data = tar.read_bytes().rstrip(b"\0")
    tar.write_bytes(data[: int(len(data) * share)])
    if not is_listed:
        (folder / "000000.samples.json").unlink()
    samples = ShardSet(str(folder))
    assert len(samples) == 4
    found = readable(samples)
    assert list(found) == list(range(len(found)))
    assert 0 < len(found) < 4
    assert all(data == bytes([number]) * 2000 for number, data in found.items())


def test_a_hole_in_a_tar_costs_no_other_sample(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(6), per_shard=6)
    samples = ShardSet(str(folder))
    start = int(samples.table["start"][2])
    with open(folder / "000000.tar", "r+b") as stream:
        stream.seek(start)
        stream.write(b"x" * 700)
    assert readable(ShardSet(str(folder))).keys() == {0, 1, 3, 4, 5}


def test_noise_instead_of_a_tar_is_reported_sample_by_sample(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(3))
    (folder / "000000.tar").write_bytes(b"noise" * 1000)
    samples = ShardSet(str(folder))
    assert len(samples) == 3
    assert not readable(samples)


def tar_of(path, *entries: tuple[tarfile.TarInfo, bytes]):
    with tarfile.open(path, "w") as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data) if data else None)


def file_entry(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def link_entry(name: str, kind: bytes, target: str = "/etc/passwd") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([file_entry("/k1.json", b'{"caption": "x"}')], "points out of the shard"),
        ([file_entry("../../k1.json", b'{"caption": "x"}')], "points out of the shard"),
        ([link_entry("k1.json", tarfile.SYMTYPE)], "link or a device"),
        ([link_entry("k1.json", tarfile.LNKTYPE)], "link or a device"),
        ([link_entry("k1.json", tarfile.CHRTYPE)], "link or a device"),
        ([file_entry("k1.mp4", b"no description")], "no json member"),
        ([file_entry("k1.json", b"[" * 100_000)], "broken json member"),
    ],
)
def test_unsafe_members_are_refused_and_their_neighbours_are_read(tmp_path, bad, message):
    good = [file_entry("k0.json", b'{"caption": "0"}'), file_entry("k2.json", b'{"caption": "2"}')]
    tar_of(tmp_path / "made.tar", good[0], *bad, good[1])
    samples = ShardSet(str(tmp_path / "made.tar"))
    assert [samples[number].info["caption"] for number in (0, 2)] == ["0", "2"]
    with pytest.raises(BadSample, match=message):
        samples[1]


def test_a_member_that_declares_more_than_the_file_holds_ends_the_shard_there(tmp_path, caplog):
    huge = tarfile.TarInfo("k1.json")
    huge.size = 2**40
    with open(tmp_path / "made.tar", "wb") as stream:
        member, data = file_entry("k0.json", b'{"caption": "0"}')
        stream.write(member.tobuf() + data.ljust(512, b"\0"))
        stream.write(huge.tobuf() + bytes(10_240))
    samples = ShardSet(str(tmp_path / "made.tar"))
    assert samples.keys == ["k0"]
    assert samples[0].info["caption"] == "0"
    assert "k1.json is longer than what is left" in caplog.text


def test_a_sample_too_large_to_hold_is_refused_before_it_is_read(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "data", numbered(2))
    monkeypatch.setattr("likeness.datamodules.shard_set.MAX_SAMPLE_BYTES", 3000)
    with pytest.raises(BadSample, match="too large"):
        ShardSet(str(folder))[0]


def test_index_knows_sizes_and_hashes(tmp_path):
    folder = write_shards(tmp_path / "data", numbered(3))
    (entry,) = json.loads((folder / "index.json").read_text())["shards"]
    assert entry["num_bytes"] == (folder / entry["name"]).stat().st_size
    digest = subprocess.run(["sha256sum", folder / entry["name"]], capture_output=True, text=True, check=True)
    assert digest.stdout.split()[0] == entry["sha256"]


def test_same_samples_make_the_same_bytes(tmp_path):
    first, second = (write_shards(tmp_path / name, numbered(3)) for name in "ab")
    for name in ("000000.tar", "000000.samples.json", "index.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_shard_that_is_not_finished_leaves_nothing_behind(tmp_path):
    def interrupted() -> None:
        with ShardFile(tmp_path / "000000.tar") as shard:
            shard.write("k", {"json": b"{}"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("name", ["../x.tar", "/etc/x.tar", "a/../../x.tar", "x.tar; rm -r /", 3])
def test_an_index_may_name_only_files_beside_it(tmp_path, name):
    (tmp_path / "index.json").write_text(json.dumps({"shards": [{"name": name, "num_samples": 1}]}))
    with pytest.raises(ValueError, match="only plain names of files beside it"):
        list_shards(tmp_path)


def test_a_folder_that_prepare_has_begun_is_not_taken_for_a_data_set(tmp_path):
    write_shards(tmp_path, numbered(3))
    (tmp_path / ".unfinished").mkdir()
    assert len(list_shards(tmp_path)) == 1  # the set that was there before
    (tmp_path / "index.json").unlink()
    with pytest.raises(ValueError, match="is not finished"):
        list_shards(tmp_path)


def test_missing_shards_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no shards at"):
        list_shards(tmp_path)
    (tmp_path / "index.json").write_text('{"shards": [{"name": "gone.tar", "num_samples": 3}]}')
    with pytest.raises(ValueError, match=r"gone\.tar"):
        list_shards(tmp_path)
