"""Short clips of the drawn people, with captions and the complete ground truth: boxes, keypoints, masks, names."""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .people import SUPERSAMPLING, Color, Person, Pose, draw_person

COLORS: dict[str, Color] = {
    "white": (240, 240, 240),
    "grey": (128, 128, 132),
    "black": (36, 36, 42),
    "red": (205, 52, 52),
    "orange": (238, 142, 48),
    "yellow": (242, 215, 82),
    "green": (76, 168, 82),
    "teal": (42, 148, 150),
    "blue": (62, 104, 205),
    "navy": (34, 46, 104),
    "purple": (138, 78, 178),
    "pink": (238, 150, 190),
}

MOTIONS = {
    "sways": "swaying from side to side",
    "nods": "nodding",
    "turns": "turning the head",
    "tilts": "tilting the head",
    "leans": "leaning towards the camera",
    "rests": "standing still",
}

# What becomes of a person's place during a clip: it stays; it moves to the side that the person looks to, so that the
# first frame tells the motion; or it moves to somewhere that the first frame does not tell.
PATHS = ("stays", "walks", "roams")
HEADINGS = {"walks left": "walking to the left", "walks right": "walking to the right", "roams": "moving about"}
TRAVELLER_SIZE = 0.8  # of the usual size: there must be somewhere to go
WALKED, ROAMED = (0.25, 0.5), (0.35, 0.5)  # of the way that there is, from side to side


@dataclass(frozen=True)
class ToyClip:
    """One drawn clip. Coordinates are in pixels; `boxes` (f n 4) xyxy, `keypoints` (f n 5 2), `frames` (f h w 3) uint8.

    `masks` maps `face` and `person` to (f h w) uint8: 0 is background, i + 1 belongs to the i-th person.
    """

    frames: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    masks: dict[str, np.ndarray]
    caption: str
    people: list[Person]


def draw_clip(
    people: list[Person],
    rng: np.random.Generator,
    *,
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    path: str = "stays",
) -> ToyClip:
    """Return a clip of `people` side by side, each with a motion of their own, before a wall of one colour.

    `path`: one of PATHS; people who walk or roam do nothing else, and may end up before each other.
    """
    wall = str(rng.choice(list(COLORS)))
    shirts = [str(rng.choice([name for name in COLORS if name != wall])) for _ in people]
    motions = [str(rng.choice(list(MOTIONS))) for _ in people]
    talks = [bool(rng.uniform() < 0.5) for _ in people]
    background = _draw_wall(COLORS[wall], height, width)
    performances = [
        _perform(rng, motions[i], talks[i], num_frames, fps, _place(i, len(people), height, width))
        for i in range(len(people))
    ]
    if path != "stays":
        performances = [_travel(rng, path, poses, height, width) for poses in performances]
        motions = [_heading(path, poses) for poses in performances]
    frames = [
        _draw_frame(
            background, people, [performance[f] for performance in performances], [COLORS[shirt] for shirt in shirts]
        )
        for f in range(num_frames)
    ]
    return ToyClip(
        frames=np.stack([frame.pixels for frame in frames]),
        boxes=np.stack([frame.boxes for frame in frames]),
        keypoints=np.stack([frame.keypoints for frame in frames]),
        masks={name: np.stack([frame.masks[name] for frame in frames]) for name in ("face", "person")},
        caption=_describe(wall, shirts, motions, talks),
        people=people,
    )


@dataclass(frozen=True)
class _Frame:
    pixels: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    masks: dict[str, np.ndarray]


def _draw_frame(background: Image.Image, people: list[Person], poses: list[Pose], shirts: list[Color]) -> _Frame:
    canvas = background.copy()
    masks = {name: Image.new("L", canvas.size) for name in ("face", "person")}
    faces = [draw_person(canvas, masks, i + 1, people[i], poses[i], shirts[i]) for i in range(len(people))]
    size = (canvas.width // SUPERSAMPLING, canvas.height // SUPERSAMPLING)
    return _Frame(
        pixels=np.asarray(canvas.reduce(SUPERSAMPLING)),
        boxes=np.stack([face.box for face in faces]),
        keypoints=np.stack([face.keypoints for face in faces]),
        masks={name: np.asarray(mask.resize(size, Image.Resampling.NEAREST)) for name, mask in masks.items()},
    )


def _draw_wall(color: Color, height: int, width: int) -> Image.Image:
    shade = np.linspace(1.06, 0.9, height * SUPERSAMPLING)[:, None, None] * np.array(color, np.float32)
    shade = np.broadcast_to(shade, (height * SUPERSAMPLING, width * SUPERSAMPLING, 3))
    return Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))


def _place(index: int, count: int, height: int, width: int) -> tuple[float, float, float]:
    """Return the resting centre and half face height (pixels) of person `index` of `count`."""
    slot = width / count
    size = min(0.3 * height, 0.32 * slot)
    return slot * (index + 0.5), 0.5 * height, size


def _perform(
    rng: np.random.Generator, motion: str, talks: bool, num_frames: int, fps: float, place: tuple[float, float, float]
) -> list[Pose]:
    centre_x, centre_y, size = place
    size *= rng.uniform(0.92, 1.08)
    x, y = centre_x + rng.uniform(-0.18, 0.18) * size, centre_y + rng.uniform(-0.1, 0.1) * size
    roll, yaw, pitch = rng.uniform(-0.1, 0.1), rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4)
    frequency, phase = rng.uniform(0.4, 0.8), rng.uniform(0, 2 * math.pi)
    blink_at, blink_every = rng.uniform(0, 2.0), rng.uniform(1.6, 3.0)
    gaze, syllables = rng.uniform(-1, 1), rng.uniform(2.0, 3.5)
    poses = []
    for frame in range(num_frames):
        seconds = frame / fps
        swing = math.sin(2 * math.pi * frequency * seconds + phase)
        poses.append(
            Pose(
                x=x + (0.3 * size * swing if motion == "sways" else 0.0),
                y=y,
                size=size * (1 + 0.12 * swing if motion == "leans" else 1.0),
                roll=roll + (0.22 * swing if motion == "tilts" else 0.0),
                yaw=float(np.clip(yaw + (0.9 * swing if motion == "turns" else 0.0), -1, 1)),
                pitch=float(np.clip(pitch + (0.9 * swing if motion == "nods" else 0.0), -1, 1)),
                eyes_open=0.0 if (seconds - blink_at) % blink_every < 0.16 else 1.0,
                mouth_open=max(0.0, math.sin(2 * math.pi * syllables * seconds + phase)) if talks else 0.0,
                gaze=gaze,
            )
        )
    return poses


def _travel(rng: np.random.Generator, path: str, poses: list[Pose], height: int, width: int) -> list[Pose]:
    """Return `poses` upright and on a straight way at constant speed, instead of where and how they were."""
    size = TRAVELLER_SIZE * poses[0].size
    room, side = width - 1.9 * size, rng.choice([-1.0, 1.0])
    distance = room * rng.uniform(*(WALKED if path == "walks" else ROAMED))
    to_left, to_right = side < 0 or path == "roams", side > 0 or path == "roams"  # where there has to be room
    first = 0.95 * size + rng.uniform(distance * to_left, room - distance * to_right)
    # At the height where the world's people always are: there the toy analyzer knows them.
    heights = height * rng.uniform(0.42, 0.58, 2)
    look = {"yaw": rng.uniform(-0.6, 0.6), "gaze": rng.uniform(-1, 1)}
    if path == "walks":
        heights[1] = heights[0]
        look = {"yaw": side * rng.uniform(0.7, 1.0), "gaze": side}
    way = np.linspace((first, heights[0]), (first + side * distance, heights[1]), len(poses))
    return [
        replace(pose, x=float(x), y=float(y), size=size, roll=poses[0].roll, pitch=poses[0].pitch, **look)
        for pose, (x, y) in zip(poses, way, strict=True)
    ]


def _heading(path: str, poses: list[Pose]) -> str:
    if path == "roams":
        return "roams"
    return "walks right" if poses[-1].x > poses[0].x else "walks left"


def _describe(wall: str, shirts: list[str], motions: list[str], talks: list[bool]) -> str:
    """Return a caption that tells everything about the clip except who is in it."""
    people = [
        f"a person in a {shirt} shirt {(MOTIONS | HEADINGS)[motion]}{' and talking' if talk else ''}"
        for shirt, motion, talk in zip(shirts, motions, talks, strict=True)
    ]
    return f"{' beside '.join(people)} in front of a {wall} wall".capitalize() + "."
