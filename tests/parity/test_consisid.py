"""ConsisID against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/consisid`."""

import pytest

from .checks_identity import CONSISID_KINDS
from .golden import Case, manifests

KINDS = {**CONSISID_KINDS}


@pytest.mark.parametrize("path", manifests("consisid"), ids=lambda path: path.stem)
def test_matches_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
