"""Weights of face networks from local files: names and shapes are checked, nothing is unpickled but tensors."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ...checkpoints.files import lazy_tensors, read_safetensors, read_torch_file


def load_network(make: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Return the frozen network of `make` with the weights of `path`: .safetensors, or what torch.save wrote.

    Counters of batch norms may be missing. Raises ValueError for a damaged file and for one whose tensors have other
    names or shapes.
    """
    lazy = read_safetensors(path) if path.suffix == ".safetensors" else lazy_tensors(path, read_torch_file(path))
    network = make().requires_grad_(False).eval()
    wanted = {name: value.shape for name, value in network.state_dict().items() if not _is_counter(name)}
    found = {name: value.meta.shape for name, value in lazy.items() if not _is_counter(name)}
    wrong = [name for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown or wrong:
        example = ", ".join(list(wanted)[:3])
        raise ValueError(
            f"{path} is not the published file: {len(missing)} tensors are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:3])}), {len(wrong)} have another shape "
            f"({', '.join(sorted(wrong)[:3])}); expected names are {example}..."
        )
    network.load_state_dict({name: lazy[name].load() for name in wanted}, strict=False)
    return network


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
