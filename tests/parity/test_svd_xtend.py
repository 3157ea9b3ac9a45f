"""SVD Xtend against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/svd_xtend`."""

import re

import numpy as np
import pytest
import torch

from likeness.datamodules import tracklets
from likeness.datamodules.conditions import Clip
from likeness.datamodules.frames import ChosenFrames
from likeness.datamodules.images import Stretch
from likeness.datamodules.samples import Sample
from likeness.datamodules.tracklets import Tracklets
from likeness.preparation.sources.tracks import TrackBox, tracks_of

from .golden import Case, manifests


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


KINDS = {"tracklet_data": check_tracklet_data}


@pytest.mark.parametrize("path", manifests("svd_xtend"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
