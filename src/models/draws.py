"""Random numbers of one step, by name and by sample."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

SEED_LIMIT = 2**63


class Draws:
    """Named random numbers for a batch of which every sample has a seed of its own.

    The numbers depend on the sample's seed and on the name alone: not on the order of the calls, on the other samples
    of the batch, on the device or on how often anything else was drawn. So a resumed run draws what an uninterrupted
    one would have drawn, and a clip does not change with the batch that it is sampled in. Drawn on the CPU, then moved.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.seeds = [seed % SEED_LIMIT for seed in seeds]
        self.device = torch.device(device)

    @classmethod
    def of_step(cls, *key: int, num_samples: int, device: torch.device | str = "cpu") -> "Draws":
        """Return the draws of the step that `key` names (seed, epoch, batch index, rank...), one seed a sample."""
        return cls([mix(*key, sample) for sample in range(num_samples)], device)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal float32 numbers (b, *shape)."""
        return self._draw(name, lambda generator: torch.randn(tuple(shape), generator=generator))

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Return uniform float32 numbers (b, *shape) in [0, 1)."""
        return self._draw(name, lambda generator: torch.rand(tuple(shape), generator=generator))

    def sequence(self, *shapes: Sequence[int]) -> list[Tensor]:
        """Return standard normal float32 numbers (b, *shape) for each of `shapes`, drawn one after another.

        Of one generator with the sample's own seed, as diffusers' pipelines draw theirs.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        drawn = [[torch.randn(tuple(shape), generator=generator) for generator in generators] for shape in shapes]
        return [torch.stack(values).to(self.device, non_blocking=True) for values in drawn]

    def _draw(self, name: str, draw) -> Tensor:
        salt = zlib.crc32(name.encode())
        values = [draw(torch.Generator().manual_seed(mix(seed, salt))) for seed in self.seeds]
        return torch.stack(values).to(self.device, non_blocking=True)


def mix(*numbers: int) -> int:
    """Return one well-mixed 63-bit seed that depends on every number and on their order (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state % SEED_LIMIT
