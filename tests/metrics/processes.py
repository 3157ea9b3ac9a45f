"""Running a metric on two processes."""

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def compute_on_two(
    folder: Path, make: Callable[[], Any], shares: Sequence[Sequence[tuple]]
) -> list[dict[str, torch.Tensor]]:
    """Return what `compute` gives on each of two gloo processes that update with their share of the clips."""
    # fork: torch's spawn sometimes aborts at the end, and the metric need not be pickled.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(rank, folder, make, share)) for rank, share in enumerate(shares)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(shares))]


def _work(rank: int, folder: Path, make: Callable[[], Any], share: Sequence[tuple]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    metric = make()
    for clip in share:
        metric.update(*clip)
    torch.save({name: value.clone() for name, value in metric.compute().items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()
