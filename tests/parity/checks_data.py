"""The data of four methods against numbers of the original implementations: frames, boxes, masks, crops, alignment."""

import re

import numpy as np
import pytest
import torch

from likeness.datamodules import tracklets
from likeness.datamodules.conditions import Clip
from likeness.datamodules.faces import FaceMask
from likeness.datamodules.frame_selection import (
    ConsisIDFrames,
    ConsistI2VFrames,
    repeat_to,
    segments,
    stretch,
    valid_people,
)
from likeness.datamodules.frames import ChosenFrames
from likeness.datamodules.images import ResizeAndCrop, Stretch, resize_and_crop_geometry
from likeness.datamodules.masks import MASKS, decode_masks
from likeness.datamodules.samples import Sample
from likeness.datamodules.tracklets import Tracklets
from likeness.datamodules.video import get_reader
from likeness.models.identity.alignment import alignment, ffhq_crop, five_from_68, five_from_98, source_quad
from likeness.models.identity.crops import expanded_box, square_box
from likeness.models.identity.masks import latent_mask
from likeness.models.identity.references import warp
from likeness.preparation.clips import clip_sample
from likeness.preparation.sources.consisid import ConsisID
from likeness.preparation.sources.tracks import TrackBox, tracks_of

from .demo import shared_data
from .golden import Case


class Given:
    """A random generator that is told what it draws."""

    def __init__(self, *values: int):
        self.values = list(values)

    def integers(self, low: int, high: int | None = None) -> int:
        value = self.values.pop(0)
        assert (0 if high is None else low) <= value < (low if high is None else high)
        return value


def demo_sample(case: Case) -> Sample:
    """The demo clip, as prepare.py writes it."""
    source = ConsisID(file=str(shared_data("consisid_demo") / "total_train_data.txt"), masks=["face"])
    (clip,) = [clip for clip in source if clip.video.stem == case.clip]
    return clip_sample(clip, "demo", "pyav")


def frames_of(case: Case) -> ConsisIDFrames:
    given = case.manifest
    percent = (given.get("skip_frames_start_percent", 0.0), given.get("skip_frames_end_percent", 1.0))
    return ConsisIDFrames(
        stride=case.sample_stride,
        skip_start=case.skip_frames_start,
        skip_end=case.skip_frames_end,
        skip_percent=percent,
        miss_tolerance=given.get("miss_tolerance", 6),
    )


def check_demo_data(case: Case) -> None:
    scalars, sample, select = case.scalars, demo_sample(case), frames_of(case)
    info = sample.info
    (identity,) = info["identities"]
    assert info["num_frames"] == scalars["number_of_frames"]
    assert identity["control_frames"]["head"] == scalars["control_frame_head"]
    assert identity["mask_objects"]["face"] == scalars["face_object_id"]
    parts = segments(valid_people(info)[0], select.miss_tolerance)
    assert [[part[0], part[-1], len(part)] for part in parts] == scalars["valid_segments"]
    lowest, highest = select.start_range(len(max(parts, key=len)), case.n_frames)
    assert [lowest, highest] == [scalars["start_position_min"], scalars["start_position_max"]]
    chosen = select(info, case.n_frames, Given(0, scalars["start"]))
    assert chosen.indices == scalars["frame_indices"]
    check_masks(case, sample, chosen)
    check_sizes(case)


def check_masks(case: Case, sample: Sample, chosen) -> None:
    scalars, info = case.scalars, sample.info
    shape = (info["num_frames"], info["height"], info["width"])
    raw = decode_masks(sample.members[MASKS], "face", chosen.indices, shape)
    counts = (raw > 0).sum(axis=(1, 2))
    assert [counts[0], counts[-1]] == scalars["mask_pixels_raw_first_last"]
    assert counts.sum() == scalars["mask_pixels_raw_sum"]
    frames = get_reader("pyav").read(sample.video, chosen.indices)

    def at(height: int, width: int):
        clip = Clip(chosen, lambda: ResizeAndCrop()(frames, height, width, np.random.default_rng(0)))
        mask = FaceMask().finish(FaceMask().load(sample, clip), np.random.default_rng(0))["face_mask"]
        assert clip.frames.shape[1:] == mask.shape[1:]
        latent_frames = case.expected["mask_latent"].shape[2]
        return int(mask.sum()), latent_mask(mask[None], (latent_frames, height // 8, width // 8))

    tolerance = float(re.search(r"rtol ([\d.e-]+)", case.tolerance["scalars"])[1])
    atol = float(re.search(r"atol ([\d.e-]+)", case.tolerance["arrays"])[1])
    total, latent = at(*scalars["target_hw"])
    assert total == pytest.approx(scalars["mask_pixels_after_resize_crop_sum"], rel=tolerance)
    assert float(latent.sum()) == pytest.approx(scalars["mask_latent_sum"], rel=tolerance)
    case.check(latent, "mask_latent", rtol=0, atol=atol)
    for name, expected in scalars.items():
        if size := re.fullmatch(r"mask_pixels_after_(\d+)x(\d+)_crop_sum", name):
            height, width = int(size[1]), int(size[2])
            total, latent = at(height, width)
            assert total == pytest.approx(expected, rel=tolerance)
            assert float(latent.sum()) == pytest.approx(scalars[f"mask_latent_{height}x{width}_sum"], rel=tolerance)


def check_sizes(case: Case) -> None:
    scalars = case.scalars
    for entry in scalars["crop_boxes"]:
        box = [entry["box"][name] for name in ("x1", "y1", "x2", "y2")]
        assert list(square_box(box, *entry["image_hw"])) == entry["square"]
        assert list(expanded_box(box, *entry["image_hw"])) == entry["expanded"]
    for entry in scalars["resize_and_crop"]:
        geometry = resize_and_crop_geometry(tuple(entry["source_hw"]), *entry["target_hw"])
        assert list(geometry.resized) == entry["resized_hw"]
        assert [geometry.top, geometry.left] == [entry["crop_top"], entry["crop_left"]]
    for entry in scalars["segments_with_gaps"]:
        assert segments(entry["valid"], entry["tolerance"]) == entry["segments"]
    for entry in scalars["padded_indices"]:
        assert repeat_to(entry["valid"], entry["n_frames"]) == entry["indices"]


def check_frame_sampling(case: Case) -> None:
    for row in case.rows:
        available, count, stride = row["video_length"], row["n_frames"], row["stride"]
        assert stretch(available, count, stride) == row["clip_length"]
        select = ConsistI2VFrames(stride=[1, max(stride, 5)])
        chosen = select({"num_frames": available, "fps": 25.0}, count, Given(stride, row["start_idx"]))
        assert chosen.indices == row["indices"]
        assert chosen.labels == {"stride": stride}


class GivenOrder:
    """A random generator whose permutation is given."""

    def __init__(self, order: list[int]):
        self.order = order

    def permutation(self, count: int) -> np.ndarray:
        assert count == len(self.order)
        return np.array(self.order)


def tracked_clip(case: Case) -> tuple[Sample, Clip]:
    """A sample with the boxes of the manifest, as a source of tracked boxes makes it, and its clip."""
    values = {entry["name"]: entry.get("values") for entry in case.inputs}
    num_frames, height, width = (case.config[name] for name in ("frames", "height", "width"))
    info = {"caption": "", "fps": 7.0, "num_frames": num_frames, "height": height, "width": width}
    boxes = [
        TrackBox(frame, str(identity), "object", tuple(box))
        for frame, identity, box in zip(
            values["frame_of_box"], values["instance_ids"], values["boxes_xyxy_pixels"], strict=True
        )
    ]
    sample = Sample("clip", case.case, {}, {**info, "tracks": tracks_of(boxes, info, case.case)})
    shades = (20 * np.arange(num_frames)[:, None] + 60 * np.arange(3)) % 256
    frames = np.broadcast_to(shades[:, None, None].astype(np.uint8), (num_frames, height, width, 3))
    chosen = ChosenFrames(list(range(num_frames)))
    return sample, Clip(chosen, lambda: Stretch()(np.array(frames), height, width, np.random.default_rng(0)))


def frames_shown(case: Case) -> list[int]:
    """The frames of which pictures are stored: the notes name them."""
    named = re.search(r"stored for frames ([\d, and]+)", case.manifest.get("notes", ""))
    shown = [int(frame) for frame in re.findall(r"\d+", named[1])] if named else range(0, case.config["frames"], 6)
    return list(shown)[: len(case.expected["drawn_repo"])]


def check_tracklet_data(case: Case) -> None:
    np.testing.assert_array_equal(tracklets.COLOURS, case.colour_list)
    sample, clip = tracked_clip(case)
    (order,) = [entry["values"] for entry in case.inputs if entry["name"] == "colour_permutation"]
    shown = frames_shown(case)
    for compat, name in (("original", "drawn_repo"), ("corrected", "drawn_fixed")):
        condition = Tracklets(
            num_slots=case.config["fixed_objs"],
            draw=True,
            clean_first=False,
            line_width=case.config["line_width"],
            compat=compat,
        )
        tensors = condition.finish(condition.load(sample, clip), GivenOrder(order))
        masks = tensors["track_masks"]
        colours = tensors["track_colours"].expand(*masks.shape, 3)
        case.check(torch.cat([tensors["boxes"], colours], dim=-1), "bboxes")
        case.check(masks, "masks")
        present_ids = torch.where(masks > 0, tensors["track_ids"].expand_as(masks), tracklets.EMPTY)
        case.check(present_ids, "instance_ids")
        case.check(tensors["drawn_pixel_values"][:, shown].transpose(0, 1), name)


def picture(case: Case) -> np.ndarray:
    height, width = (int(value) for value in re.match(r"height (\d+), width (\d+)", case.picture).groups())
    y, x = np.mgrid[:height, :width]
    channels = [(7 * x + 3 * y) % 256, (2 * x + 5 * y) % 256, np.where((x // 8 + y // 8) % 2 == 1, 200, 0)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def check_alignment(case: Case) -> None:
    sets = {entry["key"]: np.array(entry["five_points"]) for entry in case.landmark_sets}
    for name in case.outputs:
        found = re.fullmatch(r"(\w+)\.(ffhq|arcface|set1|mtcnn)(\d+)\.(\w+)", name)
        if found is None:
            continue
        key, template, size, what = found.groups()
        matrix = alignment(sets[key], template, int(size))
        if what == "M":
            case.check(matrix, name, **case.tolerance["M"])
        elif what == "source_quad":
            case.check(source_quad(matrix, int(size)), name, rtol=0, **case.tolerance["source_quad"])
        else:
            step = int(re.fullmatch(r"crop_every_(\d+)\w\w_pixel", what)[1])
            crop = warp(picture(case), matrix, int(size))[::step, ::step]
            case.check(crop.astype(np.float32), name, rtol=0, atol=case.tolerance["crop"]["atol"])
    points = np.array(case.wflw_98_points)
    crop = ffhq_crop(points[:68])
    expected = {
        "five_from_98": five_from_98(points),
        "five_from_68": five_from_68(points[:68]),
        "ffhq_dataset_quad_from_68": crop.quad,
        "ffhq_dataset_qsize": [crop.size],
    }
    for name, value in expected.items():
        five = name.startswith("five")
        case.check(value, name, rtol=0, atol=case.tolerance["five_from_*" if five else "source_quad"]["atol"])


CONSISID_KINDS = {"demo_data": check_demo_data}
CONSISTI2V_KINDS = {"frame_sampling": check_frame_sampling}
SVD_XTEND_KINDS = {"tracklet_data": check_tracklet_data}
CELEB_BASIS_KINDS = {"alignment": check_alignment}
