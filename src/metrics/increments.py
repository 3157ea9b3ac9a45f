"""What one clip adds to a metric, as tensors that can be stored, sent to another process, and added again.

Clips measured in any order, by any process, today or before a kill, then give the same result: increments are added in
the order of the clips.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .columns import ColumnMetric
from .frechet import KINDS, SetDistance
from .states import cat

Increment = dict[str, Tensor]


def increment(metric: Metric, update: Callable[[Any], None]) -> Increment:
    """Return what `update(metric)` would add to the states of `metric`, which stays as it is."""
    probe = copy.copy(metric)
    for name, default in metric._defaults.items():
        if isinstance(default, list):  # the copy's lists would else be emptied with its own
            setattr(probe, name, [])
    probe.reset()
    update(probe)
    names = [name for name in metric._defaults if not _is_sum(metric, name)]
    added = {name: getattr(probe, name) for name in names}
    return {
        name: (cat(value) if isinstance(value, list) else value).detach().cpu().contiguous()
        for name, value in added.items()
        if isinstance(value, Tensor) or value
    }


def add_increment(metric: Metric, added: Increment) -> None:
    """Add what one clip adds to the states of `metric`."""
    metric._update_count += 1  # torchmetrics warns of a `compute` that no `update` came before
    metric._computed = None
    for kind in KINDS:
        if isinstance(metric, SetDistance) and f"{kind}_rows" in added:
            num_rows = int(added[f"{kind}_counts"].sum())
            metric.add(added[f"{kind}_rows"].view(num_rows, -1).to(metric.device), real=kind == "real")
    for name, value in added.items():
        if isinstance(metric, SetDistance) and name.endswith(("_rows", "_counts")):
            continue
        if isinstance(metric, ColumnMetric):
            metric.append(**{name: value})
        elif isinstance(metric._defaults[name], list):
            getattr(metric, name).append(value.to(metric.device))
        else:
            combine: Any = metric._reductions[name]
            setattr(metric, name, combine(torch.stack([getattr(metric, name), value.to(metric.device)])))


def _is_sum(metric: Metric, name: str) -> bool:
    """True for the sums of a distance, megabytes that follow from the rows."""
    return isinstance(metric, SetDistance) and name.partition("_")[2] in ("sum", "outer", "num_rows", "num_clips")
