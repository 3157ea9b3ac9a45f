"""Finding the clips of an evaluation: a folder, a list, or shards; with their reference pictures and prompts."""

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
from .references import GivenReferences

log = logging.getLogger(__name__)

EXPECTED = ", ".join(VIDEO_EXTENSIONS)
MAKE_A_VIDEO = "make videos of them, e.g. ffmpeg -i NAME.gif NAME.mp4"


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
    videos: str,
    references: str | None = None,
    prompts: str | None = None,
    *,
    needs_references: bool = True,
    setting: str = "videos",
) -> list[EvaluatedClip]:
    """Return the clips of `videos`: a folder (of videos, or that sample.py wrote), a JSONL list, a video, or shards.

    `references`: see `GivenReferences`. `prompts`: a folder with NAME.txt, or a text file with a line a video.
    `setting`: what gave `videos`. Raises ValueError where there is no clip, no clip has a reference though
    `needs_references`, one has none in the folder that was given, or prompts and videos differ in number.
    """
    place, given = Path(videos), GivenReferences(references)
    if is_remote(videos) or not place.exists() or place.suffix in (".tar", ".json") or _is_shards(place):
        clips = _clips_of_shards(videos, given, setting)
    elif place.is_file() and place.suffix == ".jsonl":
        clips = _clips_of_list(place, given, setting)
    elif records := read_records(place):
        clips = [_clip_of_record(place, record, given) for record in records.values()]
    else:
        clips = _clips_of_videos(place, given, setting)
    clips = _with_own_names(clips)
    given.check([(clip.name, clip.references) for clip in clips])
    if needs_references and not any(clip.references for clip in clips):
        raise ValueError(
            f"{setting}={videos} lists no clip with a reference picture, so references must be given: a folder with "
            "NAME.png for each NAME.mp4, or one picture; references=none leaves out the metrics that need them"
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
    """Return whether a folder holds shards; videos beside an index.json or a tar are clips of their own."""
    if not place.is_dir() or not ((place / "index.json").is_file() or any(place.glob("*.tar"))):
        return False
    return not any(_is_video(path) for path in place.iterdir())


def _clips_of_shards(videos: str, given: GivenReferences, setting: str) -> list[EvaluatedClip]:
    from ..datamodules.shard_set import ShardSet

    is_pattern = is_remote(videos) or any(character in videos for character in "*{")
    if not is_pattern and not _is_shards(Path(videos)) and not Path(videos).is_file():
        raise ValueError(f"{setting}={videos} is not a folder, a list (.jsonl), a video, or shards")
    shards = ShardSet(videos)
    return [_clip_of_sample(shards, number, given) for number in range(len(shards))]


def _clip_of_sample(shards: Any, number: int, given: GivenReferences) -> EvaluatedClip:
    from ..datamodules.samples import BadSample

    key, url = shards.place(number)
    pictures = given.of(key)
    stamp = (url, key, *_stamp(Path(url)), *_stamps(pictures or ()))
    load = partial(load_sample, shards, number, pictures)
    clip = EvaluatedClip(key, f"{url}#{key}", tuple(map(str, pictures or ())), "", stamp, load)
    try:
        sample = shards[number]
    except BadSample:  # `load` raises it again, and the clip is listed as one that could not be read
        return clip
    clip = replace(clip, prompt=sample.info["caption"], record=_record_of_tracks(key, sample.info))
    if pictures is not None:
        return clip
    names = tuple(f"{url}#{key}.{identity['face'][0]}" for identity in sample.identities)
    ids = [identity.get("id") for identity in sample.identities]
    return replace(clip, references=names, people=tuple(ids) if all(isinstance(one, str) for one in ids) else None)


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


def load_sample(shards: Any, number: int, pictures: Sequence[Path] | None) -> Loaded:
    """Return a sample of a `ShardSet`, with `pictures` in place of its own references where these are given."""
    from ..datamodules.images import decode_image
    from ..inputs import read_picture

    sample = shards[number]
    if pictures is not None:
        return Loaded(sample.video, [read_picture(path) for path in pictures])
    names = [identity["face"][0] for identity in sample.identities]
    return Loaded(sample.video, [decode_image(sample.member(name), name) for name in names])


def _clips_of_list(path: Path, given: GivenReferences, setting: str) -> list[EvaluatedClip]:
    """One JSON object a line: `video`, optional `references`, `prompt`, `people`. Files relative to the list."""
    clips = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        entry = _entry(line, place)
        pictures = given.of(entry["video"])
        files = [_existing(name, path, place) for name in entry["references"]] if pictures is None else pictures
        people = entry["people"] if pictures is None else None
        if people is not None and len(people) != len(files):
            raise ValueError(f"{place}: {len(people)} people for {len(files)} references")
        clip = clip_of_files(entry["video"], _existing(entry["video"], path, place), files, entry["prompt"])
        clips.append(replace(clip, people=None if people is None else tuple(map(str, people))))
    if not clips:
        raise ValueError(f"{setting}={path} has no lines")
    return clips


def _entry(line: str, place: str) -> dict[str, Any]:
    """Return what a line of a list says, checked and complete. Raises ValueError, naming `place`."""
    try:
        entry: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: expected an object with `video` ({error})") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
        raise ValueError(f"{place}: expected an object with `video`, the name of a file")
    prompt, references, people = entry.get("prompt") or "", entry.get("references") or [], entry.get("people")
    if not isinstance(prompt, str):
        raise ValueError(f"{place}: prompt must be text, in quotes; it is {prompt!r}")
    references = [references] if isinstance(references, str) else references
    if not isinstance(references, list) or not all(isinstance(name, str) for name in references):
        raise ValueError(f"{place}: references must be the name of a picture, or a list of such; it is {references!r}")
    people = [people] if isinstance(people, str) else people
    if people is not None and not isinstance(people, list):
        raise ValueError(f"{place}: people must be a name, or a list of one for each reference; it is {people!r}")
    return {"video": entry["video"], "references": references, "prompt": prompt, "people": people}


def _clip_of_record(folder: Path, record: Record, given: GivenReferences) -> EvaluatedClip:
    pictures = given.of(record["video"])
    if pictures is None:
        pictures = [folder / name for name in record["references"]]
    clip = clip_of_files(record["video"], folder / record["video"], pictures, record["prompt"])
    return replace(clip, record=record, stamp=(*clip.stamp, record["boxes"])) if record.get("boxes") else clip


def _clips_of_videos(folder: Path, given: GivenReferences, setting: str) -> list[EvaluatedClip]:
    root = folder if folder.is_dir() else folder.parent
    found = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    # Hidden ones are not clips: macOS leaves a ._NAME.mp4 beside each NAME.mp4 that it copies to other disks.
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    files = [path for path in shown if _is_video(path)]
    animations = [path for path in shown if path.suffix.lower() == ".gif"]
    advice = f"{len(animations)} animations (.gif) are no videos: {MAKE_A_VIDEO}" if animations else ""
    if not files:
        raise ValueError("; ".join(filter(None, (f"{setting}={folder} holds no video ({EXPECTED})", advice))))
    if animations:
        log.warning("%s=%s: %s", setting, folder, advice)
    if any(folder.glob("*.tar")):
        log.warning("%s=%s holds videos and tars: the videos are taken; for shards give a pattern", setting, folder)
    names = [str(path.relative_to(root)) for path in files]
    return [
        clip_of_files(name, path, given.of(name) or (), _find_prompt(path))
        for name, path in zip(names, files, strict=True)
    ]


def _is_video(path: Path) -> bool:
    return path.suffix[1:].lower() in VIDEO_EXTENSIONS


def _find_prompt(video: Path) -> str:
    text = video.with_suffix(".txt")
    return text.read_text(encoding="utf-8-sig").strip() if text.is_file() else ""


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; others than line feeds, which prompts may have, do not end one."""
    text = path.read_text(encoding="utf-8-sig")
    return text.removesuffix("\n").split("\n") if text else []


def _with_prompts(clips: list[EvaluatedClip], prompts: Path) -> list[EvaluatedClip]:
    if prompts.is_dir():
        files = [_prompt_file(prompts, Path(clip.name)) for clip in clips]
        if missing := [path for path in files if not path.is_file()]:
            raise ValueError(f"{len(missing)} of {len(clips)} videos have no prompt: there is no {missing[0]}")
        texts = [path.read_text(encoding="utf-8-sig").strip() for path in files]
    elif prompts.is_file():
        texts = _lines(prompts)
        if len(texts) != len(clips):
            raise ValueError(f"prompts={prompts} has {len(texts)} lines, and there are {len(clips)} videos")
    else:
        raise ValueError(f"prompts={prompts} is neither a folder with NAME.txt nor a text file with a line a video")
    return [replace(clip, prompt=text) for clip, text in zip(clips, texts, strict=True)]


def _prompt_file(folder: Path, video: Path) -> Path:
    """Return NAME.txt below the same subfolder as the video's or, without it, in the folder itself."""
    name = video.with_suffix(".txt")
    is_below = not name.is_absolute() and ".." not in name.parts
    return folder / name if is_below and (folder / name).is_file() else folder / name.name


def clip_of_files(name: str, video: Path, references: Sequence[Path], prompt: str) -> EvaluatedClip:
    """Return a clip that lies in files."""
    stamp = _stamps((video, *references))
    load = partial(_load_files, video, tuple(references))
    return EvaluatedClip(name, str(video), tuple(map(str, references)), prompt, stamp, load)


def _load_files(video: Path, references: Sequence[Path]) -> Loaded:
    from ..inputs import read_picture

    return Loaded(video.read_bytes(), [read_picture(path) for path in references])


def _existing(name: str, path: Path, place: str) -> Path:
    """Return the file `name`, relative to the list's folder or else to the working directory."""
    for file in (path.parent / name, Path(name)):
        if file.is_file():
            return file
    raise ValueError(f"{place}: there is no file {name}")


def _stamps(paths: Sequence[Path]) -> tuple[Any, ...]:
    return tuple(entry for path in paths for entry in (str(path), *_stamp(path)))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # reading it says what is wrong
        return 0, 0
    return status.st_size, status.st_mtime_ns
