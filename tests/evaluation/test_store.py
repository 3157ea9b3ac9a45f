import torch

from likeness.evaluation.store import Store, key_of, read_increments


def test_what_was_put_is_found_again_by_another_process(tmp_path):
    store = Store(tmp_path / "measured.jsonl")
    added = {"rows": torch.rand(3, 4), "num_left_out": torch.tensor(2)}
    store.put("a.mp4", "fvd", "key", added, seconds=1.5)
    store.close()
    record = Store(tmp_path / "measured.jsonl").get("a.mp4", "fvd", "key")
    assert torch.equal(record["increment"]["rows"], added["rows"])
    assert record["increment"]["num_left_out"] == 2
    assert record["seconds"] == 1.5


def test_another_key_is_not_found_and_a_later_record_replaces_it(tmp_path):
    store = Store(tmp_path / "measured.jsonl")
    store.put("a.mp4", "fvd", "old", {"rows": torch.zeros(1)})
    assert store.get("a.mp4", "fvd", "new") is None
    store.put("a.mp4", "fvd", "new", {"rows": torch.ones(1)})
    assert not store.has("a.mp4", "fvd", "old")
    assert Store(store.path).get("a.mp4", "fvd", "new")["increment"]["rows"] == 1


def test_a_line_that_a_kill_has_cut_is_measured_again_and_the_others_are_kept(tmp_path):
    store = Store(tmp_path / "measured.jsonl")
    for name in ("a", "b"):
        store.put(name, "fvd", "key", {"rows": torch.zeros(2)})
    store.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:-9])
    again = Store(store.path)
    assert again.has("a", "fvd", "key")
    assert not again.has("b", "fvd", "key")
    again.put("b", "fvd", "key", {"rows": torch.zeros(2)})
    again.close()
    assert store.path.read_bytes() == whole


def test_closing_leaves_out_what_was_replaced_and_nothing_else(tmp_path):
    store = Store(tmp_path / "measured.jsonl")
    for key in ("old", "new"):
        for clip in ("a", "b"):
            store.put(clip, "fvd", key, {"rows": torch.full((2,), float(key == "new"))})
    store.put("a", "motion", "old", {"rows": torch.zeros(1)})
    size = store.path.stat().st_size
    store.close()
    assert len(store.path.read_bytes().splitlines()) == 3
    assert store.path.stat().st_size < size
    again = Store(store.path)
    assert again.get("b", "fvd", "new")["increment"]["rows"].tolist() == [1, 1]
    assert again.has("a", "motion", "old")
    kept, changed = store.path.read_bytes(), store.path.stat().st_ino
    again.close()
    assert (store.path.read_bytes(), store.path.stat().st_ino) == (kept, changed)  # not written again for nothing


def test_what_clips_add_is_read_back_by_metric(tmp_path):
    store = Store(tmp_path / "measured.jsonl")
    for clip, value in (("a", 1.0), ("a", 2.0), ("b", 3.0)):
        store.put(clip, "fvd", "key", {"rows": torch.tensor([value])}, refused=None)
    store.put("c", "fvd", "key", {}, refused="too short")
    store.put("a", "motion", "key", {"rows": torch.zeros(1)}, refused=None)
    found = read_increments(store.path, ["fvd", "fid"])
    assert {clip: one["rows"].item() for clip, one in found["fvd"].items()} == {"a": 2, "b": 3}
    assert found["fid"] == {}


def test_keys_tell_settings_apart():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
