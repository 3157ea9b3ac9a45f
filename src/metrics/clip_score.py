"""Does the clip show what the prompt says? And does a predictor of taste like it?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clip_metric import ClipMetric
from .image_features import CLIPFeatures
from .model_files import checksum, find
from .states import evenly_spaced, spread


class CLIPScore(ClipMetric):
    """100 times the cosine of CLIP's embeddings of frames and prompt, the mean of `num_frames` frames.

    `spacing`: `consisid` takes frames int(i n / num_frames), as ConsisID's evaluation does; `ends` spreads them
    from the first to the last; with `num_frames=null`, all frames count (CLIPSIM, which papers give divided by 100).
    `bgr=True` swaps red and blue, the slip of ConsisID's code, for its published numbers. Source: arXiv 2104.08718.
    """

    def __init__(
        self,
        *,
        features: CLIPFeatures,
        num_frames: int | None = 16,
        spacing: str = "consisid",
        bgr: bool = False,
        **kwargs: Any,
    ):
        if spacing not in ("consisid", "ends"):
            raise ValueError(f"spacing={spacing} is not consisid or ends")
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"num_frames={num_frames} must be at least 1")
        name = "clip_score_bgr" if bgr else "clip_score"
        super().__init__(
            descriptions={
                name: "100 x cosine of frames and prompt in CLIP: -100 to 100, about 30 is good, higher is better"
            },
            undefined="which have no prompt",
            features=features.name,
            **kwargs,
        )
        self.name, self.network, self.num_frames, self.spacing, self.bgr = name, features, num_frames, spacing, bgr

    def update(self, frames: np.ndarray, prompt: str = "") -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB and its `prompt`."""
        if not prompt.strip():
            self.add({})
            return
        chosen = frames[self._indices(len(frames))]
        pictures = F.normalize(self.network(chosen[..., ::-1] if self.bgr else chosen), dim=1)
        text = F.normalize(self.network.text([prompt]), dim=1)
        self.add({self.name: float(100 * (pictures @ text.T).mean())})

    def _indices(self, num_frames: int) -> np.ndarray:
        if self.num_frames is None:
            return np.arange(num_frames)
        if self.spacing == "ends":
            return evenly_spaced(num_frames, self.num_frames)
        return np.arange(self.num_frames) * num_frames // self.num_frames


class AestheticScore(ClipMetric):
    """LAION's predictor of how people rate pictures, on CLIP ViT-L/14: the mean of `num_frames` frames, 1 to 10.

    A shorter clip's frames count several times. `aesthetic_share` is (x - 4) / 3 of it, within [0, 1]: the column of
    OpenS2V-Eval, which takes 32 frames.
    """

    def __init__(self, *, predictor: "AestheticPredictor", num_frames: int = 32, **kwargs: Any):
        super().__init__(
            descriptions={
                "aesthetic_score": "predicted rating of the pictures by people: 1 to 10, higher is better",
                "aesthetic_share": "(x - 4) / 3 of it, as in OpenS2V-Eval: 0 to 1, higher is better",
            },
            undefined="which have no frames",
            features=predictor.name,
            **kwargs,
        )
        self.predictor, self.num_frames = predictor, num_frames

    def update(self, frames: np.ndarray) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB."""
        score = float(self.predictor(frames[spread(len(frames), self.num_frames)]).mean())
        self.add({"aesthetic_score": score, "aesthetic_share": (min(max(score, 4.0), 7.0) - 4) / 3})


class AestheticPredictor:
    """LAION's layers on CLIP's picture embeddings of unit length: frames (n h w 3) uint8 RGB -> ratings (n)."""

    def __init__(self, *, features: CLIPFeatures, weights: str = "laion_aesthetic", weights_dir: str = "weights"):
        path = find(weights, weights_dir)
        self.name = f"{features.name} + {weights}@{checksum(path, Path(weights_dir))[:8]}"
        self.network, self.layers = features, AestheticLayers(features.dim)
        self.layers.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> Tensor:
        return self.layers(F.normalize(self.network(frames), dim=1))


class AestheticLayers(nn.Module):
    """Five linear layers without activations; names of christophschuhmann/improved-aesthetic-predictor."""

    def __init__(self, dim: int = 768):
        super().__init__()
        # The published numbering counts three layers of dropout, which do nothing here.
        widths = {0: (dim, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
        self.layers = nn.ModuleDict({str(place): nn.Linear(*sizes) for place, sizes in widths.items()})

    def forward(self, embeds: Tensor) -> Tensor:
        for layer in self.layers.values():
            embeds = layer(embeds)
        return embeds[..., 0]
