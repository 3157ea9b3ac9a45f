"""ConsisID against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/consisid`."""

import re

import numpy as np
import pytest

from likeness.datamodules.faces import FaceMask
from likeness.datamodules.frame_selection import ConsisIDFrames, repeat_to, segments, valid_people
from likeness.datamodules.images import ResizeAndCrop, resize_and_crop_geometry
from likeness.datamodules.interim import Clip
from likeness.datamodules.masks import MASKS, decode_masks
from likeness.datamodules.samples import Sample
from likeness.datamodules.video import get_reader
from likeness.models.identity.crops import expanded_box, square_box
from likeness.models.identity.masks import latent_mask
from likeness.preparation.clips import clip_sample
from likeness.preparation.sources.consisid import ConsisID

from .checks_identity import CONSISID_KINDS
from .demo import shared_data
from .golden import Case, manifests


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


KINDS = {"demo_data": check_demo_data, **CONSISID_KINDS}


@pytest.mark.parametrize("path", manifests("consisid"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
