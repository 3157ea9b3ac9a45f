"""MOT's layout: for each sequence `img1/` with its frames, `gt/gt.txt` with boxes and `seqinfo.ini` with its rate."""

import configparser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datamodules.samples import BadSample
from ...datamodules.video import VideoReader
from . import FrameFiles, SourceClip
from .lists import check_folder, check_frame_settings, frame_of, number_of, read_lines
from .tracks import TrackBox, tracks_of, xywh_to_xyxy

# Of MOT16 and MOT17, motchallenge.net/instructions
CLASSES = (
    "pedestrian",
    "person on vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non motorized vehicle",
    "static person",
    "distractor",
    "occluder",
    "occluder on the ground",
    "occluder full",
    "reflection",
    "crowd",
)


@dataclass(frozen=True)
class GroundTruth:
    """One `gt.txt`: frame (from 1), id, x, y, width, height, whether it counts, class, visible share."""

    file: Path
    classes: tuple[str, ...]
    min_visibility: float

    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def read(
        self, video: bytes, info: Mapping[str, Any], reader: VideoReader
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        if not self.file.is_file():
            raise BadSample("no annotations", f"{self.file} does not exist")
        boxes = []
        for place, line in read_lines(self.file):
            try:
                box = self._box([part.strip() for part in line.split(",")])
            except (ValueError, IndexError) as error:
                raise BadSample("bad annotation", f"{place}: {error}") from error
            if box is not None:
                boxes.append(box)
        return {"tracks": tracks_of(boxes, info, str(self.file))}, {}

    def _box(self, row: list[str]) -> TrackBox | None:
        frame, track = frame_of(row[0]), frame_of(row[1])
        x, y, width, height = (number_of(value) for value in row[2:6])
        counts = len(row) < 7 or number_of(row[6]) != 0
        number = frame_of(row[7]) if len(row) > 7 and number_of(row[7]) > 0 else 1
        label = CLASSES[number - 1] if number <= len(CLASSES) else str(number)
        visible = number_of(row[8]) if len(row) > 8 and number_of(row[8]) >= 0 else 1.0
        if frame < 1:
            raise ValueError(f"frame {frame}: frames count from 1")
        if not counts or (self.classes and label not in self.classes):
            return None
        box = xywh_to_xyxy(x, y, width, height)
        is_occluded = visible < self.min_visibility
        return TrackBox(frame - 1, str(track), label, box, is_crowd=label == "crowd", is_occluded=is_occluded)


class Mot:
    """Every folder in `folder` with an `img1`. `fps`: null for what `seqinfo.ini` says.

    Boxes of other classes than `classes` (none: all) and those that do not count are left out; where less than
    `min_visibility` of an object is seen, it is occluded. Sequences of fewer than `min_frames` are dropped.
    """

    def __init__(
        self,
        *,
        folder: str,
        fps: float | None = None,
        min_frames: int = 14,
        crf: int = 12,
        classes: Sequence[str] = (),
        min_visibility: float = 0.5,
    ):
        check_frame_settings(folder, 1 if fps is None else fps, crf)
        unknown = set(classes) - set(CLASSES)
        if unknown:
            raise ValueError(f"source.classes={list(classes)} may hold {', '.join(CLASSES)}")
        self.folder, self.fps, self.min_frames, self.crf = check_folder(folder), fps, min_frames, crf
        self.classes, self.min_visibility = tuple(classes), min_visibility

    def __iter__(self) -> Iterator[SourceClip]:
        sequences = sorted(path.parent for path in self.folder.glob("*/img1") if path.is_dir())
        if not sequences:
            raise ValueError(f"source.folder={self.folder} holds no sequence: a folder with img1/ and gt/gt.txt")
        for sequence in sequences:
            frames = FrameFiles(sequence / "img1", self._rate(sequence), min_frames=self.min_frames, crf=self.crf)
            boxes = GroundTruth(sequence / "gt" / "gt.txt", self.classes, self.min_visibility)
            yield SourceClip(sequence, "", place=str(sequence), frames=frames, annotations=boxes)

    def _rate(self, sequence: Path) -> float:
        if self.fps is not None:
            return float(self.fps)
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(sequence / "seqinfo.ini")
            rate = number_of(parser.get("Sequence", "frameRate"))
        except (configparser.Error, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{sequence}/seqinfo.ini gives no frameRate ({error}): set source.fps") from error
        if rate <= 0:
            raise ValueError(f"{sequence}/seqinfo.ini gives frameRate={rate}: set source.fps")
        return rate
