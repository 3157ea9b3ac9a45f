"""Running something in two processes that share the work, as training does."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing


def in_two_processes(function: Callable[[int], Any]) -> list[Any]:
    """Return what `function(rank)` returns in each of two processes of a gloo group."""
    context = torch.multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = context.SimpleQueue()
    processes = [context.Process(target=_run, args=(function, rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    for process in processes:
        if process.is_alive():
            process.kill()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process was killed, or has waited for the other for a minute")
    received = dict(results.get() for _ in processes)
    errors = [value for value in received.values() if isinstance(value, BaseException)]
    if errors:
        raise errors[0]
    return [received[0], received[1]]


def _run(function: Callable[[int], Any], rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        results.put((rank, function(rank)))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException as error:
        results.put((rank, RuntimeError(repr(error))))
    os._exit(0)  # of a fork: pytest's own clean-up is the parent's
