"""Predicted memory of a training step, counted on tensors without values: for a card that is not there."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from .models.base import VideoDiffusion
from .models.draws import Draws
from .models.optimizers import SMALLEST_IN_8_BITS

_BLOCK_OF_8_BITS = 256  # values that share a float32 scale in bitsandbytes


@dataclass(frozen=True)
class StepMemory:
    """Bytes on the device in a step after the first. What lies there all the time, and what comes and goes.

    `activations`: kept from the forward pass for the backward one. `encoding`, `training`, `update`: the most that
    there is at once of everything that comes and goes, while conditions and latents are made, in forward and backward
    pass, and in the optimizer; gradients count among it. `optimizer_8_bit`: in place of `optimizer` with
    optimizer=adamw_8bit.
    """

    weights: int
    optimizer: int
    optimizer_8_bit: int
    average: int
    activations: int
    encoding: int
    training: int
    update: int

    @property
    def constant(self) -> int:
        return self.weights + self.optimizer + self.average

    @property
    def peak(self) -> int:
        """The most at once, without the allocator's gaps and the CUDA context."""
        return self.constant + max(self.encoding, self.training, self.update)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that were made in its block and are still there.

    `known`: tensors from before, whose views do not count.
    """

    def __init__(self, known: Iterator[Tensor]):
        super().__init__()
        self.current = self.peak = 0
        self._watched = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self._watch, func(*args, **(kwargs or {})))

    def start_peak(self) -> int:
        """Return the peak until now, and begin another."""
        before, self.peak = self.peak, self.current
        return before

    def _watch(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._watched:
            self._watched.add(storage._cdata)
            self.current += storage.nbytes()
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return tensor

    def _forget(self, key: int, num_bytes: int) -> None:
        self._watched.discard(key)
        self.current -= num_bytes


def predict_memory(
    build: Callable[[], VideoDiffusion],
    make_batch: Callable[[], Mapping[str, Any]],
    *,
    dtype: torch.dtype | None = None,
    has_average: bool = False,
) -> StepMemory:
    """Return the memory of a training step of the method that `build` makes. Nothing is computed or allocated.

    `dtype`: of autocast, None for none. `has_average`: whether there is an EMA.
    """
    with torch.device("meta"):
        model = build()
    mode = FakeTensorMode()
    _make_fake(model, mode)
    with mode, norms_as_on_cuda():
        return count_memory(model, make_batch, dtype=dtype, has_average=has_average)


def count_memory(
    model: VideoDiffusion,
    make_batch: Callable[[], Mapping[str, Any]],
    *,
    dtype: torch.dtype | None = None,
    has_average: bool = False,
) -> StepMemory:
    """Return the memory of the second training step of `model`, which has weights, values or not, on one device."""
    optimizer: Any = _optimizer_of(model)
    trained = list(model.trained_parameters().values())
    tensors = [*model.parameters(), *model.buffers()]
    live, device = LiveBytes(iter(tensors)), tensors[0].device
    with live:
        for _ in range(2):  # the states of the optimizer are made in the first
            live.start_peak()
            batch: Any = make_batch()
            draws = Draws(list(range(len(batch["pixel_values"]))), device)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                latents = model.encode(batch, draws)
                conditioning = model.condition(batch, draws, augment=True)
                encoding, before = live.start_peak(), live.current
                noise, timesteps = model.draw_noise(draws, latents.shape[1:]), model.draw_timesteps(draws)
                loss = model.loss(latents, conditioning, noise, timesteps).mean()
            activations = live.current - before
            optimizer.zero_grad()  # here, as Lightning does it: the last step's gradients are there until now
            loss.backward()
            del loss, latents, conditioning, noise, timesteps, batch
            training = live.start_peak()
            optimizer.step()
            update = live.start_peak()
    states = _bytes_of(value for state in optimizer.state.values() for value in state.values())
    return StepMemory(
        weights=_bytes_of(tensors),
        optimizer=states,
        optimizer_8_bit=_states_in_8_bits([value.numel() for value in trained]),
        average=4 * sum(value.numel() for value in trained) if has_average else 0,
        activations=activations,
        encoding=encoding - states,
        training=training - states,
        update=update - states,
    )


@contextmanager
def norms_as_on_cuda() -> Iterator[None]:
    """Take norms in float32 in this block where autocast is on, as CUDA's does. The CPU's takes them in what comes."""
    originals = {name: getattr(F, name) for name in ("group_norm", "layer_norm")}

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*inputs: Any, **settings: Any) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                inputs, settings = tree_map_only(Tensor, Tensor.float, (inputs, settings))
            return norm(*inputs, **settings)

        return run

    for name, norm in originals.items():
        setattr(F, name, in_float32(norm))
    try:
        yield
    finally:
        for name, norm in originals.items():
            setattr(F, name, norm)


def _optimizer_of(model: VideoDiffusion) -> torch.optim.Optimizer:
    optimizer = model.optimizer_factory(model.optimizer_groups())
    for group in optimizer.param_groups:
        if "foreach" in group and not group.get("fused"):
            group["foreach"] = True  # torch's choice on CUDA, with temporaries as large as the parameters
    return optimizer


def _states_in_8_bits(sizes: list[int]) -> int:
    large = [size for size in sizes if size >= SMALLEST_IN_8_BITS]
    scales = sum(-(-size // _BLOCK_OF_8_BITS) for size in large)
    return 2 * (sum(large) + 4 * scales) + 8 * (sum(sizes) - sum(large))


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers on the meta device by ones that say that they are on a CPU."""
    with mode:
        for module in model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    fake = torch.empty(value.shape, dtype=value.dtype)
                    module._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _bytes_of(tensors: Any) -> int:
    return sum(value.nbytes for value in tensors if isinstance(value, Tensor))
