"""Do the last frames become the reference picture? A known failure of references that are appended to the clip."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..datamodules.images import fit_and_pad
from .columns import ColumnMetric

THUMBNAIL = 32  # pixels; what is left of a copy that a VAE has blurred, and little of how the face moves


class ReferenceCopy(ColumnMetric):
    """Normalised cross-correlation of frames with the reference, fitted and padded to the clip as the model saw it.

    The reference stands behind the clip in time, and a badly trained model ends the clip with it: position, black
    padding and all. Compared are thumbnails of 32 x 32 in colour. A clip counts as a copy if, at the best of its last
    `num_last_frames` (one latent frame of CogVideoX and Wan has 4), the similarity s reaches `threshold`, and 1 - s is
    at most `remainder` of its median over the other frames. Both are needed: a person before a similar background may
    be similar from the first frame to the last (drawn people reach 0.96), but then nothing changes at the end; and a
    clip that shows the reference from its first frame is another failure, which `rest_similarity` shows. `compute`:

    - `reference_copy`: share of clips that count as copies,
    - `last_similarity`, `rest_similarity`: means over clips.
    """

    features = f"pixels at {THUMBNAIL} x {THUMBNAIL}"
    descriptions: ClassVar = {
        "reference_copy": "share of clips whose last frames become the reference picture",
        "last_similarity": "correlation of pixels with the reference, at the most similar of the last frames",
        "rest_similarity": "the same, median of the frames before",
    }

    def __init__(self, *, num_last_frames: int = 4, threshold: float = 0.9, remainder: float = 1 / 3):
        super().__init__()
        if num_last_frames < 1:
            raise ValueError(f"num_last_frames={num_last_frames} must be at least 1")
        self.num_last_frames, self.threshold, self.remainder = num_last_frames, threshold, remainder
        self.add_columns(last=torch.zeros(0), rest=torch.zeros(0))

    def update(self, frames: np.ndarray, references: np.ndarray | Sequence[np.ndarray]) -> None:
        """Add a clip: `frames` (f h w 3) and its `references`, one picture (h w 3) or several, uint8 RGB."""
        references = [references] if isinstance(references, np.ndarray) else list(references)
        num_last = min(self.num_last_frames, len(frames) // 2)
        if not num_last or not references:  # nothing to compare with
            last = rest = torch.tensor(torch.nan)
        else:
            pixels = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
            pictures = torch.stack([fit_and_pad(picture, *frames.shape[1:3]) for picture in references])
            similarity = correlation(thumbnails(pixels), thumbnails(pictures))
            lasts, rests = similarity[-num_last:].amax(dim=0), similarity[:-num_last].median(dim=0).values
            copied = int(lasts.argmax())
            last, rest = lasts[copied], rests[copied]
        self.append(last=last[None], rest=rest[None])

    def compute(self) -> dict[str, Tensor]:
        if not len(self.column("last")):
            raise ValueError("ReferenceCopy has seen no clip")
        per_clip = self.per_clip()
        return {
            "reference_copy": per_clip["copies_reference"].nanmean(),
            "last_similarity": per_clip["last_similarity"].nanmean(),
            "rest_similarity": per_clip["rest_similarity"].nanmean(),
        }

    def per_clip(self) -> dict[str, Tensor]:
        """Return the values of each clip, in the order of `update`, by name; NaN for what cannot be compared."""
        last, rest = self.column("last"), self.column("rest")
        copies = (last >= self.threshold) & (1 - last <= self.remainder * (1 - rest))
        copies = torch.where(last.isnan(), last, copies.float())
        return {"copies_reference": copies, "last_similarity": last, "rest_similarity": rest}

    def notes(self) -> list[str]:
        """Return what the numbers leave out, and a warning where clips are copies."""
        copies, notes = self.per_clip()["copies_reference"], []
        if left_out := int(copies.isnan().sum()):
            notes.append(f"{left_out} clips have one frame or no reference: they cannot be checked for copies")
        if found := int(copies.nansum()):
            notes.append(
                f"{found} of {len(copies)} clips end in a copy of their reference picture: train with references from "
                "other clips, prepared as for sampling, for longer, or from published weights"
            )
        return notes


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the normalised cross-correlation (n m) of rows (n d) and (m d), in [-1, 1]; 0 for a row without detail."""
    first, second = (rows - rows.mean(dim=1, keepdim=True) for rows in (first, second))
    return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T


def thumbnails(pixels: Tensor, size: int = THUMBNAIL) -> Tensor:
    """Return (n 3 h w) as rows of small pictures (n d)."""
    return F.interpolate(pixels, (size, size), mode="area").flatten(1)
