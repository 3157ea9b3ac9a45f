"""Activations that are computed again in the backward pass, for blocks whose library does not offer it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(module: nn.Module, kind: type[nn.Module]) -> int:
    """Let every `kind` inside `module` keep its inputs alone for the backward pass; return how many there are.

    Nothing changes where no gradients are taken. Parameters keep their names.
    """
    blocks = [block for block in module.modules() if isinstance(block, kind)]
    for block in blocks:
        block.forward = _checkpointed(block.forward)
    return len(blocks)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*inputs: Any, **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **settings)
        return checkpoint(forward, *inputs, use_reentrant=False, **settings)

    return run
