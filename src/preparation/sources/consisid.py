"""ConsisID's training data: captions, and boxes and masks of tracked faces, heads and persons."""

import os
from collections.abc import Iterator
from pathlib import Path

from . import SourceClip, bad_entry
from .consisid_annotations import KINDS, ConsisIDAnnotations
from .lists import check_file, number_of, read_json, read_lines, text_of


class ConsisID:
    """Every line of `file` names a data set: `video folder,caption file,annotation folder`.

    Clips of fewer than `min_frames` (fps x duration, as listed) are dropped, and those without annotations, unless
    `needs_annotations` is false. `num_faces` pictures of each person are cut out of its surest frames, `min_distance`
    frames apart, the frame that prompted the tracker first. `masks`: the kinds that are kept.

    Source: ConsisID, arXiv 2411.17440, and its released code (`asserts/demo_train_data`).
    """

    def __init__(
        self,
        *,
        file: str,
        min_frames: int = 49,
        needs_annotations: bool = True,
        num_faces: int = 5,
        min_distance: int = 3,
        masks: tuple[str, ...] | list[str] = KINDS,
    ):
        unknown = set(masks) - set(KINDS)
        if unknown:
            raise ValueError(f"masks={list(masks)} may hold {', '.join(KINDS)}: source.masks")
        if num_faces < 0 or min_distance < 1:
            raise ValueError(
                f"num_faces={num_faces} must be at least 0, min_distance={min_distance} at least 1: source"
            )
        self.file = check_file(file)
        self.min_frames, self.needs_annotations = min_frames, needs_annotations
        self.num_faces, self.min_distance, self.masks = num_faces, min_distance, tuple(masks)

    def __iter__(self) -> Iterator[SourceClip]:
        for place, line in read_lines(self.file):
            parts = [part.strip() for part in line.split(",")]
            if len(parts) != 3 or not all(parts):
                raise ValueError(f"{place}: expected video_folder,caption_file,annotation_folder, got {line[:80]!r}")
            # All three from one place: a folder of a common name may lie in the working directory by chance.
            base = next(
                (base for base in (Path(), self.file.parent) if all(os.path.exists(base / part) for part in parts)),
                None,
            )
            videos, captions, annotations = ((base or self.file.parent) / part for part in parts)
            entries = read_json(captions)
            if not isinstance(entries, list):
                raise ValueError(f"{captions} must hold a list of objects with path and cap")
            for number, entry in enumerate(entries):
                yield self._clip(entry, f"{captions}, entry {number}", captions, videos, annotations)

    def _clip(self, entry: object, place: str, file: Path, videos: Path, annotations: Path) -> SourceClip:
        if not isinstance(entry, dict) or text_of(entry, "path") is None:
            return bad_entry(file, place, "expected an object with path and cap")
        # The preparation of the authors writes names without .mp4, and folders of its own machine before them.
        name = entry["path"].strip().replace("\\", "/").rpartition("/")[2].removesuffix(".mp4")
        if name in ("", ".", ".."):
            return bad_entry(file, place, f"{entry['path']!r} does not name a video")
        try:
            listed = number_of(entry["fps"]) * number_of(entry["duration"]) if "duration" in entry else None
        except (KeyError, ValueError) as error:
            return bad_entry(file, place, f"fps and duration must be numbers ({error})")
        problem = None
        if listed is not None and round(listed, 6) < self.min_frames:
            problem = ("too short", f"{place}: {listed:.0f} frames are listed, source.min_frames={self.min_frames}")
        known = ConsisIDAnnotations(
            annotations / "refine_bbox_jsons" / f"{name}.json",
            annotations / "track_masks_data" / name,
            self.num_faces,
            self.min_distance,
            self.masks,
        )
        is_annotated = self.needs_annotations or os.path.isdir(known.tracks)
        return SourceClip(
            videos / f"{name}.mp4",
            text_of(entry, "cap"),
            place=place,
            annotations=known if is_annotated else None,
            problem=problem,
        )
