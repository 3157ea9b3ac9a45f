import http.server
import threading
from collections import Counter
from functools import partial
from typing import ClassVar

import pytest

from likeness.datamodules.remote import Fetcher, Unreachable, join
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
        fetcher_of(tmp_path)(f"pipe:cat {tmp_path}/0.bin", 200)
