"""Working on many clips at once, in processes that each build their own models, and outliving those that die."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Tools = TypeVar("Tools")

AHEAD = 2  # items that are with a worker at the same time: the next one is there when one is done
_number = 0  # of this worker


def map_in_workers(
    build: Callable[[], Tools],
    work: Callable[[Tools, Item], Result],
    items: Iterable[Item],
    *,
    num_workers: int | None,
    start_method: str | None = None,
    split: Callable[[Item], Sequence[Item]] = lambda item: (),
    lost: Callable[[Item, str], Result] | None = None,
) -> Iterator[Result]:
    """Yield `work(build(), item)` of every item, in order; `build` runs once in each process.

    `num_workers`: processes, None for one for each CPU, 0 to stay in this one. `build`, `work`, items and results are
    pickled. `start_method`: of multiprocessing; models need `spawn`, as CUDA and the threads of onnxruntime do not
    survive a fork.

    A process that dies (killed, or crashed in a decoder) is replaced. The item that it worked on is done in the parts
    that `split` gives, or tried once more, and yields `lost(item, what happened)` if that process dies too. Without
    `lost`, RuntimeError.
    """
    if num_workers == 0:
        tools = build()
        for item in items:
            yield work(tools, item)
        return
    pool = _Pool(build, work, num_workers or multiprocessing.cpu_count(), multiprocessing.get_context(start_method))
    try:
        yield from pool.map(iter(items), split, lost)
    finally:
        pool.close()


def worker_device(device: str = "auto") -> torch.device:
    """Return the device of this process: for `auto`, the GPU that falls to this worker, or the CPU if there is none."""
    import torch

    if device != "auto":
        return torch.device(device)
    count = torch.cuda.device_count()
    return torch.device("cuda", _number % count) if count else torch.device("cpu")


@dataclass(eq=False)
class _Job:
    """An item on its way, or the jobs of its parts."""

    item: Any
    result: Any = None
    is_done: bool = False
    deaths: int = 0
    parts: list[_Job] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return all(part.is_finished for part in self.parts) if self.parts else self.is_done

    def results(self) -> Iterator[Any]:
        if not self.parts:
            yield self.result
        for part in self.parts:
            yield from part.results()


class _Worker:
    """A process and what it has been given to do, in this order."""

    def __init__(self, context: Any, build: Callable[[], Any], work: Callable[[Any, Any], Any], number: int):
        self.number, self.is_ready = number, False
        self.jobs: deque[_Job] = deque()
        self.connection, other_end = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other_end, build, work, number, os.getpid()), daemon=True, name=f"prepare-{number}"
        )
        self.process.start()
        other_end.close()  # so that the connection ends with the process

    def give(self, job: _Job) -> None:
        self.jobs.append(job)
        with contextlib.suppress(OSError):  # it has just died, which `receive` will tell
            self.connection.send(job.item)

    def receive(self) -> tuple[str, Any] | None:
        """Return the next message; None where the process is dead."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def end(self) -> str:
        """Return how the process, which is dead, ended."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Pool:
    def __init__(self, build: Callable[[], Any], work: Callable[[Any, Any], Any], count: int, context: Any):
        self.start = lambda number: _Worker(context, build, work, number)
        self.workers = [self.start(number) for number in range(count)]

    def map(
        self,
        items: Iterator[Any],
        split: Callable[[Any], Sequence[Any]],
        lost: Callable[[Any, str], Any] | None,
    ) -> Iterator[Any]:
        ahead: deque[_Job] = deque()  # in the order of the results
        again: deque[_Job] = deque()  # what dead workers left behind
        # Results hold whole videos: no more of them are made ahead than keep every process busy.
        limit, is_over = 4 * len(self.workers), False
        while True:
            while True:
                worker = min(self.workers, key=lambda worker: len(worker.jobs))
                if len(worker.jobs) >= AHEAD or not (again or (len(ahead) < limit and not is_over)):
                    break
                if again:
                    worker.give(again.popleft())
                    continue
                try:
                    ahead.append(_Job(next(items)))
                except StopIteration:
                    is_over = True
                    break
                worker.give(ahead[-1])
            if not ahead:
                return
            if ahead[0].is_finished:
                yield from ahead.popleft().results()
            else:
                self._wait(again, split, lost)

    def _wait(self, again: deque[_Job], split: Callable, lost: Callable | None) -> None:
        """Take what the workers have to say, at least from one of them."""
        by_connection = {worker.connection: worker for worker in self.workers}
        for connection in wait(list(by_connection)):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            message = worker.receive()
            if message is None:
                self._replace(worker, again, split, lost)
            elif message[0] == "ready":
                worker.is_ready = True
            elif message[0] == "error":
                raise message[1]
            else:
                job = worker.jobs.popleft()
                job.result, job.is_done = message[1], True

    def _replace(self, worker: _Worker, again: deque[_Job], split: Callable, lost: Callable | None) -> None:
        cause = worker.end()
        if not worker.is_ready:
            raise RuntimeError(f"a worker process ended while it started ({cause}): try num_workers=0 to see why")
        self.workers[self.workers.index(worker)] = self.start(worker.number)
        again.extend(list(worker.jobs)[1:])
        if not worker.jobs:
            return
        job = worker.jobs[0]
        job.deaths += 1
        parts = split(job.item)
        if len(parts) > 1:
            job.parts = [_Job(part) for part in parts]
            again.extendleft(reversed(job.parts))
        elif job.deaths < 2:
            again.appendleft(job)
        elif lost is None:
            raise RuntimeError(f"a worker process died twice of the same item ({cause})")
        else:
            job.result, job.is_done = lost(job.item, cause), True

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def _serve(connection: Connection, build: Callable, work: Callable, number: int, parent: int) -> None:
    global _number
    import torch

    torch.set_num_threads(1)  # the processes are the parallelism
    _number = number
    items: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, items, parent), daemon=True).start()
    try:
        tools = build()
        connection.send(("ready", None))
        while True:
            connection.send(("result", work(tools, items.get())))
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        connection.send(("error", error))


def _receive(connection: Connection, items: queue.SimpleQueue, parent: int) -> None:
    """Take items while the worker works on others, so that neither side waits for the other to listen."""
    try:
        while True:
            if connection.poll(1):
                items.put(connection.recv())
            elif os.getppid() != parent:
                break  # the main process was killed; forked siblings may still hold the other end open
    except (EOFError, OSError):
        pass
    os._exit(1)
