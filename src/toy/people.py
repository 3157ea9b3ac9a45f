"""Procedurally drawn people: an appearance that stays with a person, and a pose that changes from frame to frame.

Everything is drawn as polygons in head units (origin at the centre of the face, y down, half the face height = 1)
and mapped to pixels by one similarity transform, so that the ground truth (boxes, keypoints, masks) is exact.
"""

import colorsys
import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]

HAIR_STYLES = ("bald", "short", "side", "bob", "long", "afro", "mohawk", "bun")
GLASSES = ("none", "none", "round", "square", "dark")
BEARDS = ("none", "none", "none", "moustache", "goatee", "full")
MARKS = ("none", "none", "mole", "freckles", "blush", "scar")

_FIRST = [
    "Ada",
    "Bo",
    "Cleo",
    "Dov",
    "Esme",
    "Faro",
    "Gil",
    "Hana",
    "Ivo",
    "Juno",
    "Kai",
    "Lola",
    "Milo",
    "Nia",
    "Otto",
    "Pia",
    "Quin",
    "Rhea",
    "Soren",
    "Tova",
    "Uma",
    "Vito",
    "Wren",
    "Yara",
    "Zeno",
]
_LAST = [
    "Abel",
    "Brook",
    "Castor",
    "Delmar",
    "Ember",
    "Fenn",
    "Gale",
    "Harrow",
    "Indigo",
    "Jarvis",
    "Kestrel",
    "Linden",
    "Marlow",
    "Novak",
    "Orchard",
    "Pell",
    "Quill",
]

SUPERSAMPLING = 3


@dataclass(frozen=True)
class Person:
    """The appearance of one person. Lengths are in head units, colours are RGB in 0..255."""

    name: str
    skin: Color
    hair: Color
    hair_style: str
    eyes: Color
    lips: Color
    glasses: str
    glasses_color: Color
    beard: str
    mark: str
    mark_side: float
    face_width: float
    jaw: float
    eye_spacing: float
    eye_size: float
    brow_thickness: float
    brow_tilt: float
    nose_length: float
    mouth_width: float


@dataclass(frozen=True)
class Pose:
    """Where and how a head stands in one frame.

    `x`, `y`: centre of the face in pixels. `size`: half the face height in pixels. `roll` in radians. `yaw` and `pitch`
    in [-1, 1] move the features over the head. `eyes_open` and `mouth_open` in [0, 1]; `gaze` in [-1, 1].
    """

    x: float
    y: float
    size: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    eyes_open: float = 1.0
    mouth_open: float = 0.0
    gaze: float = 0.0


@dataclass(frozen=True)
class DrawnFace:
    """Ground truth of one drawn face in pixels: `box` (4,) xyxy and `keypoints` (5, 2) in ArcFace's order."""

    box: np.ndarray
    keypoints: np.ndarray


def make_person(rng: np.random.Generator) -> Person:
    """Return a person drawn from the toy population."""
    tone = rng.uniform()
    light, dark = np.array([255, 222, 196]), np.array([92, 56, 38])
    skin = light + (dark - light) * tone + rng.uniform(-10, 10, 3)
    return Person(
        name=f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
        skin=_color(skin),
        hair=_hair_color(rng),
        hair_style=str(rng.choice(HAIR_STYLES)),
        eyes=_hsv(rng.uniform(), 0.75, 0.65),
        lips=_color(skin * [0.85, 0.5, 0.5] + [rng.uniform(0, 60), 0, 0]),
        glasses=str(rng.choice(GLASSES)),
        glasses_color=_hsv(rng.uniform(), rng.uniform(0.3, 1), rng.uniform(0.1, 0.8)),
        beard=str(rng.choice(BEARDS)),
        mark=str(rng.choice(MARKS)),
        mark_side=float(rng.choice([-1.0, 1.0])),
        face_width=rng.uniform(0.7, 0.95),
        jaw=rng.uniform(0.55, 1.0),
        eye_spacing=rng.uniform(0.32, 0.44),
        eye_size=rng.uniform(0.13, 0.2),
        brow_thickness=rng.uniform(0.03, 0.1),
        brow_tilt=rng.uniform(-0.25, 0.25),
        nose_length=rng.uniform(0.2, 0.42),
        mouth_width=rng.uniform(0.22, 0.42),
    )


def draw_person(
    image: Image.Image, masks: dict[str, Image.Image], label: int, person: Person, pose: Pose, shirt: Color
) -> DrawnFace:
    """Draw a person into `image` and `masks` (`face`, `person`; value `label`) and return the ground truth.

    `image` and `masks` are `SUPERSAMPLING` times larger than the frame that `pose` and the result refer to.
    """
    brush = _Brush(image, masks, label, pose)
    _draw_body(brush, person, shirt)
    _draw_hair_behind(brush, person)
    _draw_head(brush, person)
    _draw_features(brush, person, pose)
    _draw_hair_in_front(brush, person)
    _draw_glasses(brush, person)
    return DrawnFace(box=brush.box(person), keypoints=brush.keypoints(person))


class _Brush:
    """Draws shapes given in head units. `shift` moves facial features over the head as yaw and pitch do."""

    def __init__(self, image: Image.Image, masks: dict[str, Image.Image], label: int, pose: Pose):
        self.draw = ImageDraw.Draw(image)
        self.masks = {name: ImageDraw.Draw(mask) for name, mask in masks.items()}
        self.label = label
        self.pose = pose
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        self.rotation = np.array([[cos, sin], [-sin, cos]]) * pose.size  # row vectors
        self.shift = np.array([0.22 * pose.yaw, 0.14 * pose.pitch])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        return points @ self.rotation + [self.pose.x, self.pose.y]

    def polygon(self, points, color: Color, *mask_names: str) -> None:
        flat = (self.pixels(np.asarray(points, float)) * SUPERSAMPLING).ravel().tolist()
        self.draw.polygon(flat, fill=color)
        for name in mask_names:
            self.masks[name].polygon(flat, fill=self.label)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, color: Color, *mask_names: str) -> None:
        self.polygon(_ellipse(cx, cy, rx, ry), color, *mask_names)

    def feature(self, cx: float, cy: float, rx: float, ry: float, color: Color) -> None:
        self.ellipse(cx + self.shift[0], cy + self.shift[1], rx, ry, color)

    def ring(self, points: np.ndarray, width: float, color: Color) -> None:
        flat = (self.pixels(points) * SUPERSAMPLING).ravel().tolist()
        self.draw.line(
            flat + flat[:4], fill=color, width=max(1, round(width * self.pose.size * SUPERSAMPLING)), joint="curve"
        )

    def box(self, person: Person) -> np.ndarray:
        outline = self.pixels(_face_outline(person))
        return np.concatenate([outline.min(0), outline.max(0)])

    def keypoints(self, person: Person) -> np.ndarray:
        spacing, mouth = person.eye_spacing, person.mouth_width
        points = np.array(
            [[-spacing, -0.12], [spacing, -0.12], [0, -0.05 + person.nose_length], [-mouth, 0.55], [mouth, 0.55]]
        )
        return self.pixels(points + self.shift)


def _draw_body(brush: _Brush, person: Person, shirt: Color) -> None:
    brush.ellipse(0, 2.25, 1.5, 0.95, shirt, "person")
    brush.polygon([(-1.5, 2.2), (1.5, 2.2), (1.5, 6), (-1.5, 6)], shirt, "person")
    brush.polygon([(-0.35, 0.6), (0.35, 0.6), (0.42, 1.5), (-0.42, 1.5)], _shade(person.skin, 0.82), "person")
    brush.ellipse(0, 1.45, 0.42, 0.16, _shade(person.skin, 0.82), "person")


def _draw_hair_behind(brush: _Brush, person: Person) -> None:
    width, color = person.face_width, person.hair
    if person.hair_style == "long":
        brush.ellipse(0, -0.35, width + 0.28, 0.95, color, "person")
        brush.polygon(
            [(-width - 0.28, -0.4), (width + 0.28, -0.4), (width + 0.2, 1.35), (-width - 0.2, 1.35)], color, "person"
        )
    elif person.hair_style == "bob":
        brush.ellipse(0, -0.1, width + 0.3, 1.12, color, "person")
    elif person.hair_style == "afro":
        brush.ellipse(0, -0.45, width + 0.55, 1.15, color, "person")
    elif person.hair_style == "bun":
        brush.ellipse(0, -1.25, 0.42, 0.36, color, "person")
        brush.ellipse(0, -0.4, width + 0.1, 0.75, color, "person")
    elif person.hair_style == "mohawk":
        brush.ellipse(0, -0.95, 0.3, 0.65, color, "person")


def _draw_head(brush: _Brush, person: Person) -> None:
    for side in (-1, 1):
        brush.ellipse(side * person.face_width, 0, 0.13, 0.2, _shade(person.skin, 0.9), "person", "face")
    brush.polygon(_face_outline(person), person.skin, "person", "face")


def _draw_features(brush: _Brush, person: Person, pose: Pose) -> None:
    feature = brush.feature
    if person.beard == "full":
        beard = _face_outline(person)
        brush.polygon(beard[beard[:, 1] > 0.3], person.hair)
    if person.beard == "goatee":
        feature(0, 0.8, 0.2, 0.18, person.hair)
    _draw_mark(brush, person)
    for side in (-1, 1):
        x, y = side * person.eye_spacing, -0.12
        opening = person.eye_size * (0.12 + 0.78 * pose.eyes_open)
        feature(x, y, person.eye_size * 1.15, opening, (250, 250, 250))
        if pose.eyes_open > 0.3:
            feature(x + 0.06 * pose.gaze, y, person.eye_size * 0.68, min(opening, person.eye_size * 0.68), person.eyes)
            feature(x + 0.06 * pose.gaze, y, person.eye_size * 0.3, person.eye_size * 0.3, (15, 15, 20))
        tilt = side * person.brow_tilt * 0.3
        half, thickness, top = 0.2, person.brow_thickness, -0.12 - person.eye_size - 0.14
        brow = [
            (x - half, top - tilt),
            (x + half, top + tilt),
            (x + half, top + tilt + thickness),
            (x - half, top - tilt + thickness),
        ]
        brush.polygon(np.array(brow) + brush.shift, _shade(person.hair, 0.75))
    nose = np.array([(0, -0.05), (0.13, -0.05 + person.nose_length), (-0.13, -0.05 + person.nose_length)])
    brush.polygon(nose + brush.shift * 1.4, _shade(person.skin, 0.76))
    if person.beard in ("moustache", "full"):
        feature(0, 0.42, person.mouth_width * 0.95, 0.09, person.hair)
    feature(0, 0.55, person.mouth_width, 0.07 + 0.17 * pose.mouth_open, person.lips)
    if pose.mouth_open > 0.15:
        feature(0, 0.55, person.mouth_width * 0.75, 0.14 * pose.mouth_open, (70, 15, 20))


def _draw_mark(brush: _Brush, person: Person) -> None:
    side = person.mark_side
    if person.mark == "mole":
        brush.feature(side * 0.42, 0.36, 0.07, 0.07, (60, 30, 20))
    elif person.mark == "freckles":
        for x, y in ((-0.5, 0.2), (-0.36, 0.28), (-0.24, 0.18), (0.5, 0.2), (0.36, 0.28), (0.24, 0.18)):
            brush.feature(x, y, 0.045, 0.045, _shade(person.skin, 0.62))
    elif person.mark == "blush":
        for x in (-0.48, 0.48):
            brush.feature(x, 0.25, 0.17, 0.12, _color(np.array(person.skin) * [1.0, 0.68, 0.68]))
    elif person.mark == "scar":
        scar = np.array([(0.2, 0.05), (0.28, 0.05), (0.58, 0.42), (0.5, 0.44)]) * [side, 1]
        brush.polygon(scar + brush.shift, _color(np.array(person.skin) * [0.95, 0.6, 0.6]))


def _draw_hair_in_front(brush: _Brush, person: Person) -> None:
    if person.hair_style in ("bald", "mohawk"):
        return
    outline = _face_outline(person) * [1.06, 1.06]
    fringe = {"short": -0.55, "side": -0.5, "bob": -0.4, "long": -0.52, "afro": -0.5, "bun": -0.6}[person.hair_style]
    top = outline[outline[:, 1] < fringe]
    if person.hair_style == "side":
        top = np.concatenate([top, [(-person.face_width * 0.98, -0.05), (-person.face_width * 0.6, -0.3)]])
        top = top[np.argsort(np.arctan2(top[:, 1] + 0.7, top[:, 0]))]
    brush.polygon(top, person.hair, "person")
    if person.hair_style == "short":
        brush.ellipse(0, -0.85, person.face_width * 0.85, 0.3, person.hair, "person")


def _draw_glasses(brush: _Brush, person: Person) -> None:
    if person.glasses == "none":
        return
    size = person.eye_size + 0.11
    for side in (-1, 1):
        x, y = side * person.eye_spacing, -0.12
        if person.glasses == "square":
            lens = np.array(
                [
                    (x - size, y - size * 0.75),
                    (x + size, y - size * 0.75),
                    (x + size, y + size * 0.75),
                    (x - size, y + size * 0.75),
                ]
            )
        else:
            lens = _ellipse(x, y, size, size)
        if person.glasses == "dark":
            brush.polygon(lens + brush.shift, (30, 30, 38))
        brush.ring(lens + brush.shift, 0.075, person.glasses_color)
    bridge = np.array([(-person.eye_spacing + size, -0.15), (person.eye_spacing - size, -0.15)])
    brush.ring(bridge + brush.shift, 0.075, person.glasses_color)


def _face_outline(person: Person) -> np.ndarray:
    """The face as a closed curve (48, 2): an ellipse whose lower half narrows as `jaw` falls below 1."""
    points = _ellipse(0, 0, person.face_width, 1.0, 48)
    lower = np.clip(points[:, 1], 0, 1)
    points[:, 0] *= 1 - (1 - person.jaw) * 0.55 * lower
    return points


def _ellipse(cx: float, cy: float, rx: float, ry: float, num_points: int = 24) -> np.ndarray:
    return _circle(num_points) * (rx, ry) + (cx, cy)


@functools.cache
def _circle(num_points: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _hair_color(rng: np.random.Generator) -> Color:
    natural = [(28, 22, 20), (92, 58, 32), (158, 105, 55), (225, 190, 110), (170, 62, 28), (205, 205, 210)]
    if rng.uniform() < 0.6:
        return _color(np.array(natural[rng.integers(len(natural))]) + rng.uniform(-12, 12, 3))
    return _hsv(rng.uniform(), rng.uniform(0.55, 0.9), rng.uniform(0.5, 0.9))


def _hsv(hue: float, saturation: float, value: float) -> Color:
    return _color(np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255)


def _shade(color: Color, factor: float) -> Color:
    return _color(np.array(color) * factor)


def _color(values: np.ndarray) -> Color:
    red, green, blue = np.clip(np.rint(values), 0, 255).astype(int).tolist()
    return red, green, blue
