import json
from concurrent.futures import ThreadPoolExecutor

from likeness.records import RecordWriter, read_records
from likeness.shares import Share


def names(folder) -> list[str]:
    return list(read_records(folder))


def test_shares_write_files_of_their_own_that_are_put_together(tmp_path):
    writers = [RecordWriter(tmp_path, Share(index, 3)) for index in range(3)]
    for number in range(6):
        writers[number % 3].append({"video": f"{number}.mp4"})
    assert not (tmp_path / "samples.jsonl").exists()

    def end(writer):
        with writer.merged():
            pass

    with ThreadPoolExecutor() as pool:
        list(pool.map(end, writers))
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["video"] for line in lines] == [f"{number}.mp4" for number in range(6)]


def test_what_was_made_last_counts_whoever_made_it(tmp_path):
    part = RecordWriter(tmp_path, Share(0, 2))
    part.append({"video": "a.mp4", "seed": 1})
    with part.merged():
        pass
    whole = RecordWriter(tmp_path, Share())
    whole.append({"video": "a.mp4", "seed": 2})
    with whole.merged() as records:
        assert records["a.mp4"]["seed"] == 2
    part.append({"video": "a.mp4", "seed": 3})
    assert read_records(tmp_path)["a.mp4"]["seed"] == 3


def test_line_that_a_kill_cut_is_passed_over_and_ended(tmp_path):
    writer = RecordWriter(tmp_path, Share())
    writer.append({"video": "a.mp4"})
    with open(writer.path, "a") as stream:
        stream.write('{"video": "b.m')
    assert names(tmp_path) == ["a.mp4"]
    RecordWriter(tmp_path, Share()).append({"video": "c.mp4"})
    assert names(tmp_path) == ["a.mp4", "c.mp4"]


def test_folder_without_records_has_none(tmp_path):
    assert read_records(tmp_path / "new") == {}
