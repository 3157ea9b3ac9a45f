"""Celeb Basis against numbers of the original implementation: one test a manifest of `$LIKENESS_GOLDEN/celeb_basis`."""

import pytest

from .checks_identity import CELEB_BASIS_KINDS
from .golden import Case, manifests

KINDS = {**CELEB_BASIS_KINDS}


@pytest.mark.parametrize("path", manifests("celeb_basis"), ids=lambda path: path.stem)
def test_matches_the_original(path):
    case = Case(path)
    assert case.kind in KINDS, f"{path}: unknown kind {case.kind}"
    KINDS[case.kind](case)
