"""Which parameters are trained: patterns over their names."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from ..config import nearest


def select(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """Return those of `names` that `patterns` choose, one pattern after another: `PATTERN` adds, `!PATTERN` takes away.

    `*` stands for any characters, dots too. Raises ValueError for a pattern that matches no name, and where nothing is
    chosen.
    """
    names, chosen = list(names), set[str]()
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        matches = {name for name in names if fnmatchcase(name, bare)}
        if not matches:
            raise ValueError(f"model.trained: no parameter is called {bare}{nearest(bare, _examples(names))}")
        chosen = chosen - matches if pattern.startswith("!") else chosen | matches
    if not chosen:
        raise ValueError(f"model.trained={list(patterns)} chooses no parameter: there is nothing to train")
    return chosen


def _examples(names: Iterable[str]) -> set[str]:
    """Return patterns that match: one for each name without its numbers."""
    return {".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names}
