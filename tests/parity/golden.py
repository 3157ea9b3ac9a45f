"""Reading golden cases: manifests with names and shapes, arrays with the numbers of the original implementation."""

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

HERE = Path(__file__).parents[1] / "golden"
ROOT = Path(os.environ.get("LIKENESS_GOLDEN", HERE))

_spec = importlib.util.spec_from_file_location("golden_fill", HERE / "fill.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
fill = _module.fill


def manifests(method: str) -> list[Path]:
    return sorted((ROOT / method).glob("*.json"))


class Case:
    """One manifest: fields as attributes, expected arrays by name, inputs and weights made from names and shapes."""

    def __init__(self, path: Path):
        self.manifest = json.loads(path.read_text())
        arrays = self.manifest.get("arrays")
        self.expected = dict(np.load(path.parent / arrays)) if arrays else {}

    def __getattr__(self, name: str):
        try:
            return self.manifest[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def input(self, name: str) -> torch.Tensor:
        """Return an input of about unit variance, clamped where the manifest says so."""
        entry = SimpleNamespace(**self.manifest["inputs"][name])
        value = fill(entry.name, tuple(entry.shape), entry.seed) * np.float32(np.sqrt(np.prod(entry.shape[1:])))
        return torch.from_numpy(value.clip(-1, 1) if "clamped to [-1,1]" in entry.how else value)

    def weights(self, field: str = "state_dict") -> dict[str, torch.Tensor]:
        return {name: torch.tensor(fill(name, tuple(shape), self.seed)) for name, shape in self.manifest[field]}

    def check(self, actual, name: str, **tolerance) -> None:
        """Compare `actual` with the expected array `name` at the manifest's tolerance."""
        tolerance = tolerance or {key: self.tolerance[key] for key in ("rtol", "atol")}
        actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
        np.testing.assert_allclose(actual, self.expected[name], err_msg=name, **tolerance)

    def check_scalar(self, actual, name: str) -> None:
        """Compare `actual` with the number or list `name` of the manifest's `scalars` at the manifest's tolerance."""
        tolerance = {key: self.tolerance[key] for key in ("rtol", "atol")}
        actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
        np.testing.assert_allclose(actual, np.array(self.scalars[name]), err_msg=name, **tolerance)

    def outputs_named(self, prefix: str) -> list[str]:
        """Return the names of the expected arrays that begin with `prefix`."""
        return [name for name in self.expected if name.startswith(prefix)]
