import os
import pickle

import pytest
import torch

from likeness.checkpoints.lightning import AtomicCheckpointIO, find_checkpoint, read_checkpoint

CONTENT = {"state_dict": {"weight": torch.arange(2000.0)}, "config": {"seed": 1}, "global_step": 3}


def save(path, step: int = 3, age: int = 0):
    AtomicCheckpointIO().save_checkpoint({**CONTENT, "global_step": step}, path)
    os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return path


def cut(path, share: float = 0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_saved_checkpoint_is_read_back_and_leaves_no_other_file(tmp_path):
    path = save(tmp_path / "checkpoints" / "a.ckpt")
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    assert list(path.parent.iterdir()) == [path]


def test_failed_save_keeps_the_previous_file(tmp_path):
    path = save(tmp_path / "a.ckpt")
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        AtomicCheckpointIO().save_checkpoint({**CONTENT, "bad": lambda: None}, path)
    assert read_checkpoint(path)["global_step"] == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_named(tmp_path, share):
    path = save(tmp_path / "a.ckpt")
    cut(path, share)
    with pytest.raises(ValueError, match=r"a\.ckpt.*ckpt="):
        read_checkpoint(path)


def test_newest_whole_checkpoint_is_found_and_a_damaged_one_passed_over(tmp_path, caplog):
    old, new = save(tmp_path / "checkpoints" / "old.ckpt", 1, age=10), save(tmp_path / "checkpoints" / "new.ckpt", 2)
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints") == new
    cut(new)
    assert find_checkpoint(tmp_path) == old
    assert "passing over a damaged checkpoint" in caplog.text
    cut(old)
    with pytest.raises(ValueError, match=r"no whole checkpoint in .* \(2 damaged\)"):
        find_checkpoint(tmp_path)


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "a.ckpt"
    torch.save({**CONTENT, "attack": Attack()}, path)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"module": {}}, path)
    with pytest.raises(ValueError, match=r"was not written by train\.py \(no state_dict, config, global_step\)"):
        read_checkpoint(path)


def test_missing_places_are_named(tmp_path):
    for place in (tmp_path / "gone", tmp_path / "gone.ckpt"):
        with pytest.raises(ValueError, match="there is no checkpoint"):
            find_checkpoint(place)
