"""TrackDiffusion's network with boxes: recognised by its tensors, since its folder names the stock class."""

from collections.abc import Iterable, Mapping
from typing import Any

TRACKLET_UNET = "likeness.models.denoisers.tracklet_unet.TrackletUNet"
_FEATURES_PER_NUMBER = 16


def has_fusers(names: Iterable[str]) -> bool:
    """Return whether any of the tensors is one that only a network with boxes has."""
    return any(name.startswith("position_net.") or ".fuser." in name for name in names)


def tracklet_settings(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the settings of a `TrackletUNet` beside the stock ones. Raises ValueError for a tensor that is missing."""
    null, first = "position_net.null_position_feature", "position_net.linears.0.weight"
    if missing := [name for name in (null, first) if name not in shapes]:
        raise ValueError(f"{missing[0]} is missing")
    (num_features,) = shapes[null]
    slots = shapes.get("position_net.instance_embedding.weight")
    return {
        "box_dim": num_features // _FEATURES_PER_NUMBER,
        "label_dim": shapes[first][1] - num_features,
        **({} if slots is None else {"instance_enhancer": "decoder", "num_slots": slots[0]}),
    }
