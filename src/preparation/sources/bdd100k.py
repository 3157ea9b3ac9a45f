"""BDD100K's tracking set: a folder of frames and a JSON file of boxes for each video."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datamodules.samples import BadSample
from ...datamodules.video import VideoReader
from . import FrameFiles, SourceClip
from .lists import check_folder, check_frame_settings, frame_of, number_of, read_json
from .tracks import TrackBox, tracks_of

FIELDS = {
    "name": "name",
    "frame": "frameIndex",
    "labels": "labels",
    "id": "id",
    "category": "category",
    "box": "box2d",
    "attributes": "attributes",
    "crowd": "crowd",
    "occluded": "occluded",
}
MAX_JSON = 2**28


@dataclass(frozen=True)
class FrameLabels:
    """The JSON file of one video. `names`: of the picture files, to find a frame by its name."""

    file: Path
    frames: FrameFiles
    fields: Mapping[str, str]
    ignored: tuple[str, ...]

    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def read(
        self, video: bytes, info: Mapping[str, Any], reader: VideoReader
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        if not self.file.is_file():
            raise BadSample("no annotations", f"{self.file} does not exist")
        place_of = {path.name: place for place, path in enumerate(self.frames.paths())}
        try:
            content = read_json(self.file, MAX_JSON)
            entries = content["frames"] if isinstance(content, dict) else content
            boxes = [box for entry in entries for box in self._boxes(entry, place_of)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BadSample):
                raise
            raise BadSample("bad annotation", f"{self.file}: {error or error!r}") from error
        return {"tracks": tracks_of(boxes, info, str(self.file))}, {}

    def _boxes(self, entry: dict[str, Any], place_of: dict[str, int]) -> Iterator[TrackBox]:
        fields = self.fields
        name = str(entry.get(fields["name"], "")).replace("\\", "/").rpartition("/")[2]
        frame = place_of[name] if name in place_of else frame_of(entry[fields["frame"]])
        for label in entry.get(fields["labels"]) or []:
            box, flags = label.get(fields["box"]), label.get(fields["attributes"]) or {}
            if box is None or label.get(fields["category"]) in self.ignored:
                continue
            x1, y1, x2, y2 = (number_of(box[corner]) for corner in ("x1", "y1", "x2", "y2"))
            yield TrackBox(
                frame,
                str(label[fields["id"]]),
                str(label.get(fields["category"], "")),
                (x1, y1, x2, y2),
                is_crowd=bool(flags.get(fields["crowd"])),
                is_occluded=bool(flags.get(fields["occluded"])),
            )


class BDD100K:
    """`folder/VIDEO/*.jpg` at `fps`, and `labels/VIDEO.json`: a list of frames with name, index and labels.

    `fields`: how the files call what is read, where that differs from FIELDS. Boxes of the categories `ignored` are
    left out, videos of fewer than `min_frames` dropped.
    """

    def __init__(
        self,
        *,
        folder: str,
        labels: str,
        fps: float = 5,
        min_frames: int = 14,
        crf: int = 12,
        ignored: Sequence[str] = ("other person", "other vehicle", "trailer"),
        fields: Mapping[str, str] | None = None,
    ):
        check_frame_settings(folder, fps, crf)
        unknown = set(fields or {}) - set(FIELDS)
        if unknown:
            raise ValueError(f"source.fields names {', '.join(sorted(unknown))}, it may name {', '.join(FIELDS)}")
        self.folder, self.labels = check_folder(folder), check_folder(labels, "source.labels")
        self.fps, self.min_frames, self.crf = float(fps), min_frames, crf
        self.ignored, self.fields = tuple(ignored), {**FIELDS, **(fields or {})}

    def __iter__(self) -> Iterator[SourceClip]:
        videos = sorted(path for path in self.folder.iterdir() if path.is_dir())
        if not videos:
            raise ValueError(f"source.folder={self.folder} holds no folder of frames")
        for video in videos:
            frames = FrameFiles(video, self.fps, min_frames=self.min_frames, crf=self.crf)
            boxes = FrameLabels(self.labels / f"{video.name}.json", frames, self.fields, self.ignored)
            yield SourceClip(video, "", place=str(video), frames=frames, annotations=boxes)
