"""Does a run that is killed go on as if nothing had happened? And with other numbers of processes?

    python benchmarks/resume.py

Exact: the loader of the toy world is stopped at 20 random steps of two epochs and started again from its state; the
batches that follow must be `torch.equal` to those of a loader that was never stopped. Elastic: one epoch is read by 1,
then 2, then 3 ranks; every sample must come once. The data are clips of the toy world, decoded and cut as for training.
"""

import argparse
import random
from collections import Counter
from contextlib import closing

import torch
from common import REPOSITORY, report

from likeness.datamodules.clips import ClipDataModule
from likeness.datamodules.conditions import ReferenceImages
from likeness.datamodules.frames import StridedFrames
from likeness.datamodules.stream import ShardLoader
from likeness.toy.world import ToyShards

STEPS_COMPARED = 3


def loader_of(num_workers: int, rank: int = 0, world_size: int = 1) -> ShardLoader:
    source = ToyShards(folder=str(REPOSITORY / "data" / "toy_tiny"), num_people=24, num_held_out=8)
    source.prepare()
    data = ClipDataModule(
        num_frames=9,
        height=32,
        width=32,
        frames=StridedFrames(start="random"),
        source=source,
        batch_size=3,
        num_workers=num_workers,
        conditions={"references": ReferenceImages(height=32, width=32)},
    )
    loader = data.train_dataloader()
    loader.order.rank, loader.order.world_size = rank, world_size
    return loader


def take(loader: ShardLoader, count: int) -> list[dict]:
    taken: list[dict] = []
    while len(taken) < count:
        for batch in loader:
            taken.append(batch)
            if len(taken) == count:
                break
    return taken


def is_equal(first: dict, second: dict) -> bool:
    tensors = [name for name, value in first.items() if isinstance(value, torch.Tensor)]
    others = [name for name in first if name not in tensors]
    return all(torch.equal(first[name], second[name]) for name in tensors) and all(
        first[name] == second[name] for name in others
    )


def exact(num_workers: int, stops: int) -> dict:
    steps = 2 * len(loader_of(0))
    with closing(loader_of(num_workers)) as loader:
        uninterrupted = take(loader, steps + STEPS_COMPARED)
    equal = 0
    chosen = random.Random(num_workers).sample(range(steps), stops)
    for stop in chosen:
        with closing(loader_of(num_workers)) as killed:
            take(killed, stop)
        with closing(loader_of(num_workers)) as resumed:
            resumed.load_state_dict(killed.state_dict())
            pairs = list(zip(take(resumed, STEPS_COMPARED), uninterrupted[stop : stop + STEPS_COMPARED], strict=True))
        equal += all(is_equal(*pair) for pair in pairs)
    return {"check": f"exact, {num_workers} workers", "stopped at": stops, "as if never stopped": equal}


def elastic(num_workers: int) -> dict:
    batches = len(loader_of(0))
    state, seen = None, []
    for world_size, steps in ((1, 3), (2, 2), (3, 1), (1, batches - 10)):
        for rank in range(world_size):
            with closing(loader_of(num_workers, rank, world_size)) as loader:
                if state is not None:
                    loader.load_state_dict(state)
                seen += [key for batch in take(loader, steps) for key in batch["key"]]
        state = loader.state_dict()
    counts = Counter(seen)
    samples = len(loader.maker.samples)
    once = sum(count == 1 for count in counts.values())
    return {
        "check": f"1 -> 2 -> 3 -> 1 ranks, {num_workers} workers",
        "stopped at": 3,
        "as if never stopped": f"{once} of {samples} samples once, {len(seen) - once} more than once",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=20)
    stops = parser.parse_args().stops
    report("resume", [*(exact(workers, stops) for workers in (0, 2)), *(elastic(workers) for workers in (0, 2))])
