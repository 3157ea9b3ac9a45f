import random
from collections import Counter

import numpy as np
import pytest
import torch

from likeness.datamodules.mixture import Mixture
from likeness.datamodules.plan import Part, StreamPlan
from likeness.datamodules.remote import Fetcher
from likeness.datamodules.samples import BadSample
from likeness.datamodules.stream import BatchMaker, ShardLoader

from ..conftest import write_shards

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
BROKEN: set[int] = set()


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Mixture:
    made = [(f"k{i:02d}", {"json": b'{"caption": "x"}', "mp4": bytes([i])}) for i in range(23)]
    folder = write_shards(tmp_path_factory.mktemp("shards") / "data", made, per_shard=5)
    return Mixture.open(str(folder), Fetcher(), "train")


@pytest.fixture
def broken():
    yield BROKEN
    BROKEN.clear()


def load(sample, bucket, rng):
    number = sample.members["mp4"][0]
    if number in BROKEN:
        raise BadSample("broken", f"sample {number}")
    return {"number": number, "drawn": float(rng.uniform()), "shape": torch.zeros(1 + bucket, 4)}


def finish(loaded, rng):
    return {**loaded, "choice": float(rng.uniform())}


def loader_of(samples, *, buckets=1, batch_sizes=(2,), skips=None, training=True, load=load, **settings) -> ShardLoader:
    plan = StreamPlan(
        samples.parts, np.arange(len(samples)) % buckets, tuple(batch_sizes), 7, shuffle_buffer=8 if training else 0
    )
    keep = settings.pop("keep_decoded", False)
    maker = BatchMaker(samples, plan, load, finish, keep_decoded=keep, substitute=training)
    return ShardLoader(maker, on_skip=(skips if skips is not None else []).append, endless=training, **settings)


def numbers(batches) -> list[list[int]]:
    return [batch["number"].tolist() for batch in batches]


def take(loader: ShardLoader, count: int) -> list[dict]:
    taken: list[dict] = []
    while len(taken) < count:
        for batch in loader:
            taken.append(batch)
            if len(taken) == count:
                break
    return taken


def equal(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])) for name in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_validation_sees_every_sample_once_in_one_pass(samples, num_workers, world_size):
    settings = {"training": False, "num_workers": num_workers, "world_size": world_size}
    loaders = [loader_of(samples, rank=rank, **settings) for rank in range(world_size)]
    for _ in range(2):
        seen = [numbers(loader) for loader in loaders]
        assert [len(batches) for batches in seen] == [len(loader) for loader in loaders]
        assert Counter(sum(sum(seen, []), [])) == Counter(range(23))


@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(samples, num_workers, broken):
    broken.update({3, 4, 15})
    settings = {"buckets": 3, "batch_sizes": (4, 2, 1)}
    alone = take(loader_of(samples, **settings), 30)
    assert equal(take(loader_of(samples, num_workers=num_workers, **settings), 30), alone)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (2, 0), (3, 2), (4, 0), (30, 0)])
def test_ranks_share_the_epochs_without_loss_or_repetition(samples, world_size, num_workers):
    loaders = [
        loader_of(samples, rank=rank, world_size=world_size, num_workers=num_workers) for rank in range(world_size)
    ]
    batches_an_epoch = 12
    steps = batches_an_epoch * world_size // world_size
    per_rank = [numbers(take(loader, steps)) for loader in loaders]
    dealt = [per_rank[rank][step] for step in range(steps) for rank in range(world_size)]
    for epoch in range(world_size):
        seen = dealt[epoch * batches_an_epoch : (epoch + 1) * batches_an_epoch]
        assert Counter(sum(seen, [])) == Counter(range(23))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_killed_at_any_step_goes_on_with_the_batches_that_were_to_come(samples, num_workers, broken):
    broken.update({3, 4, 15})
    settings = {"buckets": 3, "batch_sizes": (4, 2, 1), "num_workers": num_workers}
    steps = len(loader_of(samples, **settings))
    uninterrupted = take(loader_of(samples, **settings), 3 * steps)
    for stop in random.Random(0).sample(range(2 * steps), 20 if num_workers == 0 else 5):
        killed = loader_of(samples, **settings)
        take(killed, stop)
        resumed = loader_of(samples, **settings)
        resumed.load_state_dict(killed.state_dict())
        assert equal(take(resumed, 6), uninterrupted[stop : stop + 6]), stop


@pytest.mark.parametrize("sizes", [(1, 2, 3), (3, 1, 2), (2, 5, 1)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_other_numbers_of_ranks_within_an_epoch_still_see_every_sample_once(samples, sizes, num_workers):
    """Each of three runs takes one step with the ranks that it has; a fourth one takes the rest of the epoch."""
    state, seen = None, []
    for world_size, steps in (*((size, 1) for size in sizes), (1, 12 - sum(sizes))):
        states = set()
        for rank in range(world_size):
            loader = loader_of(samples, rank=rank, world_size=world_size, num_workers=num_workers)
            if state is not None:
                loader.load_state_dict(state)
            seen += sum(numbers(take(loader, steps)), [])
            states.add(tuple(loader.state_dict().items()))
        (agreed,) = states
        state = dict(agreed)
    assert state["epoch"] == 1
    assert Counter(seen) == Counter(range(23))


def test_other_data_or_another_seed_start_the_epoch_again(samples, caplog):
    loader = loader_of(samples)
    take(loader, 15)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 3)
    other = loader_of(samples, batch_sizes=(3,))
    other.load_state_dict(state)
    assert "resuming at the start of epoch 1" in caplog.text
    assert (other.epoch, other.batch) == (1, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_samples_are_reported_and_all_others_are_seen(samples, num_workers, broken):
    broken.update({0, 7, 22})
    skips: list = []
    loader = loader_of(samples, num_workers=num_workers, skips=skips)
    seen = Counter(sum(numbers(take(loader, 12)), []))
    assert set(seen) == set(range(23)) - broken
    assert sorted(skip.key for skip in skips) == ["k00", "k07", "k22"]
    assert {skip.reason for skip in skips} == {"broken"}


def test_a_batch_of_bad_samples_is_made_of_another_so_that_no_rank_waits(samples, broken):
    broken.update({0, 7, 22})
    seen = numbers(take(loader_of(samples, batch_sizes=(1,)), 46))
    assert {len(batch) for batch in seen} == {1}
    counts = Counter(sum(seen, []))
    assert set(counts) == set(range(23)) - broken
    assert sum(counts.values()) == 46


def test_a_bucket_without_a_usable_sample_does_not_end_the_run(samples, broken):
    broken.update(range(0, 23, 23))
    plan = StreamPlan(samples.parts, np.array([1] + [0] * 22), (2, 2), 7, 8)
    loader = ShardLoader(BatchMaker(samples, plan, load, finish, substitute=True), on_skip=print, endless=True)
    assert len(take(loader, 24)) == 24


def test_validation_leaves_bad_samples_out_and_goes_on_after_a_batch_of_them(samples, broken):
    broken.update({4, 5, 6, 7})
    seen = numbers(loader_of(samples, training=False, num_workers=2))
    assert Counter(sum(seen, [])) == Counter(set(range(23)) - broken)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_set_without_a_usable_sample_ends_in_one_error(samples, broken, num_workers):
    broken.update(range(23))
    with pytest.raises(ValueError, match=r"^no sample of the data set can be used: broken \(\d+ times\); first k\d\d"):
        take(loader_of(samples, num_workers=num_workers), 1)


def test_a_sample_of_another_shape_than_its_batch_is_skipped(samples):
    def load_wrong(sample, bucket, rng):
        loaded = load(sample, bucket, rng)
        return {**loaded, "shape": torch.zeros(3, 3)} if loaded["number"] == 9 else loaded

    skips: list = []
    loader = loader_of(samples, load=load_wrong, batch_sizes=(23,), skips=skips)
    take(loader, 1)
    assert [skip.reason for skip in skips] == ["another shape"]


def test_kept_clips_are_decoded_once_and_choices_still_change(samples):
    decoded: list[int] = []

    def counting(sample, bucket, rng):
        decoded.append(sample.members["mp4"][0])
        return load(sample, bucket, rng)

    loader = loader_of(samples, load=counting, batch_sizes=(1,), keep_decoded=True)
    epochs = [{batch["number"].item(): batch for batch in loader} for _ in range(2)]
    assert sorted(decoded) == list(range(23))
    assert all(epochs[0][i]["drawn"] == epochs[1][i]["drawn"] for i in range(23))
    assert any(epochs[0][i]["choice"] != epochs[1][i]["choice"] for i in range(23))


def test_weights_of_a_mixture_are_part_of_the_plan(samples, tmp_path):
    write_shards(tmp_path / "b", [(f"b{i}", {"json": b'{"caption": "y"}', "mp4": bytes([100 + i])}) for i in range(4)])
    first = next(iter(samples.sets.values()))
    mixture = Mixture.open(
        {"a": str(tmp_path / "b"), "b": {"shards": str(tmp_path / "b"), "weight": 2}}, Fetcher(), "datamodule.train"
    )
    assert mixture.parts == (Part((4,)), Part((4,), 2.0))
    assert mixture[6].key == "b2"
    assert len(first) == 23
    counts = Counter(sum(numbers(take(loader_of(mixture, batch_sizes=(4,)), 3)), []))
    assert set(counts.values()) == {3}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a": {"shard": "x"}}, r"datamodule\.train\.a has shard: allowed are shards"),
        ({"a": {"shards": "x", "weight": -1}}, r"datamodule\.train\.a\.weight=-1 must be at least 0"),
        ({"a": {"shards": "x", "weight": "abc"}}, r"datamodule\.train\.a\.weight=abc must be at least 0"),
        ({"a": {"shards": "x", "weight": [1]}}, r"datamodule\.train\.a\.weight=\[1\] must be at least 0"),
        ({"a": {"shards": None}}, r"datamodule\.train\.a\.shards=None must be a folder of shards"),
        ({"a": [1]}, r"datamodule\.train\.a=\[1\] must be a folder of shards"),
        ({"a": {"shards": "x", "weight": 0}}, r"datamodule\.train names no data set"),
    ],
)
def test_impossible_mixtures_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        Mixture.open(source, Fetcher(), "datamodule.train")
