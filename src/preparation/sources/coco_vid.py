"""CocoVID, one JSON file for all videos: YouTube-VIS as mmtracking converts it, which TrackDiffusion trains on."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datamodules.samples import BadSample
from ...datamodules.video import VideoReader
from . import FrameFiles, SourceClip, bad_entry, inside
from .lists import check_file, check_folder, check_frame_settings, frame_of, number_of, read_json
from .tracks import TrackBox, tracks_of, xywh_to_xyxy

Entries = list[dict[str, Any]]


@dataclass(frozen=True)
class ListedBoxes:
    """The annotations of one video, as the file has them, with the place of each picture in the video."""

    annotations: tuple[dict[str, Any], ...]
    frame_of_image: dict[str, int]
    labels: dict[str, str]
    place: str

    def files(self) -> tuple[Path, ...]:
        return ()

    def read(
        self, video: bytes, info: Mapping[str, Any], reader: VideoReader
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        try:
            boxes = [self._box(entry) for entry in self.annotations]
        except (KeyError, TypeError, ValueError) as error:
            raise BadSample("bad annotation", f"{self.place}: {error or error!r}") from error
        return {"tracks": tracks_of(boxes, info, self.place)}, {}

    def _box(self, entry: dict[str, Any]) -> TrackBox:
        x, y, width, height = (number_of(value) for value in entry["bbox"])
        category = str(entry.get("category_id", ""))
        return TrackBox(
            self.frame_of_image[str(entry["image_id"])],
            str(entry["instance_id"]),
            self.labels.get(category, category),
            xywh_to_xyxy(x, y, width, height),
            is_crowd=bool(entry.get("iscrowd")),
            is_occluded=bool(entry.get("occluded")),
        )


class CocoVid:
    """The videos of `file` (`videos`, `images`, `annotations`, `categories`), whose pictures lie below `folder`.

    Pictures follow each other by `frame_id`, `fps` of them a second. Videos of fewer than `min_frames` are dropped.
    """

    def __init__(self, *, file: str, folder: str, fps: float, min_frames: int = 14, crf: int = 12):
        check_frame_settings(folder, fps, crf)
        self.file, self.folder = check_file(file), check_folder(folder)
        self.fps, self.min_frames, self.crf = float(fps), min_frames, crf

    def __iter__(self) -> Iterator[SourceClip]:
        content = read_json(self.file)
        parts = ("videos", "images", "annotations", "categories")
        if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
            raise ValueError(f"{self.file} must hold an object with the lists {', '.join(parts)}")
        images, annotations = (_by_video(content[part]) for part in ("images", "annotations"))
        labels = {str(one.get("id")): str(one.get("name")) for one in content["categories"] if isinstance(one, dict)}
        for number, video in enumerate(content["videos"]):
            place = f"{self.file}, video {number}"
            try:
                identifier = str(video["id"])
                yield self._clip(video, images[identifier], annotations[identifier], labels, place)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield bad_entry(self.file, place, f"{error or error!r}")

    def _clip(
        self, video: dict[str, Any], images: Entries, annotations: Entries, labels: dict[str, str], place: str
    ) -> SourceClip:
        if not images:
            raise ValueError("it has no images")
        images = sorted(images, key=lambda image: frame_of(image["frame_id"]))
        names = tuple(str(image["file_name"]) for image in images)
        for name in names:
            inside(self.folder, name)
        place = f"{place} ({video.get('name', video['id'])})"
        frames = {str(image["id"]): number for number, image in enumerate(images)}
        return SourceClip(
            (self.folder / names[0]).parent,
            "",
            place=place,
            frames=FrameFiles(self.folder, self.fps, names, self.min_frames, self.crf),
            annotations=ListedBoxes(tuple(annotations), frames, labels, place),
        )


def _by_video(entries: list[Any]) -> dict[str, Entries]:
    found: dict[str, Entries] = defaultdict(list)
    for entry in entries:
        if isinstance(entry, dict):
            found[str(entry.get("video_id"))].append(entry)
    return found
