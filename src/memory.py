"""Sampling on small cards: what is on the GPU at a time, and how much of the work is done at once."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from .config import nearest
from .models.base import VideoDiffusion
from .models.loading import cast_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preset:
    """`one_part`: encoders, denoiser and autoencoder are on the GPU one after another. `pieces`: the denoiser takes
    one clip or half of guidance at a time, the autoencoder decodes tile by tile. `layers`: of denoiser and text
    encoder only the layer that computes is on the GPU.
    """

    one_part: bool = False
    pieces: bool = False
    layers: bool = False


# Named after the card that CogVideoX-5B at 49 x 480 x 720 in bfloat16 is meant to fit, one clip at a time: its denoiser
# has 11 GB, its text encoder 10. The original keeps one part at a time and reports a peak of 24 GB.
PRESETS = {
    "24gb": Preset(one_part=True),
    "16gb": Preset(one_part=True, pieces=True),
    "8gb": Preset(one_part=True, pieces=True, layers=True),
}


def place(model: VideoDiffusion, memory: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """Make `model` ready to sample on `device`, its denoiser in `dtype`, within `memory` (None: all of it at once).

    Pieces change rounding, and tiles the seams between them; which part is where changes nothing.
    """
    check_memory(memory)
    cast_weights(model.denoiser, dtype)  # before it goes to the device: in float32 it may not fit
    if memory is None:
        model.to(device)
        return
    encoders = [getattr(model, name) for name in model.encoder_names]
    preset, parts = PRESETS[memory], (*encoders, model.denoiser, model.autoencoder)
    _move_the_rest(model, parts, device)
    stage = OneAtATime(device)
    stage.watch(model.autoencoder, "posterior", "decode")
    if preset.layers and device.type == "cuda":
        _offload_layers(model, device)
    else:
        if preset.layers:
            log.warning("memory=%s: on %s there is no other place for layers, they stay", memory, device)
        for part in (*encoders, model.denoiser):
            stage.watch(part, "forward")
    if preset.pieces:
        model.denoiser.forward = one_row_at_a_time(model.denoiser.forward)
        _decode_in_tiles(model.autoencoder)


def check_memory(memory: str | None) -> None:
    """Raise ValueError for a preset that does not exist."""
    if memory is not None and memory not in PRESETS:
        raise ValueError(f"memory={memory} is not a preset{nearest(str(memory), PRESETS)}")


class OneAtATime:
    """Fetches a part to `device` when it is called, after it has sent the one before back to the CPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.resident: nn.Module | None = None

    def watch(self, part: nn.Module, *methods: str) -> None:
        """Fetch `part` at every call of one of its `methods`."""
        for name in methods:
            setattr(part, name, self._fetching(part, getattr(part, name)))

    def _fetching(self, part: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(*arguments: Any, **settings: Any) -> Any:
            if self.resident is not part:
                if self.resident is not None:
                    nn.Module.to(self.resident, "cpu")
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                nn.Module.to(part, self.device)
                self.resident = part
            return method(*arguments, **settings)

        return run


def one_row_at_a_time(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` of a denoiser, called with keywords, in runs of one row of its batch each.

    Tensors with as many rows as the first input are split; anything else, such as position tables, goes to every run.
    """

    @wraps(forward)
    def run(**inputs: Any) -> Any:
        num_rows, outputs = len(next(iter(inputs.values()))), []
        for row in range(num_rows):
            outputs.append(
                forward(
                    **{
                        name: value[row : row + 1]
                        if isinstance(value, Tensor) and value.shape[:1] == (num_rows,)
                        else value
                        for name, value in inputs.items()
                    }
                )
            )
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))

    return run


@contextmanager
def tiled(autoencoder: nn.Module, is_wanted: bool = True) -> Iterator[None]:
    """Let the autoencoders inside `autoencoder` that can work tile by tile and clip by clip in this block."""
    # Not `enable_tiling`: the library gives that to classes that have no tiles, too.
    inner: list[Any] = [module for module in autoencoder.modules() if is_wanted and hasattr(module, "use_tiling")]
    before = [(module.use_tiling, module.use_slicing) for module in inner]
    for module in inner:
        module.use_tiling = module.use_slicing = True
    try:
        yield
    finally:
        for module, (tiling, slicing) in zip(inner, before, strict=True):
            module.use_tiling, module.use_slicing = tiling, slicing


def _decode_in_tiles(autoencoder: Any) -> None:
    # Decoding only: references must be encoded as in training, and one picture needs little.
    decode = autoencoder.decode

    @wraps(decode)
    def run(latents: Tensor, **settings: Any) -> Tensor:
        with tiled(autoencoder):
            return decode(latents, **settings)

    autoencoder.decode = run


def _move_the_rest(model: VideoDiffusion, parts: tuple[nn.Module, ...], device: torch.device) -> None:
    for child in model.children():
        if child not in parts:
            child.to(device)
    for name, buffer in model.named_buffers(recurse=False):
        setattr(model, name, buffer.to(device))


def _offload_layers(model: VideoDiffusion, device: torch.device) -> None:
    from diffusers.hooks import apply_group_offloading

    # Without a stream: it would hold a pinned copy of the weights in host memory. The arithmetic takes longer anyway.
    apply_group_offloading(model.denoiser, onload_device=device, offload_type="block_level", num_blocks_per_group=1)
    for name in model.encoder_names:
        apply_group_offloading(getattr(model, name), onload_device=device, offload_type="leaf_level")
