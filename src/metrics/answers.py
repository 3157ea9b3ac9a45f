"""What I2V-Bench counts in the answers of other models, which detect, describe or embed frames.

Source: arXiv 2402.04324, appendix; the formulas are VBench's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def object_consistency(detected: Sequence[Sequence[str]], label: str) -> float:
    """Return the share of frames among whose `detected` objects is the annotated `label` (I2V-Bench: GRiT's)."""
    return sum(label in frame for frame in detected) / len(detected)


def scene_consistency(captions: Sequence[str], scene: str) -> float:
    """Return the share of frames whose caption has every word of the annotated `scene` (I2V-Bench: Tag2Text's)."""
    words = set(scene.lower().split())
    return sum(words <= set(caption.lower().split()) for caption in captions) / len(captions)


def overall_consistency(clip: Sequence[float], caption: Sequence[float]) -> float:
    """Return the cosine of a clip's and its caption's embeddings (d) (I2V-Bench: ViCLIP's, of 8 frames)."""
    first, second = np.asarray(clip, np.float64), np.asarray(caption, np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


# Of a column, the cells that it can be counted from and how.
ANSWERS: dict[str, tuple[str, str, Callable[[Any, Any], float]]] = {
    "object_consistency": ("detected_objects", "object", object_consistency),
    "scene_consistency": ("frame_captions", "scene", scene_consistency),
    "overall_consistency": ("clip_embedding", "caption_embedding", overall_consistency),
}
