"""Calling a command inside the test process, which saves the seconds of importing the libraries again."""

import importlib
import logging
import sys
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra


@dataclass
class Outcome:
    code: int
    error: str
    log: str


def call(capfd, name: str, *arguments: str) -> Outcome:
    """Run the command `name` as if it had been called with `arguments`; return its exit code and what it printed."""
    argv, handlers = sys.argv, logging.getLogger().handlers[:]
    capfd.readouterr()
    try:
        GlobalHydra.instance().clear()
        sys.argv = [f"{name}.py", *arguments]
        importlib.import_module(f"likeness.{name}").main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
        logging.getLogger().handlers[:] = handlers
    captured = capfd.readouterr()
    return Outcome(code, captured.err, captured.out)
