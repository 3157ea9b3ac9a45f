"""Finding the clips of an evaluation: a folder, a list, or shards; with their reference pictures and prompts."""

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..datamodules.boxes import TrackedBoxes
from ..datamodules.remote import is_remote
from ..datamodules.samples import VIDEO_EXTENSIONS
from ..records import Record, read_records, recorded_boxes

log = logging.getLogger(__name__)

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Loaded:
    """A clip in memory: the `video` file's bytes, and its `references`, pictures (h w 3) uint8 RGB."""

    video: bytes
    references: list[np.ndarray]


@dataclass(frozen=True)
class EvaluatedClip:
    """One clip to measure.

    `name`: within its run, the same in another run of the same prompts; `video`, `references`: where they are;
    `people`: names of the references' persons, where known; `record`: what sample.py wrote, or what a shard says, of
    the boxes of the clip; `stamp`: changes when a file or these do; `load` reads them.
    """

    name: str
    video: str
    references: tuple[str, ...]
    prompt: str
    stamp: tuple[Any, ...]
    load: Callable[[], Loaded]
    people: tuple[str, ...] | None = None
    record: Record | None = None

    @property
    def boxes(self) -> TrackedBoxes | None:
        """Where things were to be. Raises ValueError where that is no box."""
        return None if self.record is None else recorded_boxes(self.record)


def find_clips(
    videos: str, references: str | None = None, prompts: str | None = None, *, needs_references: bool = True
) -> list[EvaluatedClip]:
    """Return the clips of `videos`: a folder (of videos, or that sample.py wrote), a JSONL list, a video, or shards.

    `references`: a folder with NAME.png for each NAME.mp4, one picture for all, `none`, or None for what the list says.
    `prompts`: a folder with NAME.txt, or a text file with a line a video. Raises ValueError where there is no clip, a
    reference is missing though `needs_references`, or prompts and videos differ in number.
    """
    place = Path(videos)
    if is_remote(videos) or not place.exists() or place.suffix in (".tar", ".json") or _is_shards(place):
        clips = _clips_of_shards(videos)
    elif place.is_file() and place.suffix == ".jsonl":
        clips = _clips_of_list(place)
    else:
        clips = _clips_of_folder(place, references, needs_references)
    clips = _with_own_names(clips)
    if references == "none":
        clips = [
            replace(clip, references=(), people=None, load=partial(_without_references, clip.load)) for clip in clips
        ]
    if needs_references and not any(clip.references for clip in clips):
        raise ValueError(
            f"videos={videos} lists no clip with a reference picture: give references=FOLDER, or references=none to "
            "leave out the metrics that need them"
        )
    return clips if prompts is None else _with_prompts(clips, Path(prompts))


def _with_own_names(clips: list[EvaluatedClip]) -> list[EvaluatedClip]:
    """Number the clips that have the name of one before."""
    seen: Counter[str] = Counter()
    named = []
    for clip in clips:
        seen[clip.name] += 1
        named.append(replace(clip, name=f"{clip.name}#{seen[clip.name]}") if seen[clip.name] > 1 else clip)
    return named


def _is_shards(place: Path) -> bool:
    return place.is_dir() and ((place / "index.json").is_file() or any(place.glob("*.tar")))


def _clips_of_shards(videos: str) -> list[EvaluatedClip]:
    from ..datamodules.shard_set import ShardSet

    is_pattern = is_remote(videos) or any(character in videos for character in "*{")
    if not is_pattern and not _is_shards(Path(videos)) and not Path(videos).is_file():
        raise ValueError(f"videos={videos} is not a folder, a list (.jsonl), a video, or shards")
    shards = ShardSet(videos)
    return [_clip_of_sample(shards, number) for number in range(len(shards))]


def _clip_of_sample(shards: Any, number: int) -> EvaluatedClip:
    from ..datamodules.samples import BadSample

    key, url = shards.place(number)
    stamp = (url, key, *_stamp(Path(url)))
    load = partial(load_sample, shards, number)
    try:
        sample = shards[number]
    except BadSample:  # `load` raises it again, and the clip is listed as one that could not be read
        return EvaluatedClip(key, f"{url}#{key}", (), "", stamp, load)
    names = tuple(f"{url}#{key}.{identity['face'][0]}" for identity in sample.identities)
    ids = [identity.get("id") for identity in sample.identities]
    people = tuple(map(str, ids)) if all(isinstance(one, str) for one in ids) else None
    record = _record_of_tracks(key, sample.info)
    return EvaluatedClip(key, f"{url}#{key}", names, sample.info["caption"], stamp, load, people, record)


def _record_of_tracks(key: str, info: Mapping[str, Any]) -> Record | None:
    """Return where things are in a real clip, as sample.py records where they were to be."""
    tracks = [track for track in info.get("tracks") or [] if isinstance(track, dict) and track.get("boxes")]
    if not tracks:
        return None
    objects = [
        {"id": track.get("id"), "between": "absent", "boxes": [row[:5] for row in track["boxes"]]} for track in tracks
    ]
    return {
        "video": key,
        "num_frames": info["num_frames"],
        "boxes": {"coordinates": "unit", "outside": "cut", "objects": objects},
    }


def load_sample(shards: Any, number: int) -> Loaded:
    """Return a sample of a `ShardSet`."""
    from ..datamodules.images import decode_image

    sample = shards[number]
    names = [identity["face"][0] for identity in sample.identities]
    return Loaded(sample.video, [decode_image(sample.member(name), name) for name in names])


def _clips_of_list(path: Path) -> list[EvaluatedClip]:
    """One JSON object a line: `video`, optional `references`, `prompt`, `people`. Files relative to the list."""
    clips = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry: Any = json.loads(line)
            video, references = entry["video"], entry.get("references") or []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: expected an object with `video` ({error!r})") from error
        if isinstance(references, str):
            references = [references]
        files = [_existing(name, path, number) for name in references]
        people = entry.get("people")
        if people is not None and len(people) != len(files):
            raise ValueError(f"{path}, line {number}: {len(people)} people for {len(files)} references")
        clip = clip_of_files(str(video), _existing(video, path, number), files, entry.get("prompt") or "")
        clips.append(replace(clip, people=None if people is None else tuple(map(str, people))))
    if not clips:
        raise ValueError(f"videos={path} has no lines")
    return clips


def _clips_of_folder(folder: Path, references: str | None, needs_references: bool) -> list[EvaluatedClip]:
    records = read_records(folder)
    if records and references in (None, "none"):
        return [
            _clip_of_record(folder, record)
            for record in records.values()
            if record["references"] or not needs_references
        ]
    overlays = {str(folder / record["overlay"]) for record in records.values() if "overlay" in record}
    return [clip for clip in _clips_of_videos(folder, references, needs_references) if clip.video not in overlays]


def _clip_of_record(folder: Path, record: Record) -> EvaluatedClip:
    pictures = [folder / name for name in record["references"]]
    clip = clip_of_files(record["video"], folder / record["video"], pictures, record["prompt"])
    return replace(clip, record=record, stamp=(*clip.stamp, record["boxes"])) if record.get("boxes") else clip


def _clips_of_videos(folder: Path, references: str | None, needs_references: bool) -> list[EvaluatedClip]:
    root = folder if folder.is_dir() else folder.parent
    found = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    # Hidden ones are not clips: macOS leaves a ._NAME.mp4 beside each NAME.mp4 that it copies to other disks.
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    files = [path for path in shown if path.suffix[1:].lower() in VIDEO_EXTENSIONS]
    if not files:
        raise ValueError(f"videos={folder} holds no video ({', '.join(VIDEO_EXTENSIONS)})")
    if references is None and needs_references:
        raise ValueError(
            f"{folder} has no samples.jsonl, so references must be given: a folder with NAME.png for each NAME.mp4, "
            "or one picture; references=none leaves out the metrics that need them"
        )
    if references not in (None, "none") and not Path(str(references)).exists():
        raise ValueError(
            f"references={references} does not exist: give a folder with NAME.png for each NAME.mp4, or one"
        )
    pictures = [_find_references(path, root, references) for path in files]
    without = [path for path, found in zip(files, pictures, strict=True) if not found]
    if without and references not in (None, "none"):
        raise ValueError(
            f"there is no reference picture for {without[0].relative_to(root)} in {references}: expected "
            f"{without[0].stem}.png ({len(without)} of {len(files)} videos have none)"
        )
    _warn_of_unused(references, pictures)
    return [
        clip_of_files(str(path.relative_to(root)), path, found, _find_prompt(path))
        for path, found in zip(files, pictures, strict=True)
    ]


def _find_references(video: Path, root: Path, references: str | None) -> list[Path]:
    """Return NAME.png for NAME.mp4, or NAME.0.png, NAME.1.png... (also NAME_0, NAME_reference_0) for several people."""
    if references in (None, "none"):
        return []
    place = Path(str(references))
    if place.is_file():
        return [place]
    for folder in dict.fromkeys((place / video.relative_to(root).parent, place)):
        for separator in ("", ".", "_", "_reference_"):
            found: list[Path] = []
            for number in itertools.count():
                names = (f"{video.stem}{separator}{number if separator else ''}{kind}" for kind in PICTURE_EXTENSIONS)
                picture = next((folder / name for name in names if (folder / name).is_file()), None)
                if picture is None:
                    break
                found.append(picture)
                if not separator:
                    break
            if found:
                return found
    return []


def _warn_of_unused(references: str | None, used: Sequence[Sequence[Path]]) -> None:
    if references in (None, "none") or not Path(str(references)).is_dir():
        return
    pictures = {path for path in Path(str(references)).iterdir() if path.suffix.lower() in PICTURE_EXTENSIONS}
    if unused := sorted(pictures - {path for paths in used for path in paths}):
        log.warning("%d pictures in %s belong to no video, the first is %s", len(unused), references, unused[0].name)


def _find_prompt(video: Path) -> str:
    text = video.with_suffix(".txt")
    return text.read_text().strip() if text.is_file() else ""


def _with_prompts(clips: list[EvaluatedClip], prompts: Path) -> list[EvaluatedClip]:
    if prompts.is_dir():
        files = [prompts / Path(clip.name).with_suffix(".txt").name for clip in clips]
        if missing := [path for path in files if not path.is_file()]:
            raise ValueError(f"{len(missing)} of {len(clips)} videos have no prompt: there is no {missing[0]}")
        texts = [path.read_text().strip() for path in files]
    elif prompts.is_file():
        texts = prompts.read_text().splitlines()
        if len(texts) != len(clips):
            raise ValueError(f"prompts={prompts} has {len(texts)} lines, and there are {len(clips)} videos")
    else:
        raise ValueError(f"prompts={prompts} is neither a folder with NAME.txt nor a text file with a line a video")
    return [replace(clip, prompt=text) for clip, text in zip(clips, texts, strict=True)]


def clip_of_files(name: str, video: Path, references: Sequence[Path], prompt: str) -> EvaluatedClip:
    """Return a clip that lies in files."""
    stamp = tuple(entry for path in (video, *references) for entry in (str(path), *_stamp(path)))
    load = partial(_load_files, video, tuple(references))
    return EvaluatedClip(name, str(video), tuple(map(str, references)), prompt, stamp, load)


def _load_files(video: Path, references: Sequence[Path]) -> Loaded:
    from ..inputs import read_picture

    return Loaded(video.read_bytes(), [read_picture(path) for path in references])


def _without_references(load: Callable[[], Loaded]) -> Loaded:
    return Loaded(load().video, [])


def _existing(name: str, path: Path, number: int) -> Path:
    """Return the file `name`, relative to the list's folder or else to the working directory."""
    for file in (path.parent / name, Path(name)):
        if file.is_file():
            return file
    raise ValueError(f"{path}, line {number}: there is no file {name}")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # reading it says what is wrong
        return 0, 0
    return status.st_size, status.st_mtime_ns
