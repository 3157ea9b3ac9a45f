"""Does a clip begin with the picture that it was to go on from? For image-to-video methods."""

from collections.abc import Sequence

import numpy as np
import torch

from .clip_metric import ClipMetric


class FirstFramePSNR(ClipMetric):
    """`first_frame_psnr`: peak signal-to-noise ratio of a clip's first frame against its picture, in dB, mean of clips.

    The picture is stretched to the size of the clip. About 15 dB is another picture of the same colours; 30 dB looks
    the same; equal ones count as 100 dB.
    """

    MAX = 100.0

    def __init__(self):
        super().__init__(
            descriptions={
                "first_frame_psnr": "PSNR of the first frame against the given picture, dB: higher is closer"
            },
            undefined="which have no picture, or several",
            features="pixels",
        )

    def update(self, frames: np.ndarray, references: np.ndarray | Sequence[np.ndarray]) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, one picture (h w 3), all uint8 RGB."""
        from torchmetrics.functional.image import peak_signal_noise_ratio

        from ..datamodules.images import stretched

        pictures = [references] if isinstance(references, np.ndarray) else list(references)
        value = float("nan")
        if len(pictures) == 1 and len(frames):
            height, width = frames.shape[1:3]
            first = torch.from_numpy(np.array(frames[0])).permute(2, 0, 1).float() / 127.5 - 1
            ratio = peak_signal_noise_ratio(first, stretched(pictures[0], height, width), data_range=(-1.0, 1.0))
            value = min(float(ratio), self.MAX)
        self.add({"first_frame_psnr": value})
