from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from likeness.datamodules.samples import BadSample
from likeness.datamodules.shards import list_shards
from likeness.datamodules.stream import ShardLoader, ShardStream, StreamPlan

from ..conftest import write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    samples = [(f"k{i:02d}", {"json": b'{"caption": "x"}', "mp4": bytes([i])}) for i in range(23)]
    return tuple(list_shards(write_shards(tmp_path_factory.mktemp("shards") / "data", samples, per_shard=5)))


def load(sample, rng):
    number = sample.members["mp4"][0]
    if number in BROKEN:
        raise BadSample("broken", f"sample {number}")
    return {"number": number, "drawn": float(rng.uniform())}


def finish(loaded, rng):
    return {**loaded, "choice": float(rng.uniform())}


BROKEN: set[int] = set()
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def broken():
    yield BROKEN
    BROKEN.clear()


def plan_of(shards, **settings) -> StreamPlan:
    return StreamPlan(
        **{
            "shards": shards,
            "batch_size": 2,
            "num_workers": 0,
            "seed": 7,
            "shuffle_buffer": 8,
            "endless": True,
            **settings,
        }
    )


def loader_of(plan: StreamPlan, skips: list | None = None, **settings) -> ShardLoader:
    return ShardLoader(ShardStream(plan, load, finish, **settings), on_skip=(skips if skips is not None else []).append)


def numbers(batches) -> list[list[int]]:
    return [batch["number"].tolist() for batch in batches]


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_validation_sees_every_sample_once_in_one_pass(shards, num_workers):
    loader = loader_of(plan_of(shards, num_workers=num_workers, endless=False, shuffle_buffer=0))
    for _ in range(2):
        seen = numbers(loader)
        assert len(seen) == 12
        assert Counter(sum(seen, [])) == Counter(range(23))


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_training_epoch_has_full_batches_and_no_repetition(shards, num_workers):
    loader = loader_of(plan_of(shards, num_workers=num_workers))
    for _ in range(3):
        seen = numbers(loader)
        assert [len(batch) for batch in seen] == [2] * 11
        assert max(Counter(sum(seen, [])).values()) == 1


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 0), (3, 2), (4, 1)])
def test_ranks_share_an_epoch_without_loss_or_repetition(shards, world_size, num_workers):
    plan = plan_of(shards, num_workers=num_workers, batch_size=1)
    loaders = [loader_of(replace(plan, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(loader) for loader in loaders}) == 1
    seen = Counter(sum((sum(numbers(loader), []) for loader in loaders), []))
    assert max(seen.values()) == 1
    # Ranks have equally many batches, so at most world_size - 1 samples wait for the next epoch.
    assert 23 - len(seen) < world_size


def test_order_follows_from_the_seed_and_changes_with_the_epoch(shards):
    first, again, other = (loader_of(plan_of(shards, seed=seed)) for seed in (7, 7, 8))
    epochs = [numbers(first), numbers(first)]
    assert [numbers(again), numbers(again)] == epochs
    assert epochs[0] != epochs[1]
    assert numbers(other) != epochs[0]


def assert_resumes_exactly(build, stop: int, num_epochs: int) -> None:
    """A loader that starts from the state after `stop` batches gives those that an uninterrupted one has next."""
    uninterrupted = build()
    batches = [batch for _ in range(num_epochs) for batch in uninterrupted]
    interrupted, seen = build(), 0
    state = interrupted.state_dict()
    while seen < stop:
        for _ in interrupted:
            seen += 1
            state = interrupted.state_dict()
            if seen == stop:
                break
    resumed = build()
    resumed.load_state_dict(state)
    next_ones = [batch for _ in range(2) for batch in resumed]
    assert same(next_ones, batches[stop : stop + 2 * len(resumed)])


@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("stop", [0, 1, 5, 10, 11, 12, 17, 25])
def test_resumed_loader_gives_exactly_the_batches_that_were_to_come(shards, num_workers, stop, broken):
    broken.update({3, 4, 15})
    plan = plan_of(shards, num_workers=num_workers)
    assert_resumes_exactly(lambda: loader_of(plan), stop, num_epochs=5)


def test_resume_with_other_workers_starts_the_epoch_again(shards, caplog):
    loader = loader_of(plan_of(shards, num_workers=0))
    for _, _ in zip(range(14), (batch for _ in range(2) for batch in loader), strict=False):
        pass
    resumed = loader_of(plan_of(shards, num_workers=2))
    resumed.load_state_dict(loader.state_dict())
    assert "num_lanes 1 -> 2" in caplog.text
    assert (resumed.state.epoch, resumed.state.batch) == (1, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_samples_are_reported_and_the_epoch_keeps_its_length(shards, num_workers, broken):
    broken.update({0, 7, 22})
    skips: list = []
    loader = loader_of(plan_of(shards, num_workers=num_workers), skips)
    seen = numbers(loader)
    assert len(seen) == 11
    assert not set(sum(seen, [])) & broken
    assert {skip.detail for skip in skips} <= {"sample 0", "sample 7", "sample 22"}


def test_validation_leaves_bad_samples_out_and_reports_each(shards, broken):
    broken.update({0, 7, 22})
    skips: list = []
    seen = numbers(loader_of(plan_of(shards, num_workers=2, endless=False, shuffle_buffer=0), skips))
    assert Counter(sum(seen, [])) == Counter(set(range(23)) - broken)
    assert sorted(skip.key for skip in skips) == ["k00", "k07", "k22"]
    assert {skip.reason for skip in skips} == {"broken"}


def shaped(loaded, rng):
    """Every third sample has two references, sample 5 alone has three."""
    number = loaded["number"]
    references = 3 if number == 5 else 2 if number % 3 == 0 else 1
    return {**finish(loaded, rng), "references": torch.zeros(references, 4)}


def shaped_loader(plan: StreamPlan) -> ShardLoader:
    return ShardLoader(ShardStream(plan, load, shaped), on_skip=print)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_holds_samples_of_one_shape_and_one_pass_loses_none(shards, num_workers):
    loader = shaped_loader(plan_of(shards, num_workers=num_workers, endless=False, shuffle_buffer=0))
    seen = list(loader)
    assert Counter(sum(numbers(seen), [])) == Counter(range(23))
    for batch in seen:
        wanted = {3 if n == 5 else 2 if n % 3 == 0 else 1 for n in batch["number"].tolist()}
        assert wanted == {batch["references"].shape[1]}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rare_shapes_have_their_turn_in_training(shards, num_workers):
    loader = shaped_loader(plan_of(shards, num_workers=num_workers, batch_size=4))
    epochs = [numbers(loader) for _ in range(40)]
    assert {len(epoch) for epoch in epochs} == {len(loader)} == {5}
    counts = Counter(sum((sum(epoch, []) for epoch in epochs), []))
    assert set(counts) == set(range(23))
    assert max(max(Counter(sum(epoch, [])).values()) for epoch in epochs) == 1
    assert counts[5] >= 2  # it waits for others of its shape in vain, and goes alone when chance gives it a batch


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", range(0, 13))
def test_resume_keeps_the_samples_that_wait_for_others_of_their_shape(shards, num_workers, stop, broken):
    broken.update({3, 4})
    plan = plan_of(shards, num_workers=num_workers, batch_size=4)
    assert_resumes_exactly(lambda: shaped_loader(plan), stop, num_epochs=5)


def test_data_set_without_a_usable_sample_ends_in_one_error(shards, broken):
    broken.update(range(23))
    with pytest.raises(ValueError, match=r"no sample of the data set can be used: broken \(\d+ times\); first k\d\d"):
        numbers(loader_of(plan_of(shards)))


def test_too_few_samples_for_a_batch_name_the_setting(shards):
    with pytest.raises(
        ValueError, match=r"23 samples, too few for one batch of 12 on each of 2 processes.*datamodule\.batch_size"
    ):
        loader_of(plan_of(shards, batch_size=12, world_size=2))


def test_kept_clips_are_decoded_once_and_choices_still_change(shards):
    decoded: list[int] = []

    def counting(sample, rng):
        decoded.append(sample.members["mp4"][0])
        return load(sample, rng)

    loader = ShardLoader(ShardStream(plan_of(shards, batch_size=1), counting, finish, keep_decoded=True), on_skip=print)
    epochs = [{batch["number"].item(): batch for batch in loader} for _ in range(2)]
    assert sorted(decoded) == list(range(23))
    assert all(epochs[0][i]["drawn"] == epochs[1][i]["drawn"] for i in range(23))
    assert any(epochs[0][i]["choice"] != epochs[1][i]["choice"] for i in range(23))
