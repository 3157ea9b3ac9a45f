"""Worker processes that die, and that end when the main one is gone."""

import os
import subprocess
import sys
import time

import pytest

from likeness.preparation.workers import map_in_workers

from ..conftest import REPOSITORY


def work(tools, numbers):
    for number in numbers:
        if number == 13:
            os._exit(3)
        if number == 17:
            raise ValueError("17 is refused")
    return [tools + number for number in numbers]


def in_workers(items, **settings):
    return list(map_in_workers(lambda: 100, work, items, num_workers=2, start_method="fork", **settings))


def lost(item, cause):
    return [f"{item[0]}: {cause}"]


def test_an_item_that_kills_its_process_is_lost_and_the_others_come_in_order():
    results = in_workers([[number] for number in range(10, 20) if number != 17], lost=lost)
    assert results == [[110], [111], [112], ["13: exit code 3"], [114], [115], [116], [118], [119]]


def test_of_a_bunch_only_the_part_that_kills_is_lost():
    results = in_workers([[1, 2], [12, 13, 14], [3]], lost=lost, split=lambda item: [[one] for one in item])
    assert results == [[101, 102], [112], ["13: exit code 3"], [114], [103]]


def test_without_a_way_to_go_on_a_death_is_an_error():
    with pytest.raises(RuntimeError, match="died twice of the same item"):
        in_workers([[13]])


def test_an_error_in_a_worker_is_raised_with_where_it_was():
    with pytest.raises(ValueError, match="17 is refused") as raised:
        in_workers([[17]])
    assert "in work" in raised.value.__notes__[0]


def test_a_process_that_cannot_start_is_an_error():
    with pytest.raises(RuntimeError, match="ended while it started"):
        list(map_in_workers(lambda: os._exit(1), work, [[1]], num_workers=1, start_method="fork"))


ORPHANS = """
import os, sys, time
from likeness.preparation.workers import map_in_workers
def work(tools, item):
    print(os.getpid(), flush=True)
    time.sleep(600)
list(map_in_workers(int, work, [1, 2], num_workers=2, start_method="fork"))
"""


def test_workers_end_when_the_main_process_is_killed():
    main = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, cwd=REPOSITORY)
    workers = [int(main.stdout.readline()) for _ in range(2)]
    main.kill()
    main.wait()
    end = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.1)
