"""The toy data set: shards of drawn people with all that the data contract allows, and held-out people beside them."""

import io
import json
import logging
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datamodules.shards import ShardWriter, write_atomically
from ..datamodules.video import get_reader
from ..media import encode_mp4, encode_png
from .analyzer import align
from .clips import PATHS, ToyClip, draw_clip
from .people import Person, make_person

log = logging.getLogger(__name__)

VERSION = 1  # of the drawing: shards of another version are refused
WORLD = "world.json"
REFERENCE_SIZE = 64
REFERENCE_FRAMES = (
    0.25,
    0.75,
)  # where in another clip of the person the reference pictures are cut, as a share of its length


@dataclass(frozen=True)
class ToyWorld:
    """What is drawn. Everything follows from these numbers; held-out people are never in the training shards."""

    num_people: int = 1200
    num_held_out: int = 32
    clips_per_person: int = 2
    people_per_clip: int = 1
    num_frames: int = 12
    height: int = 64
    width: int = 64
    fps: float = 8.0
    seed: int = 0
    path: str = "stays"

    def __post_init__(self):
        if self.path not in PATHS:
            raise ValueError(f"path={self.path!r} is not one of {', '.join(PATHS)}: datamodule.source.path")
        if self.clips_per_person < 2:
            raise ValueError("clips_per_person must be at least 2: the reference comes from another clip of the person")


def write_world(world: ToyWorld, folder: Path) -> None:
    """Write `train`, `held_out` (shards), and of the latter what to sample from and compare with into `folder`."""
    from rich.progress import Progress

    total = (world.num_people + world.num_held_out) * world.clips_per_person // world.people_per_clip
    with (
        ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("drawing the toy world", total=total)
        advance = partial(progress.advance, task)
        _write_split(world, folder / "train", range(world.num_people), pool, advance)
        held_out = range(world.num_people, world.num_people + world.num_held_out)
        examples = _write_split(world, folder / "held_out", held_out, pool, advance)
    _write_examples(folder, examples)


def draw_group(world: ToyWorld, group: tuple[int, ...]) -> list[tuple[str, dict[str, bytes]]]:
    """Return the samples (key, members) of all clips of the people `group`, who appear together."""
    people = [make_person(np.random.default_rng([world.seed, index])) for index in group]
    clips = [
        draw_clip(
            people,
            np.random.default_rng([world.seed, *group, clip]),
            num_frames=world.num_frames,
            height=world.height,
            width=world.width,
            fps=world.fps,
            path=world.path,
        )
        for clip in range(world.clips_per_person)
    ]
    samples = []
    for number, clip in enumerate(clips):
        key = f"{'_'.join(f'p{index:05d}' for index in group)}_c{number}"
        other = clips[(number + 1) % len(clips)]
        samples.append((key, _members(world, clip, other, group, people)))
    return samples


def _members(
    world: ToyWorld, clip: ToyClip, other: ToyClip, group: tuple[int, ...], people: list[Person]
) -> dict[str, bytes]:
    faces = [_reference_pictures(other, place) for place in range(len(group))]
    suffixes = [
        [f"face.{place * len(REFERENCE_FRAMES) + i}.png" for i in range(len(REFERENCE_FRAMES))]
        for place in range(len(group))
    ]
    scale = np.array([world.width, world.height] * 2)
    boxes = [
        [[f, *(box[place] / scale).round(5).tolist(), 1.0] for f, box in enumerate(clip.boxes)]
        for place in range(len(group))
    ]
    keypoints = [
        [[f, *(points[place] / scale[:2]).round(5).ravel().tolist()] for f, points in enumerate(clip.keypoints)]
        for place in range(len(group))
    ]
    ids = [f"toy/{world.seed}/{index}" for index in group]
    identities = [
        {"id": ids[i], "name": people[i].name, "face": suffixes[i], "boxes": boxes[i], "keypoints": keypoints[i]}
        for i in range(len(group))
    ]
    info: dict[str, Any] = {
        "caption": clip.caption,
        "fps": world.fps,
        "num_frames": world.num_frames,
        "height": world.height,
        "width": world.width,
        "source": "toy",
        "faces_from": "cross",
        "identities": identities,
        "tracks": [{"id": ids[i], "label": "face", "boxes": boxes[i]} for i in range(len(group))],
    }
    masks = io.BytesIO()
    np.savez_compressed(masks, face=clip.masks["face"], person=clip.masks["person"])
    return {
        "mp4": encode_mp4(clip.frames, world.fps),
        "json": json.dumps(info).encode(),
        "mask.npz": masks.getvalue(),
        **{
            name: encode_png(face)
            for names, pictures in zip(suffixes, faces, strict=True)
            for name, face in zip(names, pictures, strict=True)
        },
    }


def _reference_pictures(clip: ToyClip, place: int) -> list[np.ndarray]:
    """Return aligned crops (64 64 3) of one person's head in some frames of `clip`."""
    indices = [int(share * len(clip.frames)) for share in REFERENCE_FRAMES]
    frames = torch.from_numpy(clip.frames[indices]).permute(0, 3, 1, 2).float()
    crops = align(frames, clip.keypoints[indices, place], REFERENCE_SIZE)
    return list(crops.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def _write_split(
    world: ToyWorld, folder: Path, indices: range, pool: ProcessPoolExecutor, advance
) -> list[tuple[str, dict[str, bytes]]]:
    """Write the shards of the people `indices` and return the first clip of each group."""
    size = world.people_per_clip
    groups = [tuple(indices[i : i + size]) for i in range(0, len(indices) // size * size, size)]
    writer, first_clips = ShardWriter(folder, max_samples=256), []
    for samples in pool.map(partial(draw_group, world), groups, chunksize=8):
        first_clips.append(samples[0])
        for key, members in samples:
            writer.write(key, members)
            advance()
    writer.close(world=asdict(world))
    return first_clips


def _write_examples(folder: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    """Write a list file of prompts and reference pictures, the real clips of the same people, and their first frames.

    `held_out.txt`: prompts with reference pictures, for methods that keep an identity. `first_frames`: what an
    image-to-video method goes on from. `held_out.jsonl`: the first frames, with the boxes of where people go.
    """
    lines, with_boxes = [], []
    for key, members in samples:
        info = json.loads(members["json"])
        pictures = []
        for place, identity in enumerate(info["identities"]):
            picture = folder / "references" / f"{key}.{place}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(picture, members[identity["face"][0]])
            pictures.append(str(picture.relative_to(folder)))
        clip = folder / "clips" / f"{key}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(clip, members["mp4"])
        first_frame = folder / "first_frames" / f"{key}.png"
        first_frame.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(first_frame, encode_png(get_reader("pyav").read(members["mp4"], [0])[0]))
        lines.append("@@".join([info["caption"], *pictures]))
        with_boxes.append(json.dumps({"references": [f"first_frames/{key}.png"], "boxes": _given_boxes(info)}))
    write_atomically(folder / "held_out.txt", ("\n".join(lines) + "\n").encode())
    write_atomically(folder / "held_out.jsonl", ("\n".join(with_boxes) + "\n").encode())


def _given_boxes(info: dict[str, Any]) -> dict[str, Any]:
    """Return the tracks of a clip as a user would give them."""
    objects = [
        {"id": track["id"], "label": track["label"], "boxes": [row[:5] for row in track["boxes"]]}
        for track in info["tracks"]
    ]
    return {"coordinates": "unit", "num_frames": info["num_frames"], "outside": "cut", "objects": objects}


class ToyShards:
    """`ShardSource` that draws a `ToyWorld` into `folder`, once; the other settings are the world's."""

    def __init__(
        self,
        *,
        folder: str,
        num_people: int = 1200,
        num_held_out: int = 32,
        clips_per_person: int = 2,
        people_per_clip: int = 1,
        num_frames: int = 12,
        height: int = 64,
        width: int = 64,
        fps: float = 8.0,
        seed: int = 0,
        path: str = "stays",
    ):
        self.world = ToyWorld(
            num_people, num_held_out, clips_per_person, people_per_clip, num_frames, height, width, fps, seed, path
        )
        self.folder = Path(folder)
        self.train, self.val = str(self.folder / "train"), str(self.folder / "held_out")

    def prepare(self) -> None:
        """Draw the world, unless it is there. Raises ValueError where the folder holds another one."""
        description = {"version": VERSION, **asdict(self.world)}
        written = self.folder / WORLD
        if written.is_file():
            self._check_same(json.loads(written.read_text()), description)
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} is not empty and holds no toy world: give another datamodule.source.folder"
            )
        log.info("drawing %d people into %s, once", self.world.num_people + self.world.num_held_out, self.folder)
        unfinished = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_world(self.world, unfinished)
            write_atomically(unfinished / WORLD, json.dumps(description, indent=1).encode())
            unfinished.rename(self.folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _check_same(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        found = {"path": "stays", **found}  # worlds drawn before people could walk
        different = [name for name in wanted if found.get(name) != wanted[name]]
        if different:
            changes = ", ".join(f"{name} {found.get(name)} instead of {wanted[name]}" for name in different)
            raise ValueError(
                f"{self.folder} holds another toy world ({changes}): delete it, or give another "
                "datamodule.source.folder"
            )
