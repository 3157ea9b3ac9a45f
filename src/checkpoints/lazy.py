"""Tensors that are made when they are asked for, so that a conversion never holds two copies of a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

# The names of the tensors that one is made of, and how it is made of them.
Rule = tuple[tuple[str, ...], Callable[..., Tensor]]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor before it is read: `meta` has its shape and dtype and no memory, `load()` returns it."""

    meta: Tensor
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Return one that is there already: mapped from a file, so that its pages are read when they are used."""
        return cls(torch.empty_like(tensor, device="meta"), lambda: tensor)

    @classmethod
    def made_by(cls, function: Callable[..., Tensor], *parts: "LazyTensor") -> Self:
        return cls(function(*(part.meta for part in parts)), lambda: function(*(part.load() for part in parts)))

    @property
    def num_bytes(self) -> int:
        return self.meta.numel() * self.meta.element_size()

    def to(self, dtype: torch.dtype | None) -> "LazyTensor":
        """Return the same in `dtype`; None: as it is."""
        return self if dtype in (None, self.meta.dtype) else LazyTensor.made_by(lambda tensor: tensor.to(dtype), self)


def apply_rules(rules: Mapping[str, Rule], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: make(*(tensors[part] for part in parts)) for name, (parts, make) in rules.items()}


def apply_rules_lazily(rules: Mapping[str, Rule], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    return {name: LazyTensor.made_by(make, *(tensors[part] for part in parts)) for name, (parts, make) in rules.items()}


def total_bytes(tensors: Iterable[LazyTensor]) -> int:
    return sum(tensor.num_bytes for tensor in tensors)
