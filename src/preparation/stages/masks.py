"""Masks of the reference pictures that are there: which pixels belong to the person."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...datamodules.images import decode_image
from ...datamodules.samples import BadSample, Sample
from ...media import encode_png
from ...models.identity.references import BACKGROUND_LABELS, FaceParser
from . import SampleStage


class Masks(SampleStage):
    """Writes `face.N.mask.png` beside each `face.N.png` where the person covers at least `min_foreground` of it.

    Pixels that `parser` gives one of `background_labels` are background. Masks that are there stay, unless `replace`.
    Raises ValueError without a parser.
    """

    def __init__(
        self,
        *,
        parser: FaceParser | None,
        min_foreground: float = 0.4,
        background_labels: Sequence[int] = BACKGROUND_LABELS,
        replace: bool = False,
    ):
        if parser is None:
            raise ValueError("stages=masks needs a parser: parser=segformer")
        if not 0 <= min_foreground <= 1:
            raise ValueError(f"min_foreground={min_foreground} must lie in [0, 1]: stages.masks.min_foreground")
        self.parser, self.min_foreground = parser, min_foreground
        self.background_labels, self.replace = tuple(background_labels), replace

    def __call__(self, sample: Sample) -> list[Sample]:
        identities = sample.info.get("identities") or []
        suffixes = [suffix for identity in identities for suffix in identity.get("face") or []]
        if not suffixes:
            raise BadSample("no picture", f"{sample.key} has no reference picture: run stages=faces first")
        members = dict(sample.members)
        for suffix in suffixes:
            mask_suffix = f"{suffix.rpartition('.')[0]}.mask.png"
            if self.replace or mask_suffix not in members:
                members.pop(mask_suffix, None)
                foreground = ~np.isin(self.parser(decode_image(sample.member(suffix), suffix)), self.background_labels)
                if foreground.mean() >= self.min_foreground:
                    members[mask_suffix] = encode_png(foreground.astype(np.uint8) * 255)
        return [replace(sample, members=members)]
