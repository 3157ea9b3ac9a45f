"""SVD Xtend against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/svd_xtend`."""

import pytest

from .checks_data import SVD_XTEND_KINDS
from .checks_svd import SVD_MODEL_KINDS
from .checks_tracklets import TRACKLET_KINDS
from .golden import Case, manifests

KINDS = {**SVD_XTEND_KINDS, **SVD_MODEL_KINDS, **TRACKLET_KINDS}


@pytest.mark.parametrize("path", manifests("svd_xtend"), ids=lambda path: path.stem)
def test_equals_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
