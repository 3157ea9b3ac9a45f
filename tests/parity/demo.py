"""The clips of `../shared/data`, where they are."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("LIKENESS_DATA", Path(__file__).parents[3] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """Return the folder or file `name` of the shared data; the test is skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine (LIKENESS_DATA names another folder)")
    return path
