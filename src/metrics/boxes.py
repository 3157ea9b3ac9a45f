"""Are things where the boxes said? Found boxes against given ones: overlap, and average precision as COCO has it.

Sources: Boximator, arXiv 2402.01566, section 4 (average precision on the last frame, the first being given); COCO's
`pycocotools/cocoeval.py`.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..datamodules.boxes import TrackedBoxes, cut_to_frame
from ..models.identity.analyzer import FaceAnalyzer
from .clip_metric import ClipMetric
from .columns import ColumnMetric
from .identity_scores import best_assignment

THRESHOLDS = 0.5 + 0.05 * np.arange(10)  # COCO
RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)  # COCO


class BoxIoU(ClipMetric):
    """Intersection over union of given boxes with those that `analyzer` finds, matched one to one in each frame so that
    the sum is greatest; 0 for a given box without a match. Of each clip, the mean over all its given boxes.

    The first `skip_frames` do not count: an image-to-video clip starts from a picture, which shows things where they
    are. What is found and was not given does not count either: see BoxAP.
    """

    def __init__(self, *, analyzer: FaceAnalyzer, skip_frames: int = 1, **kwargs: Any):
        super().__init__(
            descriptions={
                "box_iou": "overlap of given and found boxes, 0 where none is found: 0 to 1, higher follows better",
                "box_iou_last": "the same, in the last frame",
                "box_found": "share of given boxes that a found one overlaps: 0 to 1, higher is better",
                "box_success": "share of given boxes that a found one overlaps with IoU 0.5: 0 to 1, higher is better",
            },
            undefined="which have no given box in a frame that counts",
            features=f"{analyzer.name} boxes",
            **kwargs,
        )
        self.analyzer, self.skip_frames = analyzer, _checked(skip_frames, "box_iou")

    def update(self, frames: np.ndarray, boxes: TrackedBoxes) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB, and where things were to be."""
        given, last = given_boxes(boxes, len(frames)), len(frames) - 1
        overlaps = {
            index: best_overlaps(overlap(given[index], find_boxes(self.analyzer, frames[index])[0]))
            for index in range(self.skip_frames, len(frames))
            if len(given[index])
        }
        if not overlaps:
            self.add({})
            return
        of_all = np.concatenate(list(overlaps.values()))
        self.add(
            {
                "box_iou": float(of_all.mean()),
                "box_iou_last": float(overlaps[last].mean()) if last in overlaps else float("nan"),
                "box_found": float((of_all > 0).mean()),
                "box_success": float((of_all >= 0.5).mean()),
            }
        )


class BoxAP(ColumnMetric):
    """Average precision of found boxes against given ones, all clips together: mean over IoU 0.5, 0.55 ... 0.95.

    Found boxes count by their score: each is right that overlaps a given box which no better one has taken. Precision
    is read at 101 recalls. Unlike COCO's, equal scores count together, so that the order of clips changes nothing.
    `frames`: `last`, as Boximator reports it, or `all` but the first `skip_frames`. Things that are there without being
    given are mistakes here: give all of them, or read BoxIoU.
    """

    descriptions: ClassVar = {
        "box_ap": "average precision of found boxes, IoU 0.5 to 0.95: 0 to 1, higher follows better",
        "box_ap50": "average precision of found boxes at IoU 0.5: 0 to 1, higher follows better",
        "box_ap75": "average precision of found boxes at IoU 0.75: 0 to 1, higher follows better",
    }

    def __init__(self, *, analyzer: FaceAnalyzer | None = None, frames: str = "last", skip_frames: int = 1):
        super().__init__()
        if frames not in ("last", "all"):
            raise ValueError(f"frames={frames!r} is not one of last, all: metrics.box_ap.frames")
        self.analyzer, self.frames, self.skip_frames = analyzer, frames, _checked(skip_frames, "box_ap")
        self.features = "given boxes" if analyzer is None else f"{analyzer.name} boxes"
        self.add_columns(
            scores=torch.zeros(0),
            hits=torch.zeros(0, len(THRESHOLDS)),
            num_found=torch.zeros(0, dtype=torch.long),
            num_given=torch.zeros(0, dtype=torch.long),
        )

    def update(self, frames: np.ndarray, boxes: TrackedBoxes) -> None:
        """Add a clip: `frames` (f h w 3) uint8 RGB, and where things were to be."""
        if self.analyzer is None:
            raise ValueError("BoxAP has no analyzer to find boxes with: give one, or what was found to add_found")
        given, chosen = given_boxes(boxes, len(frames)), range(self.skip_frames, len(frames))
        chosen = chosen[-1:] if self.frames == "last" else chosen
        found = {index: find_boxes(self.analyzer, frames[index]) for index in chosen}
        self.add_found([given[index] for index in chosen], [found[index] for index in chosen])

    def add_found(self, given: list[np.ndarray], found: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Add a clip of which boxes and scores are known: of each frame `given` (k 4), and `found`, (n 4) and (n,)."""
        hits = [hits_of(overlap(wanted, boxes), scores) for wanted, (boxes, scores) in zip(given, found, strict=True)]
        scores = np.concatenate([np.zeros(0), *(scores for _, scores in found)])
        self.append(
            scores=torch.from_numpy(scores),
            hits=torch.from_numpy(np.concatenate([np.zeros((0, len(THRESHOLDS))), *hits])),
            num_found=torch.tensor([len(scores)]),
            num_given=torch.tensor([sum(map(len, given))]),
        )

    def compute(self) -> dict[str, Tensor]:
        if not len(self.column("num_given")):
            raise ValueError("BoxAP has seen no clip")
        precision = average_precision(self.column("scores"), self.column("hits"), int(self.column("num_given").sum()))
        return {"box_ap": precision.mean(), "box_ap50": precision[0], "box_ap75": precision[5]}

    def per_clip(self) -> dict[str, Tensor]:
        """Return the average precision of each clip alone, in the order of `update`; NaN where nothing was given."""
        counts = self.column("num_found").tolist()
        parts = zip(self.column("scores").split(counts), self.column("hits").split(counts), strict=True)
        values = [
            average_precision(*part, given).mean()
            for part, given in zip(parts, self.column("num_given").tolist(), strict=True)
        ]
        return {"box_ap_of_clip": torch.stack(values) if values else torch.zeros(0)}

    def notes(self) -> list[str]:
        """Return what the numbers leave out."""
        empty = int((self.column("num_given") == 0).sum())
        text = f"box_ap: {empty} of {len(self.column('num_given'))} clips have no given box in a frame that counts"
        return [text] if empty else []


def given_boxes(boxes: TrackedBoxes, num_frames: int) -> list[np.ndarray]:
    """Return the given boxes (k 4) of each frame, cut at its edges. Raises ValueError for another number of frames."""
    if len(boxes.boxes) != num_frames:
        raise ValueError(f"{boxes.source}: boxes for {len(boxes.boxes)} frames, and the clip has {num_frames}")
    cut, present = cut_to_frame(boxes.boxes, boxes.present)
    return [frame[there] for frame, there in zip(cut, present, strict=True)]


def find_boxes(analyzer: FaceAnalyzer, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes (n 4) in [0, 1] that `analyzer` finds in a frame (h w 3), and their scores (n,)."""
    faces, (height, width) = analyzer(frame), frame.shape[:2]
    boxes = np.array([face.box for face in faces], np.float64).reshape(-1, 4)
    return (boxes / (width, height, width, height)).clip(0, 1), np.array([face.score for face in faces], np.float64)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union (n m) of boxes (n 4) and (m 4)."""
    corners = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    shared = corners.clip(0).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


def best_overlaps(overlaps: np.ndarray) -> np.ndarray:
    """Return for each row of `overlaps` (n m) that with its column, no column twice and the sum greatest; or 0."""
    padded = np.pad(overlaps, ((0, 0), (0, len(overlaps))))
    return padded[np.arange(len(padded)), best_assignment(padded)] if len(padded) else np.zeros(0)


def hits_of(overlaps: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return whether each found box is right (n t), by threshold, for `overlaps` (k n) with given boxes.

    The best score takes the given box that it overlaps most, of those that are left and reach the threshold.
    """
    hits = np.zeros((len(scores), len(THRESHOLDS)))
    for column, threshold in enumerate(THRESHOLDS):
        left = overlaps.copy()
        for place in np.argsort(-scores, kind="stable"):
            # As COCO: an IoU that only rounding keeps below the threshold reaches it.
            if len(left) and left[:, place].max() >= threshold - 1e-10:
                left[left[:, place].argmax()] = -1
                hits[place, column] = 1
    return hits


def average_precision(scores: Tensor, hits: Tensor, num_given: int) -> Tensor:
    """Return the area below precision over recall (t,), of `scores` (n,) and `hits` (n t); NaN if nothing was given."""
    if not num_given or not len(scores):
        return torch.full(hits.shape[1:], 0.0 if num_given else torch.nan, dtype=torch.float64)
    scores, order = scores.cpu().sort(descending=True)
    right = hits.cpu().double()[order].cumsum(dim=0)
    is_last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    precision = (right / torch.arange(1, len(scores) + 1)[:, None])[is_last].T
    recall = (right / num_given)[is_last].T.contiguous()
    envelope = precision.flip(1).cummax(dim=1).values.flip(1)
    places = torch.searchsorted(recall, RECALLS.expand(len(recall), -1).contiguous())
    return torch.cat([envelope, torch.zeros(len(envelope), 1)], dim=1).gather(1, places).mean(dim=1)


def _checked(skip_frames: int, name: str) -> int:
    if skip_frames < 0:
        raise ValueError(f"skip_frames={skip_frames} must be at least 0: metrics.{name}.skip_frames")
    return skip_frames
