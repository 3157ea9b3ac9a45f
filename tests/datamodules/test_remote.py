import http.server
import os
import threading
from collections import Counter
from functools import partial
from typing import ClassVar

import pytest

from likeness.datamodules.remote import Fetcher, Unreachable, Version, join, served_version
from likeness.datamodules.samples import BadSample
from likeness.datamodules.shard_set import ShardSet

from ..conftest import write_shards


class FlakyHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder. The first request for each file in `fails` breaks off in the middle."""

    fails: ClassVar[set[str]] = set()
    requests: ClassVar[Counter[str]] = Counter()

    def do_GET(self):
        self.requests[self.path] += 1
        if self.path in self.fails and self.requests[self.path] == 1:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half of it")
            return
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    samples = [(f"k{i}", {"json": b'{"caption": "x"}', "mp4": bytes([i]) * 2000}) for i in range(6)]
    folder = write_shards(tmp_path / "data", samples)
    FlakyHandler.fails, FlakyHandler.requests = set(), Counter()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(FlakyHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def fetcher_of(tmp_path, **settings) -> Fetcher:
    return Fetcher(**{"folder": str(tmp_path / "fetched"), "wait_s": 0.01, "num_tries": 3, **settings})


def test_shards_at_a_url_are_listed_at_once_and_fetched_when_a_sample_is_wanted(served, tmp_path):
    _, url = served
    samples = ShardSet(url, fetcher_of(tmp_path))
    assert len(samples) == 6
    assert not FlakyHandler.requests["/000000.tar"]
    assert samples[5].members["mp4"] == bytes([5]) * 2000
    assert samples[4].key == "k4"
    assert FlakyHandler.requests["/000001.tar"] == 1
    assert not FlakyHandler.requests["/000000.tar"]


def test_a_fetched_shard_serves_the_next_run(served, tmp_path):
    _, url = served
    for _ in range(2):
        ShardSet(url, fetcher_of(tmp_path))[0]
    assert FlakyHandler.requests["/000000.tar"] == 1


def test_a_connection_that_breaks_is_tried_again(served, tmp_path, caplog):
    _, url = served
    FlakyHandler.fails = {"/000000.tar", "/index.json"}
    assert ShardSet(url, fetcher_of(tmp_path))[1].key == "k1"
    assert FlakyHandler.requests["/000000.tar"] >= 2
    assert "try 1 of 3" in caplog.text


def test_tars_at_urls_without_an_index_are_scanned_once(served, tmp_path):
    folder, url = served
    for path in folder.glob("*.json"):
        path.unlink()
    samples = ShardSet(url + "{000000..000001}.tar", fetcher_of(tmp_path))
    assert samples.keys == [f"k{i}" for i in range(6)]
    assert samples[5].members["mp4"] == bytes([5]) * 2000


def test_commands_of_object_stores_work_through_pipes(served, tmp_path):
    folder, _ = served
    samples = ShardSet(f"pipe:cat {folder}/{{000000..000001}}.tar", fetcher_of(tmp_path))
    assert samples[3].members["mp4"] == bytes([3]) * 2000
    indexed = ShardSet(f"pipe:cat {folder}/index.json", fetcher_of(tmp_path))
    assert indexed[3].members["mp4"] == bytes([3]) * 2000


def test_the_place_of_a_shard_follows_from_that_of_its_index():
    assert join("data/index.json", "0.tar") == "data/0.tar"
    assert join("https://host/a/index.json", "0.tar") == "https://host/a/0.tar"
    assert join("pipe:aws s3 cp s3://b/a/index.json -", "0.tar") == "pipe:aws s3 cp s3://b/a/0.tar -"


def test_a_shard_out_of_reach_costs_its_samples_and_no_others(served, tmp_path):
    folder, url = served
    samples = ShardSet(url, fetcher_of(tmp_path, num_tries=2))
    (folder / "000000.tar").unlink()
    with pytest.raises(BadSample, match=r"unreachable shard: .*000000\.tar could not be fetched in 2 tries"):
        samples[0]
    assert samples[4].key == "k4"


def test_a_shard_out_of_reach_is_not_tried_for_each_of_its_samples(served, tmp_path):
    folder, url = served
    samples = ShardSet(url, fetcher_of(tmp_path, num_tries=2))
    (folder / "000000.tar").rename(folder / "away")
    for number in (0, 1, 0):
        with pytest.raises(BadSample, match="unreachable shard"):
            samples[number]
    assert FlakyHandler.requests["/000000.tar"] == 2


@pytest.mark.parametrize("pattern", ["", "{000000..000001}.tar"])
def test_shards_that_were_uploaded_anew_are_fetched_anew(served, tmp_path, pattern):
    folder, url = served
    ShardSet(url + pattern, fetcher_of(tmp_path))[0]
    samples = [(f"k{i}", {"json": b'{"caption": "y"}', "mp4": bytes([i]) * 2000}) for i in range(6)]
    write_shards(folder, samples)
    for path in folder.glob("*.tar"):  # http.server gives times in whole seconds
        os.utime(path, (1, 1))
    assert ShardSet(url + pattern, fetcher_of(tmp_path))[0].info["caption"] == "y"


def test_a_shard_of_another_content_than_the_index_says_is_not_taken(served, tmp_path):
    folder, url = served
    data = bytearray((folder / "000000.tar").read_bytes())
    data[-1] ^= 1
    (folder / "000000.tar").write_bytes(data)
    with pytest.raises(BadSample, match="another sha256 than its index says"):
        ShardSet(url, fetcher_of(tmp_path))[0]


def test_a_run_ends_at_its_start_where_the_samples_of_a_shard_cannot_be_listed(served, tmp_path):
    folder, url = served
    (folder / "000001.tar").unlink()
    (folder / "000001.samples.json").unlink()
    with pytest.raises(ValueError, match=r"no list of samples is beside it, and .*000001\.tar could not be fetched"):
        ShardSet(url, fetcher_of(tmp_path))


def test_a_folder_without_a_slash_is_named_as_such(served, tmp_path):
    folder, url = served
    write_shards(folder / "inner", [("k", {"json": b"{}"})])
    with pytest.raises(ValueError, match="ends in /"):
        ShardSet(f"{url}inner", fetcher_of(tmp_path))


def test_a_server_that_refuses_to_describe_a_file_leaves_it_unknown(served, caplog):
    folder, url = served
    assert served_version(f"{url}none.tar") == Version()
    assert served_version(f"{url}000000.tar").num_bytes == (folder / "000000.tar").stat().st_size


def test_each_user_has_a_folder_of_fetched_files_that_others_cannot_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "0.bin").write_bytes(bytes(100))
    folder = Fetcher()(f"pipe:cat {tmp_path}/0.bin").parent
    assert folder.name.endswith(str(os.getuid())) and folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: 12345)
    folder.rename(folder.with_name("likeness_shards_12345"))
    with pytest.raises(ValueError, match=r"belongs to another user: set datamodule\.fetcher\.folder"):
        Fetcher()(f"pipe:cat {tmp_path}/0.bin")


def test_an_index_out_of_reach_ends_in_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr("likeness.datamodules.remote.time.sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1/index\.json could not be fetched.*check the address"):
        ShardSet("pipe:false http://127.0.0.1:1/index.json", fetcher_of(tmp_path))


def test_fetched_files_make_room_for_newer_ones(tmp_path):
    fetcher = fetcher_of(tmp_path, max_bytes=250)
    for number in range(4):
        (tmp_path / f"{number}.bin").write_bytes(bytes(100))
        path = fetcher(f"pipe:cat {tmp_path}/{number}.bin")
        assert path.stat().st_size == 100
    assert len([path for path in (tmp_path / "fetched").iterdir() if not path.name.startswith(".")]) == 2
    assert path.is_file()


def test_a_file_of_another_size_than_the_index_says_is_not_taken(tmp_path):
    (tmp_path / "0.bin").write_bytes(bytes(100))
    with pytest.raises(Unreachable, match="100 bytes came of 200"):
        fetcher_of(tmp_path)(f"pipe:cat {tmp_path}/0.bin", Version(200))
