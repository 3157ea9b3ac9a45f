"""Building the metrics of a configuration, so that those with the same analyzer look for faces once."""

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf


def build_metrics(config: DictConfig) -> dict[str, Any]:
    """Return the metrics by name; equal `analyzer` nodes become one analyzer, which remembers what it saw last."""
    from hydra.utils import instantiate

    from ..models.identity.analyzer import CachedAnalyzer

    analyzers: dict[str, CachedAnalyzer] = {}
    metrics = {}
    for name, node in config.items():
        if node is None or node.get("analyzer") is None:
            metrics[str(name)] = instantiate(node, _convert_="all")
            continue
        key = json.dumps(OmegaConf.to_container(node.analyzer, resolve=True), sort_keys=True)
        if key not in analyzers:
            analyzers[key] = CachedAnalyzer(instantiate(node.analyzer, _convert_="all"))
        settings = OmegaConf.masked_copy(node, [entry for entry in node if entry != "analyzer"])
        settings._set_parent(config)  # for interpolations of the rest
        metrics[str(name)] = instantiate(settings, analyzer=analyzers[key], _convert_="all")
    return metrics
