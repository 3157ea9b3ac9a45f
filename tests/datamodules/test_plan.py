from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from likeness.datamodules.plan import Part, StreamPlan

SHARDS = (5, 5, 1, 5, 7)


def plan_of(*parts: Part, buckets=None, batch_sizes=(2,), shuffle_buffer=8) -> StreamPlan:
    parts = parts or (Part(SHARDS),)
    bucket_of = np.zeros(sum(map(len, parts)), int) if buckets is None else np.asarray(buckets)
    return StreamPlan(parts, bucket_of, tuple(batch_sizes), 7, shuffle_buffer)


def batches(plan: StreamPlan, epoch: int) -> list[list[int]]:
    planned = plan.epoch(epoch)
    return [planned[batch][0] for batch in range(len(planned))]


def test_an_epoch_has_every_sample_once_and_only_its_last_batch_is_small():
    for epoch in range(3):
        dealt = batches(plan_of(), epoch)
        assert [len(batch) for batch in dealt] == [2] * 11 + [1]
        assert sorted(sum(dealt, [])) == list(range(23))


def test_without_a_shuffle_buffer_the_order_is_that_on_disk():
    assert sum(batches(plan_of(shuffle_buffer=0), 5), []) == list(range(23))


def test_the_order_follows_from_seed_and_epoch():
    plan = plan_of()
    assert batches(plan, 1) == batches(plan_of(), 1)
    assert batches(plan, 1) != batches(plan, 2)
    assert batches(plan, 1) != batches(replace(plan, seed=8), 1)


def test_a_small_buffer_keeps_samples_near_their_shard():
    sizes, buffer = (100,) * 20, 50
    numbers = np.array(sum(batches(plan_of(Part(sizes), shuffle_buffer=buffer), 0), []))
    shards = numbers // 100
    # At any time, readers need the few shards that the buffer spans.
    assert max(len(set(shards[i : i + 20])) for i in range(0, 2000, 20)) <= 2
    assert (np.diff(numbers) == 1).mean() < 0.1


def test_each_batch_holds_one_bucket_and_as_many_as_that_allows():
    buckets = np.arange(23) % 3
    plan = plan_of(buckets=buckets, batch_sizes=(4, 2, 1))
    for epoch in range(3):
        dealt = batches(plan, epoch)
        assert all(len({buckets[number] for number in batch}) == 1 for batch in dealt)
        assert sorted(sum(dealt, [])) == list(range(23))
        sizes = {bucket: [len(batch) for batch in dealt if buckets[batch[0]] == bucket] for bucket in range(3)}
        assert sizes == {0: [4, 4], 1: [2, 2, 2, 2], 2: [1] * 7}
    assert len({tuple(buckets[batch[0]] for batch in batches(plan, epoch)) for epoch in range(3)}) == 3


def test_samples_without_a_bucket_are_left_out():
    buckets = np.zeros(23, int)
    buckets[[0, 5, 22]] = -1
    assert sorted(sum(batches(plan_of(buckets=buckets), 0), [])) == sorted(set(range(23)) - {0, 5, 22})


def test_an_epoch_without_a_sample_is_refused():
    with pytest.raises(ValueError, match=r"less than one sample: raise the weights of datamodule\.train"):
        plan_of(Part((2,), 0.4))


@pytest.mark.parametrize(("weight", "epochs", "times"), [(2.0, 1, 2), (0.5, 2, 1), (0.25, 8, 2), (1.5, 2, 3)])
def test_weights_say_how_often_an_epoch_has_each_sample(weight, epochs, times):
    plan = plan_of(Part((23,)), Part((6, 2), weight))
    dealt = [sum(batches(plan, epoch), []) for epoch in range(epochs)]
    counts = Counter(sum(dealt, []))
    assert all(counts[number] == epochs for number in range(23))
    assert all(counts[number] == times for number in range(23, 31))
    assert {len(one) for one in dealt} == {23 + round(8 * weight)}


def test_data_sets_of_a_mixture_come_evenly_among_one_another():
    plan = plan_of(Part((300,)), Part((100,)), batch_sizes=(1,), shuffle_buffer=50)
    numbers = np.array(sum(batches(plan, 0), []))
    shares = [(numbers[i : i + 40] >= 300).mean() for i in range(0, 400, 40)]
    assert 0.1 < min(shares) <= max(shares) < 0.4


def test_a_sample_that_comes_twice_in_an_epoch_is_told_apart_by_its_pass():
    planned = plan_of(Part((4,), 2.0)).epoch(3)
    assert sorted(planned.passes.tolist()) == [6] * 4 + [7] * 4


def test_the_fingerprint_changes_with_everything_that_the_order_follows_from():
    plan = plan_of()
    others = [
        replace(plan, seed=8),
        replace(plan, shuffle_buffer=9),
        replace(plan, batch_sizes=(3,)),
        plan_of(Part((5, 5, 1, 5, 6, 1))),
        plan_of(Part(SHARDS, 2.0)),
        plan_of(buckets=[0] * 22 + [1], batch_sizes=(2, 2)),
    ]
    assert len({one.fingerprint for one in (plan, *others)}) == 7
    assert plan_of().fingerprint == plan.fingerprint


def test_a_million_samples_are_planned_in_seconds():
    rng = np.random.default_rng(0)
    plan = plan_of(
        Part((1000,) * 1000), buckets=rng.integers(0, 30, 1_000_000), batch_sizes=[1 + i % 8 for i in range(30)]
    )
    planned = plan.epoch(0)
    assert planned.ends[-1] == 1_000_000
