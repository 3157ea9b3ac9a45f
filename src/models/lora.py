"""Low-rank adapters on the layers of a denoiser, made by peft. Source: arXiv 2106.09685."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..config import nearest

_ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """y = W x + alpha / rank * B A x with W frozen and B zero: training starts at the base model.

    `targets`: names of layers, each the end of a layer's full name (`to_q`, `attn1.to_out.0`), or one regular
    expression that a full name must match as a whole. `dropout`: of x on its way to A, in training. `init`: of A,
    kaiming (uniform) or gaussian (standard deviation 1 / rank).
    """

    targets: Sequence[str] | str
    rank: int
    alpha: float
    dropout: float = 0.0
    init: str = "kaiming"

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1: model.lora.rank")
        if self.alpha <= 0:
            raise ValueError(f"alpha={self.alpha} must be positive: model.lora.alpha")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1): model.lora.dropout")
        if self.init not in ("kaiming", "gaussian"):
            raise ValueError(f"init={self.init!r} is not one of kaiming, gaussian: model.lora.init")

    def apply(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Put the adapters into `module` and return their parameters by name (`LAYER.lora_A.default.weight`).

        Raises ValueError for a target that no layer has.
        """
        from peft import LoraConfig, inject_adapter_in_model

        self._check_targets([name for name, layer in module.named_modules() if isinstance(layer, _ADAPTABLE)])
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides by the rank: any number will do
            lora_dropout=self.dropout,
            init_lora_weights="gaussian" if self.init == "gaussian" else True,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
        )
        inject_adapter_in_model(config, module)
        adapters = {name: value for name, value in module.named_parameters() if ".lora_" in name}
        for value in adapters.values():
            # float32 whatever the base has: an optimizer's small steps are lost in 16 bits.
            value.data = value.data.float()
        return adapters

    def _check_targets(self, layers: Sequence[str]) -> None:
        known = {_short_name(name) for name in layers}
        if isinstance(self.targets, str):
            try:
                matches = [name for name in layers if re.fullmatch(self.targets, name)]
            except re.error as error:
                raise ValueError(
                    f"model.lora.targets={self.targets!r} is no regular expression ({error}); for names give a list"
                ) from error
            if not matches:
                raise ValueError(
                    f"model.lora.targets={self.targets!r} matches no layer as a whole, e.g. {layers[-1]}; for names "
                    f"give a list of some of {', '.join(sorted(known))}"
                )
            return
        if not self.targets:
            raise ValueError(f"model.lora.targets is empty: give names of layers, some of {', '.join(sorted(known))}")
        for target in self.targets:
            if not any(name == target or name.endswith(f".{target}") for name in layers):
                raise ValueError(f"model.lora.targets: the denoiser has no layer {target}{nearest(target, known)}")


def scale_lora(model: Any, scale: float) -> None:
    """Make the adapters of a method's denoiser `scale` times as strong as they were trained."""
    if scale == 1:
        return
    if model.lora is None:
        raise ValueError(f"lora_scale={scale}, but the run has no LoRA: leave it out")
    for layer in model.denoiser.modules():
        if hasattr(layer, "lora_A"):
            layer.set_scale("default", scale)


def _short_name(layer: str) -> str:
    """Return the shortest end of a dotted name that begins with a word: `to_q`, `to_out.0`."""
    parts = layer.split(".")
    start = max(place for place, part in enumerate(parts) if not part.isdigit())
    return ".".join(parts[start:])
