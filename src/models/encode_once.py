"""Encoders that remember: several clips of one prompt or one reference cost one call of the encoder."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .base import VideoDiffusion


def encode_once(model: VideoDiffusion, size: int = 64) -> None:
    """Make the encoders of `model` remember the last `size` prompts and pictures. For sampling: they must not change.

    Every prompt and every picture then goes through its encoder alone, so that a clip does not depend on the others of
    its batch. Of a picture the posterior is remembered: each clip draws its own sample of it.
    """
    autoencoder: Any = model.autoencoder
    autoencoder.posterior = RowsOnce(autoencoder.posterior, _digest, size)
    for name in model.encoder_names:
        encoder: Any = getattr(model, name)
        encoder.forward = RowsOnce(encoder.forward, _digest, size)


class RowsOnce:
    """Calls `function`, which takes rows (b ...) and returns one tensor (b ...) or several, once for each new row."""

    def __init__(self, function: Callable[[Any], Any], key: Callable[[Any], str], size: int):
        self.function, self.key, self.size = function, key, size
        self._results: OrderedDict[str, Any] = OrderedDict()

    def __call__(self, rows: Any) -> Any:
        results = [self._result(rows, place) for place in range(len(rows))]
        if isinstance(results[0], Tensor):
            return torch.cat(results)
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

    def _result(self, rows: Any, place: int) -> Any:
        key = self.key(rows[place])
        if key not in self._results:
            self._results[key] = self.function(rows[place : place + 1])
            if len(self._results) > self.size:
                self._results.popitem(last=False)
        self._results.move_to_end(key)
        return self._results[key]


def _digest(row: str | Tensor) -> str:
    if isinstance(row, str):
        return row
    content = row.detach().float().cpu().contiguous()
    return f"{tuple(content.shape)} {hashlib.sha256(content.numpy().tobytes()).hexdigest()}"
