"""Celeb Basis against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/celeb_basis`."""

import re

import numpy as np
import pytest

from likeness.models.identity.alignment import alignment, ffhq_crop, five_from_68, five_from_98, source_quad
from likeness.models.identity.references import warp

from .checks_identity import CELEB_BASIS_KINDS
from .golden import Case, manifests


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


KINDS = {"alignment": check_alignment, **CELEB_BASIS_KINDS}


@pytest.mark.parametrize("path", manifests("celeb_basis"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
