"""Stands in for ChosenFrames of `frames.py` and Clip of `conditions.py` until they are there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ChosenFrames:
    """`indices` of the source video, one for each frame of the clip; `labels`: numbers that the model is told of it."""

    indices: list[int]
    labels: Mapping[str, int | float] = field(default_factory=dict)


class Clip:
    """The clip that a condition goes with. Its frames are decoded when somebody asks for them."""

    def __init__(self, chosen: ChosenFrames, make: Callable[[], tuple[Tensor, Any]]):
        self.chosen, self._make = chosen, make

    @property
    def frames(self) -> Tensor:
        return self._made[0]

    @property
    def geometry(self) -> Any:
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[Tensor, Any]:
        return self._make()
