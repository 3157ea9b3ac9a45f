"""Which model files and which code stand behind a metric: numbers of others are other measures."""

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics.model_files import MODEL_FILES, checksum


def identify(node: Any) -> dict[str, str]:
    """Return the sha256 of each model file and folder that a metric's resolved settings name, by path."""
    return {str(path): checksum(path, root) for path, root in _paths(node)}


def code_of(metric: Any) -> str:
    """Return a hash of the source of our modules that a metric, and what it was built with, is made of."""
    package = __name__.partition(".")[0]
    pending = [type(part).__module__ for part in (metric, *vars(metric).values())]
    modules: set[str] = set()
    while pending:
        name = pending.pop()
        if name in modules or name.partition(".")[0] != package:
            continue
        modules.add(name)
        for value in vars(sys.modules[name]).values():
            if inspect.isclass(value) or inspect.isfunction(value):
                pending.append(value.__module__)
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(Path(str(sys.modules[name].__file__)).read_bytes())
    return digest.hexdigest()


def _paths(node: Any) -> Iterator[tuple[Path, Path | None]]:
    """Yield (path, folder of weights that keeps checksums) of the models that `node` or what it holds refers to."""
    if isinstance(node, Mapping):
        yield from _own_paths(node)
        for value in node.values():
            yield from _paths(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _paths(value)


def _own_paths(node: Mapping[str, Any]) -> Iterator[tuple[Path, Path | None]]:
    from ..metrics.protocols import RULES

    target, weights = str(node.get("_target_", "")), node.get("weights")
    if target.endswith(".InsightFaceAnalyzer"):
        yield Path(node["root"]) / "models" / str(node.get("pack", "antelopev2")), Path(node["root"])
    elif target.endswith(".ToyFaceAnalyzer"):
        yield Path(__file__).parents[1] / "toy" / "analyzer.safetensors", None
    elif target.endswith(".Protocol") and node.get("name") in RULES:
        weights = RULES[node["name"]].weights
    if isinstance(weights, str) and weights in MODEL_FILES:
        root = Path(str(node.get("weights_dir", "weights")))
        if (root / MODEL_FILES[weights].path).exists():
            yield root / MODEL_FILES[weights].path, root
    elif isinstance(weights, str) and Path(weights).is_file():
        yield Path(weights), Path(weights).parent
