"""Boxes drawn into the frames of a clip. Sources: as for `boxes`."""

import numpy as np
import torch
from torch import Tensor

from .boxes import TrackedBoxes, cut_to_frame

LINE_WIDTH = 4  # pixels of the clip; TrackDiffusion


def draw_boxes(
    frames: Tensor, boxes: np.ndarray, present: np.ndarray, colours: np.ndarray, line_width: int = LINE_WIDTH
) -> Tensor:
    """Return `frames` (3 f h w uint8) with the outlines of `boxes` (f k 4) where `present` (f k), inside of the boxes
    and `line_width` pixels wide, in `colours` (k 3) from 0 to 255.
    """
    from PIL import Image, ImageDraw

    height, width = frames.shape[-2:]
    drawn = torch.empty_like(frames)
    for index in range(frames.shape[1]):
        picture = Image.fromarray(frames[:, index].permute(1, 2, 0).contiguous().numpy())
        pen = ImageDraw.Draw(picture)
        for slot in np.flatnonzero(present[index]):
            # PIL cuts fractions off: 4 / 48 x 48 must not become 3.9999.
            corners = (boxes[index, slot] * (width, height, width, height)).round(3)
            pen.rectangle(corners.tolist(), outline=tuple(map(int, colours[slot])), width=line_width)
        drawn[:, index] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return drawn


def overlaid(frames: np.ndarray, tracked: TrackedBoxes) -> np.ndarray:
    """Return `frames` (f h w 3 uint8) with the boxes drawn in; at 320 pixels of the shorter side, lines have 4."""
    boxes, present = cut_to_frame(tracked.boxes, tracked.present)
    line_width = max(1, round(min(frames.shape[1:3]) * LINE_WIDTH / 320))
    pixels = torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2)
    return draw_boxes(pixels, boxes, present, tracked.colours, line_width).permute(1, 2, 3, 0).numpy()
