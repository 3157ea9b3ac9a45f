"""Sizes, pixels, and whether boxes, points and masks follow them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from likeness.datamodules.images import (
    CoverAndCrop,
    Geometry,
    ResizeAndCrop,
    ShorterSideAndCrop,
    Stretch,
    cover_and_crop,
    resize_and_crop_geometry,
)
from likeness.datamodules.samples import BadSample

TRANSFORMS = {
    "cover": CoverAndCrop(),
    "resize and crop": ResizeAndCrop(),
    "shorter side": ShorterSideAndCrop(flip_probability=0),
    "shorter side, mirrored": ShorterSideAndCrop(flip_probability=1),
    "stretch": Stretch(),
    "centre": Stretch(resize="center_crop"),
    "random": Stretch(resize="random_crop"),
}
SIZES = [
    ((90, 160), (48, 72)),
    ((160, 90), (48, 72)),
    ((60, 60), (64, 96)),
    ((48, 72), (48, 72)),
    ((101, 77), (32, 32)),
]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def noise(height: int, width: int, num_frames: int = 3) -> np.ndarray:
    return rng().integers(0, 256, (num_frames, height, width, 3), np.uint8)


def resized(frames: np.ndarray, size: tuple[int, int], mode: str, antialias: bool = True) -> torch.Tensor:
    """The plain way: the whole clip in floats. (c f h w)"""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, size, mode=mode, antialias=antialias).clamp(0, 255).round().byte().transpose(0, 1)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_a_box_is_where_its_pixels_are(name, source, target):
    frames = np.full((2, *source, 3), 20, np.uint8)
    box = np.array([0.35, 0.4, 0.7, 0.65])
    top, bottom = (round(y * source[0]) for y in box[[1, 3]])
    left, right = (round(x * source[1]) for x in box[[0, 2]])
    frames[:, top:bottom, left:right] = 220
    clip, geometry = TRANSFORMS[name](frames, *target, rng())
    assert clip.shape == (3, 2, *target)
    assert clip.dtype == torch.uint8
    rows, columns = (clip[0, 0] > 120).nonzero().unbind(1)
    found = [columns.min() / target[1], rows.min() / target[0], (columns.max() + 1) / target[1]]
    found.append((rows.max() + 1) / target[0])
    exact = np.array([left / source[1], top / source[0], right / source[1], bottom / source[0]])
    assert geometry.boxes(exact) == pytest.approx(np.array(found), abs=1.5 / min(target))
    mask = np.zeros((2, *source), np.uint8)
    mask[:, top:bottom, left:right] = 3
    masks = geometry.masks(mask)
    assert masks.shape == (1, 2, *target)
    assert (masks[0] != (clip[0] > 120)).float().mean() < 0.02
    assert set(masks.unique().tolist()) <= {0, 1}


def test_boxes_are_cut_at_the_edge_and_points_are_not():
    geometry = Geometry(source=(10, 30), resized=(10, 30), target=(10, 10), top=0, left=10)
    assert geometry.boxes(np.array([[0, 0.2, 0.5, 1]])).tolist() == [[0, 0.2, 0.5, 1]]
    assert geometry.points(np.array([0.0, 0.5])).tolist() == [-1, 0.5]
    mirrored = Geometry(source=(10, 30), resized=(10, 30), target=(10, 10), top=0, left=10, flipped=True)
    assert mirrored.boxes(np.array([0, 0.2, 0.5, 1])).tolist() == [0.5, 0.2, 1, 1]
    assert mirrored.points(np.array([0.0, 0.5])).tolist() == [2, 0.5]


def test_masks_of_another_size_are_named():
    geometry = Geometry(source=(10, 30), resized=(10, 30), target=(10, 10))
    with pytest.raises(BadSample, match="mask of another size"):
        geometry.masks(np.zeros((2, 30, 10), bool))


@pytest.mark.parametrize(("source", "target"), [*SIZES, ((720, 1280), (480, 720)), ((31, 47), (120, 121))])
@pytest.mark.parametrize("name", ["cover", "resize and crop", "shorter side"])
def test_fast_resize_equals_the_plain_one(name, source, target):
    """On noise, the hardest picture. At simple ratios some sums are exact halves, which another order rounds the other way."""
    frames = noise(*source)
    clip, geometry = TRANSFORMS[name](frames, *target, rng())
    mode, antialias = ("bicubic" if name == "cover" else "bilinear"), name != "shorter side"
    whole = resized(frames, geometry.resized, mode, antialias)
    whole = F.pad(whole, (target[1], target[1], target[0], target[0]))  # black around it
    top, left = geometry.top + target[0], geometry.left + target[1]
    expected = whole[:, :, top : top + target[0], left : left + target[1]]
    difference = (clip.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 5e-3


def test_concat_id_clip_is_cut_in_the_middle():
    frames = noise(30, 90)
    clip, geometry = CoverAndCrop()(frames, 30, 30, rng())
    assert (geometry.resized, geometry.top, geometry.left) == ((30, 90), 0, 30)
    assert np.array_equal(clip.numpy(), frames[:, :, 30:60].transpose(3, 0, 1, 2))
    assert torch.equal(clip, cover_and_crop(frames, 30, 30))


# Sizes of the original code: source, target, resized, top, left (golden case `demo_data` of ConsisID).
CONSISID = [
    ((940, 720), (480, 720), (940, 720), 230, 0),
    ((720, 1280), (480, 720), (480, 853), 0, 66),
    ((1080, 1920), (480, 720), (480, 853), 0, 66),
    ((480, 640), (480, 720), (540, 720), 30, 0),
    ((256, 340), (480, 720), (542, 720), 31, 0),
    ((1280, 720), (480, 720), (1280, 720), 400, 0),
    ((540, 960), (384, 512), (384, 682), 0, 85),
]


@pytest.mark.parametrize(("source", "target", "size", "top", "left"), CONSISID)
def test_consisid_sizes_and_offsets(source, target, size, top, left):
    assert resize_and_crop_geometry(source, *target) == Geometry(source, size, target, top, left)


def test_consisid_masks_keep_their_area():
    """The demo clip's face masks: 251363 pixels at 940 x 720 become 7222 at 160 x 120."""
    root = Path(__file__).parents[3] / "shared"
    golden = root / "golden" / "consisid" / "demo_data.json"
    clips = sorted((root / "data" / "consisid_demo").glob("*/track_masks_data/*"))
    if not golden.is_file() or not clips:
        pytest.skip(f"{root} has no ConsisID demo data")
    numbers = json.loads(golden.read_text())["scalars"]
    folder = clips[0] / "tracking_mask_results" / str(numbers["face_object_id"])
    files = [folder / f"annotated_frame_{index:05d}.png" for index in numbers["frame_indices"]]
    masks = np.stack([np.asarray(Image.open(file)) for file in files]) > 0
    assert masks.sum() == numbers["mask_pixels_raw_sum"]
    for target, name in (
        (tuple(numbers["target_hw"]), "mask_pixels_after_resize_crop_sum"),
        ((480, 720), "mask_pixels_after_480x720_crop_sum"),
    ):
        resized_masks = resize_and_crop_geometry(masks.shape[1:], *target).masks(masks)
        assert int(resized_masks.sum()) == pytest.approx(numbers[name], rel=2e-3)


def test_stretch_is_what_pil_does():
    frames = noise(90, 160)
    clip, geometry = Stretch()(frames, 48, 72, rng())
    expected = np.stack([np.asarray(Image.fromarray(frame).resize((72, 48))) for frame in frames])
    difference = np.abs(clip.permute(1, 2, 3, 0).numpy().astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert geometry.resized == (48, 72)


def test_random_crop_follows_the_seed_and_reaches_both_ends():
    frames = noise(16, 40)
    crop = Stretch(resize="random_crop")
    lefts = [crop(frames, 16, 36, np.random.default_rng(seed))[1].left for seed in range(60)]
    assert sorted(set(lefts)) == [0, 1, 2, 3, 4]
    assert lefts[3] == crop(frames, 16, 36, np.random.default_rng(3))[1].left


def test_shorter_side_fills_what_is_missing_with_black():
    clip, geometry = ShorterSideAndCrop(flip_probability=0)(np.full((1, 40, 20, 3), 200, np.uint8), 10, 30, rng())
    assert (geometry.resized, geometry.top, geometry.left) == ((20, 10), 5, -10)
    assert (clip[..., :10] == 0).all() and (clip[..., 10:20] == 200).all() and (clip[..., 20:] == 0).all()


def test_mirrored_clip_is_the_clip_of_the_mirrored_video():
    frames = noise(32, 45)  # 45 - 32 is odd: the cut is not quite in the middle
    mirrored, _ = ShorterSideAndCrop(flip_probability=1)(frames, 32, 32, rng())
    plain, _ = ShorterSideAndCrop(flip_probability=0)(frames[:, :, ::-1], 32, 32, rng())
    assert torch.equal(mirrored, plain)


def test_half_of_the_clips_are_mirrored():
    transform = ShorterSideAndCrop()
    flips = [transform(noise(8, 8, 1), 8, 8, np.random.default_rng(seed))[1].flipped for seed in range(200)]
    assert 70 < sum(flips) < 130


@pytest.mark.parametrize(
    ("make", "setting"),
    [(lambda: Stretch(resize="crop"), "transform.resize"), (lambda: ShorterSideAndCrop(flip_probability=2), "flip")],
)
def test_wrong_settings_are_named(make, setting):
    with pytest.raises(ValueError, match=setting):
        make()
