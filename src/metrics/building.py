"""Building the metrics of a configuration: what this machine lacks is left out by name, never silently."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torchmetrics import Metric

from .model_files import MissingModel
from .sharing import SharedAnalyzers


def build_metrics(config: Mapping[str, Any], asked_for: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the metrics of `config` (name -> node with a `_target_`) by name, and why others are disabled, by name.

    Disabled is what needs weights or a package that are not there. Raises MissingModel where that is one of
    `asked_for`, the names that the user gave, and ValueError for a setting that a metric refuses: both name the metric.
    """
    from hydra.errors import InstantiationException

    nodes: Any = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    analyzers, metrics, disabled = SharedAnalyzers(), {}, {}
    for name in nodes:
        if nodes[name] is None:
            continue
        try:
            if "analyzer" in nodes[name] and nodes[name].analyzer is None:
                raise MissingModel("it looks for faces: give analyzer=insightface, or analyzer=toy for drawn people")
            metrics[str(name)] = analyzers.build(nodes[name])
        except (InstantiationException, MissingModel) as error:
            missing = _cause(error, MissingModel)
            if missing is None:
                refused = _cause(error, ValueError)
                if refused is None:
                    raise
                raise ValueError(f"metrics.{name}: {refused}") from error
            if name in asked_for:
                raise MissingModel(f"metrics.{name}: {missing}") from error
            disabled[str(name)] = str(missing)
    return metrics, disabled


def arguments(metric: type[Metric] | Metric) -> set[str]:
    """Return the names of what `update` of a metric takes, besides the frames."""
    return {name for name in inspect.signature(metric.update).parameters if name not in ("self", "frames")}


def update(metric: Metric, frames: Any, **available: Any) -> None:
    """Update `metric` with a clip's `frames` and those of `available` (references, prompt, fps, real) that it takes."""
    taken = arguments(metric)
    metric.update(frames, **{name: value for name, value in available.items() if name in taken})


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
