"""Working on many clips at once, in processes that each build their own models."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Tools = TypeVar("Tools")

_tools: Any = None
_number = 0  # of this worker


def map_in_workers(
    build: Callable[[], Tools],
    work: Callable[[Tools, Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int | None,
    start_method: str | None = None,
) -> Iterator[Result]:
    """Yield `work(build(), item)` of every item, in order; `build` runs once in each process.

    `num_workers`: processes, None for one for each CPU, 0 to stay in this one. `build`, `work`, items and results are
    pickled. `start_method`: of multiprocessing; models need `spawn`, as CUDA and the threads of onnxruntime do not
    survive a fork.
    """
    if num_workers == 0:
        tools = build()
        for item in items:
            yield work(tools, item)
        return
    count, context = num_workers or multiprocessing.cpu_count(), multiprocessing.get_context(start_method)
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(count, context, initializer=_start, initargs=(build,)) as pool:
        for item in items:
            waiting.append(pool.submit(_work, work, item))
            # Results hold whole videos: no more of them are made ahead than keep every process busy.
            if len(waiting) > 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def worker_device(device: str = "auto") -> torch.device:
    """Return the device of this process: for `auto`, the GPU that falls to this worker, or the CPU where there is none."""
    import torch

    if device != "auto":
        return torch.device(device)
    count = torch.cuda.device_count()
    return torch.device("cuda", _number % count) if count else torch.device("cpu")


def _start(build: Callable[[], Any]) -> None:
    global _tools
    import torch

    torch.set_num_threads(1)  # the processes are the parallelism
    _tools = build()


def _work(work: Callable[[Any, Any], Any], item: Any) -> Any:
    return work(_tools, item)
