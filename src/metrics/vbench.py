"""VBench-I2V's totals from its dimensions, and what I2V-Bench counts in the answers of other models.

Sources: VBench's scripts/constant.py; ConsistI2V, arXiv 2402.04324, appendix. The dimensions themselves:
`temporal_consistency` (consistency), `motion` (dynamic degree, smoothness, flickering), `clip_score` (aesthetics).
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

# (least, greatest, weight) of each dimension.
I2V = {
    "camera_motion": (0.0, 1.0, 0.1),
    "i2v_subject": (0.1462, 1.0, 1.0),
    "i2v_background": (0.2615, 1.0, 1.0),
}
QUALITY = {
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
}


def i2v_totals(dimensions: Mapping[str, float]) -> dict[str, float]:
    """Return `i2v_score`, `quality_score` and their mean `total_score`, all about 0 to 1, higher is better.

    `dimensions`: raw values in [0, 1]. Raises ValueError naming those that are missing.
    """
    missing = [name for name in (*I2V, *QUALITY) if name not in dimensions]
    if missing:
        raise ValueError(f"VBench-I2V's totals need all its dimensions; missing: {', '.join(missing)}")
    i2v, quality = (_weighted_mean(dimensions, table) for table in (I2V, QUALITY))
    return {"i2v_score": i2v, "quality_score": quality, "total_score": (i2v + quality) / 2}


def object_consistency(detected: Sequence[Sequence[str]], label: str) -> float:
    """Return the share of frames among whose `detected` objects is the annotated `label` (I2V-Bench: GRiT's)."""
    return sum(label in frame for frame in detected) / max(len(detected), 1)


def scene_consistency(captions: Sequence[str], scene: str) -> float:
    """Return the share of frames whose caption has every word of the annotated `scene` (I2V-Bench: Tag2Text's)."""
    words = set(scene.lower().split())
    return sum(words <= set(caption.lower().split()) for caption in captions) / max(len(captions), 1)


def overall_consistency(clip: Tensor, caption: Tensor) -> float:
    """Return the cosine of a clip's and its caption's embeddings (d) (I2V-Bench: ViCLIP's, of 8 frames)."""
    return float(F.cosine_similarity(clip, caption, dim=0))


def _weighted_mean(dimensions: Mapping[str, float], table: Mapping[str, tuple[float, float, float]]) -> float:
    scaled = [weight * (dimensions[name] - low) / (high - low) for name, (low, high, weight) in table.items()]
    return sum(scaled) / sum(weight for _, _, weight in table.values())
