"""Building metrics so that those with the same analyzer look for the faces of a frame once."""

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf


class SharedAnalyzers:
    """Builds the metrics of a configuration: equal `analyzer` nodes become one that remembers what it saw last."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def build(self, node: DictConfig) -> Any:
        """Return the object of the `_target_` of `node`."""
        from hydra.utils import instantiate

        from ..models.identity.analyzer import CachedAnalyzer

        if node.get("analyzer") is None:
            return instantiate(node, _convert_="all")
        key = json.dumps(OmegaConf.to_container(node.analyzer, resolve=True), sort_keys=True)
        if key not in self._built:
            self._built[key] = CachedAnalyzer(instantiate(node.analyzer, _convert_="all"))
        rest = OmegaConf.masked_copy(node, [str(name) for name in node if name != "analyzer"])
        rest._set_parent(node._get_parent())  # interpolations of the rest reach the whole configuration
        return instantiate(rest, analyzer=self._built[key], _convert_="all")
