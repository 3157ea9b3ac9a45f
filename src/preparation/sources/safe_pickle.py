"""Reading a pickle of plain values without running what it may say: lists, tuples, texts and numbers, nothing else."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

MAX_BYTES = 2**30
# What builds lists, tuples, texts and numbers. Whatever names a class or a function, calls one, or sets a state is
# missing: without it, there is no way from a pickle to code.
PLAIN = frozenset(
    [
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
        "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
        "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET",
        "BINGET", "LONG_BINGET",
    ]
)  # fmt: skip


class PlainUnpickler(pickle.Unpickler):
    """Refuses every global and every persistent id."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, identifier: Any) -> Any:
        raise pickle.UnpicklingError("it asks for a persistent object")


def load_plain(path: Path) -> Any:
    """Return what the pickle at `path` holds. Raises ValueError where it is damaged or holds anything else than lists,
    tuples, texts and numbers; then, nothing of it has been run.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
    data = path.read_bytes()
    try:
        problem = _problem(data)
        if problem is None:
            return PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except (
        ValueError,
        pickle.UnpicklingError,
        EOFError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} is not a pickle of a plain list: {error}") from error
    raise ValueError(f"{path} is refused, nothing of it was run: {problem}; write the paths one a line instead")


def _problem(data: bytes) -> str | None:
    """Return what the pickle `data` asks for beyond plain values. Raises ValueError where it is none."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in PLAIN:
            return f"at byte {position} it asks for more than lists, tuples, texts and numbers ({opcode.name})"
        # The unpickler makes room for every place up to this one: a few bytes could ask for gigabytes.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            return f"at byte {position} it asks for room for {argument} values"
    return None
